package rig

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/test/lab/build"
	"github.com/kubectl-dr/kubectl-dr/test/lab/guest/guestcfg"
	"github.com/kubectl-dr/kubectl-dr/test/lab/proc"
	"github.com/kubectl-dr/kubectl-dr/test/lab/vm"
)

// node is one machine.
type node struct {
	name string
	// site is where it is.
	site  string
	disks []vm.Disk
	// number distinguishes its addresses.
	number int
	// taint, if any, is put on the node.
	taint string
	// receives are the datasets below which the other node's agent may append
	// replicas.
	receives []string
}

var nodes = []node{
	{
		name: "hassio", site: primary, number: 1,
		disks: []vm.Disk{
			{Pool: "znvm", SizeGB: 8, Datasets: []string{"znvm/k3s"}},
			{Pool: "nas", SizeGB: 8, Datasets: []string{"nas/k3s"}},
		},
		receives: []string{"znvm/replica", "nas/replica"},
	},
	{
		name: "remote", site: recovery, number: 2, taint: "dedicated=remote:NoSchedule",
		disks: []vm.Disk{
			{Pool: "backup", SizeGB: 16, Datasets: []string{replicas, "backup/znvm/k3s", "backup/nas/k3s"}},
			{Pool: "bulk", SizeGB: 8},
		},
		receives: []string{replicas},
	},
}

const (
	agentPort = 7443
	// podMemory and lightMemory are what a machine gets, in MiB, with and
	// without pods.
	podMemory, lightMemory = 2048, 1024
	// nodeAddress is a guest's own in the network it shares with this machine;
	// every guest has the same.
	nodeAddress = "10.0.2.15"
)

// sharedDisks are the serial numbers of the disks of a stretched rig: one would be at
// each site.
var sharedDisks = []string{"site-a", "site-b"}

func (n node) linkAddress() string { return fmt.Sprintf("10.77.0.%d", n.number) }
func (n node) podSubnet() string   { return fmt.Sprintf("10.78.%d.0/24", n.number) }

// peer is the other node.
func (n node) peer() node {
	if n.name == nodes[0].name {
		return nodes[1]
	}
	return nodes[0]
}

// config is where a file that the rig gives the guest is, for the guest.
func config(name string) string { return path.Join(guestcfg.Dir, name) }

// hasAgent reports whether there is an agent to run.
func (r *Rig) hasAgent() bool {
	_, err := os.Stat(r.state.Agent)
	return err == nil
}

// machine describes the node's machine as far as it takes to find it again.
func (r *Rig) machine(n node) vm.Machine {
	return vm.Machine{Name: n.name, Dir: r.in("node", n.name), SSHPort: r.port(n.name + "/ssh")}
}

// bootable describes the node's machine completely.
func (r *Rig) bootable(n node) vm.Machine {
	m := r.machine(n)
	m.CPUs, m.MemoryMB = 2, lightMemory
	m.Kernel, m.Initrd, m.Root = r.set.Kernel, r.set.Initrd, r.set.Root
	m.Disks = n.disks
	m.Forwards = []vm.Forward{{HostPort: r.port(n.name + "/agent"), GuestPort: agentPort}}
	m.Link = vm.Link{LocalPort: r.port(n.name + "/link"), RemotePort: r.port(n.peer().name + "/link")}
	m.Files = map[string]string{}
	m.Guest = guestcfg.Config{
		Link: guestcfg.Link{Address: n.linkAddress() + "/24"},
		Hosts: map[string][]string{
			n.linkAddress():        {n.name},
			n.peer().linkAddress(): {n.peer().name},
		},
	}
	if r.state.Stretched {
		for _, name := range sharedDisks {
			m.Shared = append(m.Shared, vm.SharedDisk{Serial: name, File: r.in("node", name+".img"), SizeGB: 4})
		}
		m.Guest.Services = append(m.Guest.Services, guestcfg.HostID(n.number))
	}
	if r.hasAgent() {
		m.Files["bin/zfs-agent"] = r.state.Agent
		m.Files["agent.yaml"] = r.in("config", n.name, "agent.yaml")
		m.Files["pki/agent.pem"] = r.PKI().Bundle("agent-" + n.name)
		m.Files["archive.yaml"] = r.in("config", n.name, "archive.yaml")
		m.Files["s3-credentials"] = r.S3Credentials()
		m.Guest.Services = append(m.Guest.Services, guestcfg.Service{
			Name: "zfs-agent",
			Argv: []string{config("bin/zfs-agent"), "serve", "--node=" + n.name, fmt.Sprintf("--listen=:%d", agentPort),
				"--tls=" + config("pki/agent.pem"), "--config=" + config("agent.yaml"), "--archive=offsite=" + config("archive.yaml")},
			Ready: &guestcfg.Probe{TCP: local(agentPort)},
		})
		if agent := &m.Guest.Services[len(m.Guest.Services)-1]; r.state.Stretched {
			// Without udev, zpool waits for links that never come.
			agent.Argv = append(agent.Argv, "--pool-devices=/dev")
		}
	}
	if !r.state.Light {
		r.addKubelet(&m, n)
	}
	return m
}

