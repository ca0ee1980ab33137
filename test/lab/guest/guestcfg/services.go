package guestcfg

import (
	"fmt"
	"path"
)

// The programs of a Kubernetes node lie in the guest's image; the rig decides
// which of them run, and in which order.

const containerdSocket = "/run/containerd/containerd.sock"

// frugal has a Go program signal, collect and wake up less, which an emulator pays
// dearly for. It takes memory instead.
var frugal = []string{"GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1", "GOGC=400"}

// HostID gives the guest the identity that ZFS writes into the pools it has open.
func HostID(number int) Service {
	return Service{Name: "hostid", Argv: []string{"zgenhostid", "-f", fmt.Sprintf("%08x", number)}, Once: true}
}

// Containerd runs pods' containers. The guest writes its configuration.
func Containerd() Service {
	return Service{
		Name:  "containerd",
		Argv:  []string{"containerd"},
		Env:   frugal,
		Ready: &Probe{Socket: containerdSocket},
	}
}

// ImportImage gives containerd an image from a tar file, such as one below Dir.
func ImportImage(tar string) Service {
	name := path.Base(tar)
	return Service{
		Name: "import-" + name[:len(name)-len(path.Ext(name))],
		Argv: []string{"ctr", "--namespace=k8s.io", "images", "import", tar},
		Once: true,
	}
}

// Kubelet runs the node called name. The files are the kubelet's configuration,
// which must name containerd's socket and the cgroupfs driver, and its kubeconfig.
func Kubelet(name, nodeIP, config, kubeconfig string) Service {
	return Service{
		Name: "kubelet",
		Argv: []string{"kubelet",
			"--config=" + config, "--kubeconfig=" + kubeconfig,
			"--hostname-override=" + name, "--node-ip=" + nodeIP,
			// How often cgroups are read, of which nothing here makes use.
			"--housekeeping-interval=1m"},
		Env: frugal,
	}
}

// KubeProxy leads the addresses of Services to pods, those of the node's own among
// them. Limits of the kernel stay as they are.
func KubeProxy(program, name, podSubnet, kubeconfig string) Service {
	return Service{
		Name: "kube-proxy",
		Argv: []string{program, "--kubeconfig=" + kubeconfig, "--hostname-override=" + name, "--cluster-cidr=" + podSubnet,
			"--proxy-mode=iptables", "--conntrack-max-per-core=0"},
	}
}

// ZFSNode stands in for the node part of OpenEBS ZFS-LocalPV: it mounts the
// datasets of volumes of the driver zfs.csi.openebs.io for kubelet.
func ZFSNode(node string) Service {
	const socket = "/var/lib/kubelet/plugins/zfs.csi.openebs.io/csi.sock"
	return Service{
		Name:  "zfsnode",
		Argv:  []string{"zfsnode", "--node=" + node, "--socket=" + socket},
		Ready: &Probe{Socket: socket},
	}
}
