// Command zfsnode stands in, on the rig's nodes, for the node part of OpenEBS
// ZFS-LocalPV: it is a CSI driver of that name which mounts volumes where
// kubelet wants them. It does not make volumes; the rig and the product do.
//
// What it shares with the original: the driver's name, the topology key, the
// dataset being <openebs.io/poolname>/<volume handle>, datasets mounted as
// legacy mounts, and ZFS volumes formatted when first used.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const (
	driverName  = "zfs.csi.openebs.io"
	topologyKey = "openebs.io/nodeid"
	poolKey     = "openebs.io/poolname"

	registrySocket = "/var/lib/kubelet/plugins_registry/" + driverName + "-reg.sock"
)

func main() {
	node := flag.String("node", "", "name of this node")
	socket := flag.String("socket", "", "Unix socket to serve kubelet on")
	flag.Parse()
	if *node == "" || *socket == "" {
		log.Fatal("both --node and --socket are needed")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := serve(ctx, *node, *socket); err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, node, socket string) error {
	driver, registrar := grpc.NewServer(grpc.UnaryInterceptor(logErrors)), grpc.NewServer()
	csi.RegisterIdentityServer(driver, identity{})
	csi.RegisterNodeServer(driver, &nodeServer{node: node})
	registration.RegisterRegistrationServer(registrar, registrationServer{endpoint: socket})
	servers, ctx := errgroup.WithContext(ctx)
	// kubelet connects to the driver as soon as it sees the registrar.
	for _, s := range []struct {
		path   string
		server *grpc.Server
	}{{socket, driver}, {registrySocket, registrar}} {
		listener, err := listen(s.path)
		if err != nil {
			return err
		}
		servers.Go(func() error { return s.server.Serve(listener) })
		context.AfterFunc(ctx, s.server.Stop)
	}
	return servers.Wait()
}

func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}

func logErrors(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if err != nil {
		log.Printf("%s: %v", info.FullMethod, err)
	}
	return resp, err
}

// registrationServer introduces the driver to kubelet.
type registrationServer struct {
	registration.UnimplementedRegistrationServer
	endpoint string
}

func (s registrationServer) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: driverName, Endpoint: s.endpoint,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (s registrationServer) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if status.GetPluginRegistered() {
		return &registration.RegistrationStatusResponse{}, nil
	}
	// The supervisor starts it again, and kubelet tries again.
	return nil, fmt.Errorf("register with kubelet: %s", status.GetError())
}

type identity struct {
	csi.UnimplementedIdentityServer
}

func (identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: driverName, VendorVersion: "rig"}, nil
}

func (identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{
		Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{
			Type: csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS,
		}},
	}}}, nil
}

func (identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}