// addKubelet makes the machine a node of its cluster.
func (r *Rig) addKubelet(m *vm.Machine, n node) {
	port := r.port(n.name + "/kubelet")
	m.MemoryMB = podMemory
	m.Forwards = append(m.Forwards, vm.Forward{HostPort: port, GuestPort: port})
	m.Guest.PodSubnet = n.podSubnet()
	m.Guest.Link.Routes = []guestcfg.Route{{Destination: n.peer().podSubnet(), Via: n.peer().linkAddress()}}
	m.Files["kubelet.yaml"] = r.in("config", n.name, "kubelet.yaml")
	m.Files["kubeconfig.yaml"] = r.in("config", n.name, "kubeconfig.yaml")
	m.Files["pki/ca.crt"] = r.PKI().CA()
	m.Files["pki/kubelet.crt"] = r.PKI().Cert("kubelet-" + n.name)
	m.Files["pki/kubelet.key"] = r.PKI().Key("kubelet-" + n.name)
	m.Guest.Services = append(m.Guest.Services, guestcfg.Containerd())
	images := []string{"pause", "busybox"}
	if r.state.WordPress {
		images = append(images, build.WordPress...)
	}
	for _, name := range images {
		file := path.Join("images", name+".tar")
		m.Files[file] = r.set.Image(name)
		m.Guest.Services = append(m.Guest.Services, guestcfg.ImportImage(config(file)))
	}
	m.Guest.Services = append(m.Guest.Services, guestcfg.ZFSNode(n.name),
		guestcfg.Kubelet(n.name, nodeAddress, config("kubelet.yaml"), config("kubeconfig.yaml")))
	if r.state.WordPress {
		m.Files["bin/kube-proxy"] = r.set.Bin("kube-proxy")
		m.Files["kube-proxy.yaml"] = r.in("config", n.name, "kube-proxy.yaml")
		m.Guest.Services = append(m.Guest.Services, guestcfg.KubeProxy(config("bin/kube-proxy"), n.name, n.podSubnet(), config("kube-proxy.yaml")))
	}
}

// writeNodeFiles writes what machine gives to the guest.
func (r *Rig) writeNodeFiles(n node) error {
	type object = map[string]any
	write := func(name string, content any) error {
		data, err := yaml.Marshal(content)
		if err != nil {
			return err
		}
		return replaceFile(r.in("config", n.name, name), data, 0o600)
	}
	all := []string{"*"}
	agent := write("agent.yaml", object{"identities": []object{
		{"name": "velero", "verbs": all, "prefixes": all},
		{"name": "kubectl-dr", "verbs": all, "prefixes": all},
		{"name": n.peer().name, "verbs": []string{"read", "receive"}, "prefixes": n.receives},
	}})
	archive := write("archive.yaml", object{
		"type": "S3", "part_size": "4Mi", "concurrency": 2,
		"config": object{
			"bucket": archiveBucket, "endpoint": fmt.Sprintf("%s:%d", vm.HostAddress, r.port("s3")), "region": "us-east-1",
			"bucket_lookup_type": "path", "insecure": true, "credentials_file": config("s3-credentials"),
		},
	})
	kubelet := write("kubelet.yaml", object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"authentication": object{
			"anonymous": object{"enabled": false}, "webhook": object{"enabled": true},
			"x509": object{"clientCAFile": config("pki/ca.crt")},
		},
		"authorization":            object{"mode": "Webhook"},
		"tlsCertFile":              config("pki/kubelet.crt"),
		"tlsPrivateKeyFile":        config("pki/kubelet.key"),
		"port":                     r.port(n.name + "/kubelet"),
		"cgroupDriver":             "cgroupfs",
		"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
		"resolvConf":               "/etc/resolv.conf",
		"failSwapOn":               false,
		"makeIPTablesUtilChains":   false,
		// A guest is small on purpose, and what pods use is neither looked at nor bounded.
		"evictionHard":                  object{"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%", "imagefs.inodesFree": "0%"},
		"localStorageCapacityIsolation": false,
		"cgroupsPerQOS":                 false,
		"enforceNodeAllocatable":        []string{},
	})
	reach := func(name, pair string) error {
		data, err := kubeconfig(r.PKI(), access{
			context: r.cluster(n), pair: pair,
			server: fmt.Sprintf("https://%s:%d", vm.HostAddress, r.port(r.cluster(n)+"/apiserver")),
		})
		if err != nil {
			return err
		}
		return replaceFile(r.in("config", n.name, name), data, 0o600)
	}
	errs := []error{agent, archive, kubelet, reach("kubeconfig.yaml", "kubelet-"+n.name)}
	if r.state.WordPress {
		errs = append(errs, reach("kube-proxy.yaml", "kube-proxy"))
	}
	return errors.Join(errs...)
}

