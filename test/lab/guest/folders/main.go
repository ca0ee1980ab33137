// Command folders is a CSI driver for tests: a volume is a folder of the node, and a
// snapshot of it a copy. It has the part that makes volumes and snapshots, which
// sidecars ask for, and the part that mounts them for kubelet.
//
// Several nodes have a driver each that knows nothing of the others: it is for clusters
// of one node.
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

func main() {
	name := flag.String("name", "", "name of the driver")
	node := flag.String("node", "", "name of this node")
	socket := flag.String("socket", "", "Unix socket to serve kubelet and sidecars on")
	folder := flag.String("folder", "", "where volumes and snapshots are")
	flag.Parse()
	if *name == "" || *node == "" || *socket == "" || *folder == "" {
		log.Fatal("--name, --node, --socket and --folder are needed")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s := &store{folder: *folder}
	d := driver.Driver{
		Name: *name, Socket: *socket,
		Services: []csi.PluginCapability_Service_Type{csi.PluginCapability_Service_CONTROLLER_SERVICE},
		Register: func(server *grpc.Server) {
			csi.RegisterControllerServer(server, &controller{store: s})
			csi.RegisterNodeServer(server, &nodeServer{store: s, node: *node})
		},
	}
	if err := d.Serve(ctx); err != nil {
		log.Fatal(err)
	}
}
