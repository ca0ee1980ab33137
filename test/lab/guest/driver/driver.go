// Package driver has what the rig's CSI drivers have in common: what they are called,
// and how they introduce themselves to kubelet.
package driver

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Driver is a CSI driver of one node.
type Driver struct {
	Name string
	// Socket is the one on which kubelet, and whoever controls the driver, reach it.
	Socket string
	// Services are its capabilities.
	Services []csi.PluginCapability_Service_Type
	// Register adds what the driver does to the server.
	Register func(*grpc.Server)
}

// Serve serves until the context ends.
func (d Driver) Serve(ctx context.Context) error {
	driver, registrar := grpc.NewServer(grpc.UnaryInterceptor(logErrors)), grpc.NewServer()
	csi.RegisterIdentityServer(driver, identity{driver: d})
	d.Register(driver)
	registration.RegisterRegistrationServer(registrar, registrationServer{driver: d})
	servers, ctx := errgroup.WithContext(ctx)
	// kubelet connects to the driver as soon as it sees the registrar.
	for _, s := range []struct {
		path   string
		server *grpc.Server
	}{{d.Socket, driver}, {"/var/lib/kubelet/plugins_registry/" + d.Name + "-reg.sock", registrar}} {
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
	driver Driver
}

func (s registrationServer) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: s.driver.Name, Endpoint: s.driver.Socket,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (s registrationServer) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if status.GetPluginRegistered() {
		return &registration.RegistrationStatusResponse{}, nil
	}
	// What supervises it starts it again, and kubelet tries again.
	return nil, fmt.Errorf("register with kubelet: %s", status.GetError())
}

type identity struct {
	csi.UnimplementedIdentityServer
	driver Driver
}

func (i identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: i.driver.Name, VendorVersion: "rig"}, nil
}

func (i identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	resp := &csi.GetPluginCapabilitiesResponse{}
	for _, service := range i.driver.Services {
		resp.Capabilities = append(resp.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: service}},
		})
	}
	return resp, nil
}

func (identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}