// machinePart is the node's machine with all that runs in it.
func (r *Rig) machinePart(n node) part {
	m := r.machine(n)
	var within time.Duration
	if r.state.WordPress {
		within = importAfter
	}
	return part{
		name: n.name, port: m.SSHPort, log: m.Console(), abrupt: true, within: within,
		start: func(ctx context.Context) (proc.ID, error) {
			if !r.hasAgent() {
				r.progress.tell("warning", fmt.Sprintf("no agent %q: %s runs without it", r.state.Agent, n.name))
			}
			if err := r.writeNodeFiles(n); err != nil {
				return proc.ID{}, err
			}
			m := r.bootable(n)
			if err := m.Prepare(ctx); err != nil {
				return proc.ID{}, err
			}
			return m.Start(r.mark(n.name))
		},
		ready: func(ctx context.Context) error {
			if err := m.Wait(ctx, r.process(n.name), guestcfg.StageReady); err != nil || !r.hasAgent() {
				return err
			}
			return r.agentReady(ctx, n)
		},
	}
}

// agentReady makes a connection as Velero's plugin does.
func (r *Rig) agentReady(ctx context.Context, n node) error {
	config, err := r.tlsConfig("velero")
	if err != nil {
		return err
	}
	config.ServerName = n.name
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", r.AgentAddress(n.name))
	if err != nil {
		return fmt.Errorf("reach agent: %w", err)
	}
	return conn.Close()
}

// cluster is the one that the machine is a node of.
func (r *Rig) cluster(n node) string {
	if r.state.OneCluster {
		return primary
	}
	return n.site
}

// joinStep makes the machine's node known for what it is.
func (r *Rig) joinStep(n node) step {
	in := r.cluster(n)
	return step{
		name: n.name + "/joined", needs: []string{n.name, in + "/apiserver"},
		do: func(ctx context.Context) (string, error) { return "ready in cluster " + in, r.join(ctx, n, in) },
	}
}

// join waits until the machine is a node of the cluster and says there what it is.
func (r *Rig) join(ctx context.Context, n node, in string) error {
	var boot strings.Builder
	code, err := r.Exec(ctx, n.name, []string{"cat", "/proc/sys/kernel/random/boot_id"}, Streams{Out: &boot})
	if err != nil || code != 0 {
		return errors.Join(err, fmt.Errorf("read the boot's identity: exit status %d", code))
	}
	object := "node/" + n.name
	// A node that has just started again is still called ready from before; the
	// identity of its boot tells when its own word is there.
	for _, condition := range []string{
		"create",
		"jsonpath={.status.nodeInfo.bootID}=" + strings.TrimSpace(boot.String()),
		"condition=Ready",
	} {
		if _, err := r.kubectl(ctx, in, nil, "wait", "--timeout=3m", "--for="+condition, object); err != nil {
			return err
		}
	}
	if _, err := r.kubectl(ctx, in, nil, "label", "--overwrite", object, "openebs.io/nodeid="+n.name); err != nil {
		return err
	}
	if n.taint == "" {
		return nil
	}
	_, err = r.kubectl(ctx, in, nil, "taint", "--overwrite", "node", n.name, n.taint)
	return err
}
