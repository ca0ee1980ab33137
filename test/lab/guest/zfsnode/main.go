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
	"flag"
	"log"
	"os/signal"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/kubectl-dr/kubectl-dr/test/lab/guest/driver"
)

const (
	driverName  = "zfs.csi.openebs.io"
	topologyKey = "openebs.io/nodeid"
	poolKey     = "openebs.io/poolname"
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
	d := driver.Driver{
		Name: driverName, Socket: *socket,
		Services: []csi.PluginCapability_Service_Type{csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS},
		Register: func(s *grpc.Server) { csi.RegisterNodeServer(s, &nodeServer{node: *node}) },
	}
	if err := d.Serve(ctx); err != nil {
		log.Fatal(err)
	}
}
