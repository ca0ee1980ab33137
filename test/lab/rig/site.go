package rig

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/test/lab/manifests"
	"github.com/kubectl-dr/kubectl-dr/test/lab/pki"
	"github.com/kubectl-dr/kubectl-dr/test/lab/proc"
	"github.com/kubectl-dr/kubectl-dr/test/lab/vm"
)

// site is one cluster with the Velero server beside it.
type site struct {
	name string
	// readOnly keeps Velero here from writing or expiring backups.
	readOnly       bool
	storageClasses []manifests.StorageClass
	// location is what its volume snapshot location has beyond the common part.
	location map[string]string
}

// The sites' names, and those of their clusters.
const primary, recovery = "primary", "dr"

var sites = []site{
	{
		name: primary,
		storageClasses: []manifests.StorageClass{
			{Name: "zfs-storage-znvm", Pool: "znvm/k3s"},
			{Name: "zfs-storage-nas", Pool: "nas/k3s"},
		},
	},
	{
		name: recovery, readOnly: true,
		storageClasses: []manifests.StorageClass{
			{Name: "zfs-storage-znvm-dr", Pool: "backup/znvm/k3s"},
			{Name: "zfs-storage-nas-dr", Pool: "backup/nas/k3s"},
		},
		location: map[string]string{
			"restoreNode": "remote",
			"restoreMode": "clone",
		},
	},
}

// furnished are the sites whose clusters are given objects. One cluster has what both
// have.
func (r *Rig) furnished() []site {
	if !r.state.OneCluster {
		return sites
	}
	one := sites[0]
	one.storageClasses = slices.Concat(one.storageClasses, sites[1].storageClasses)
	one.location = sites[1].location
	return []site{one}
}

// replicas is the dataset on the node "remote" below which replicas lie.
const replicas = "backup/replica"

func subjects() (map[string]pki.Subject, pki.Subject) {
	all := map[string]pki.Subject{
		"admin": {CommonName: "admin", Organizations: []string{"system:masters"}},
		"control-plane": {CommonName: "control-plane", Hosts: []string{
			"127.0.0.1", vm.HostAddress, "10.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}},
		"controller-manager": {CommonName: "system:kube-controller-manager"},
		"scheduler":          {CommonName: "system:kube-scheduler"},
		"kube-proxy":         {CommonName: "system:kube-proxy"},
		"kubelet-client":     {CommonName: "kube-apiserver-kubelet-client", Organizations: []string{"system:masters"}},
		"velero":             {CommonName: "velero"},
		"kubectl-dr":         {CommonName: "kubectl-dr"},
	}
	for _, n := range nodes {
		all["kubelet-"+n.name] = pki.Subject{
			CommonName: "system:node:" + n.name, Organizations: []string{"system:nodes"}, Hosts: []string{n.name, "127.0.0.1"}}
		all["agent-"+n.name] = pki.Subject{CommonName: n.name, Hosts: []string{n.name}}
	}
	return all, pki.Subject{CommonName: "velero"}
}

func portNames() []string {
	names := []string{"s3"}
	for _, s := range sites {
		for _, part := range []string{"etcd", "etcd-peers", "apiserver", "controller-manager", "scheduler", "velero"} {
			names = append(names, s.name+"/"+part)
		}
	}
	for _, n := range nodes {
		names = append(names, n.name+"/kubelet", n.name+"/agent", n.name+"/ssh", n.name+"/link")
	}
	return names
}

func (r *Rig) port(name string) int { return r.state.Ports[name] }

// writeHosts leads node names to this machine, where the port of each kubelet
// is forwarded to its guest.
func (r *Rig) writeHosts() error {
	line := "127.0.0.1 localhost"
	for _, n := range nodes {
		line += " " + n.name
	}
	return replaceFile(r.hosts(), []byte(line+"\n"), 0o644)
}

func (r *Rig) writeKubeconfigs() error {
	var both []access
	write := func(name string, all ...access) error {
		data, err := kubeconfig(r.PKI(), all...)
		if err != nil {
			return err
		}
		return replaceFile(r.Kubeconfig(name), data, 0o600)
	}
	for _, s := range sites {
		admin := access{context: s.name, server: r.Server(s.name), pair: "admin"}
		both = append(both, admin)
		if err := write(s.name, admin); err != nil {
			return err
		}
		for _, component := range []string{"controller-manager", "scheduler"} {
			a := access{context: s.name, server: r.Server(s.name), pair: component}
			if err := write(s.name+"-"+component, a); err != nil {
				return err
			}
		}
	}
	return write("both", both...)
}

func (r *Rig) planeParts(s site) []part {
	name := func(component string) string { return s.name + "/" + component }
	etcd, peers := local(r.port(name("etcd"))), local(r.port(name("etcd-peers")))
	certs := []string{
		"--tls-cert-file=" + r.PKI().Cert("control-plane"),
		"--tls-private-key-file=" + r.PKI().Key("control-plane"),
		"--bind-address=127.0.0.1",
	}
	// secure is a part of the control plane that serves with these certificates.
	secure := func(component, path string, needs []string, hosts string, args ...string) part {
		port := r.port(name(component))
		return part{
			name: name(component), needs: needs, port: port,
			start: func(context.Context) (proc.ID, error) {
				argv := append([]string{r.set.Bin("kube-" + component), fmt.Sprintf("--secure-port=%d", port)}, certs...)
				return r.run(name(component), proc.Spec{Argv: append(argv, args...), Hosts: hosts})
			},
			ready: func(ctx context.Context) error { return r.adminReady(ctx, "https://"+local(port)+path) },
		}
	}
	apiserver := secure("apiserver", "/readyz", []string{name("etcd")}, r.hosts(),
		"--etcd-servers=http://"+etcd,
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--client-ca-file="+r.PKI().CA(),
		"--kubelet-certificate-authority="+r.PKI().CA(),
		"--kubelet-client-certificate="+r.PKI().Cert("kubelet-client"),
		"--kubelet-client-key="+r.PKI().Key("kubelet-client"),
		"--kubelet-preferred-address-types=Hostname",
		"--service-account-key-file="+r.PKI().Key(pki.ServiceAccountKey),
		"--service-account-signing-key-file="+r.PKI().Key(pki.ServiceAccountKey),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-cluster-ip-range=10.0.0.0/24,fd00:10::/112",
		"--endpoint-reconciler-type=none",
		"--allow-privileged=true",
		"--profiling=false",
	)
	return []part{
		{
			name: name("etcd"), port: r.port(name("etcd")),
			start: func(context.Context) (proc.ID, error) {
				return r.run(name("etcd"), proc.Spec{Argv: []string{
					r.set.Bin("etcd"), "--data-dir=" + r.EtcdData(s.name),
					"--listen-client-urls=http://" + etcd, "--advertise-client-urls=http://" + etcd,
					"--listen-peer-urls=http://" + peers, "--initial-advertise-peer-urls=http://" + peers,
					"--initial-cluster=default=http://" + peers,
					// What is in a rig need not survive a power cut.
					"--unsafe-no-fsync",
				}})
			},
			ready: func(ctx context.Context) error { return httpReady(ctx, http.DefaultClient, "http://"+etcd+"/health") },
		},
		apiserver,
		secure("controller-manager", "/healthz", []string{name("apiserver")}, "",
			"--kubeconfig="+r.Kubeconfig(s.name+"-controller-manager"),
			"--service-account-private-key-file="+r.PKI().Key(pki.ServiceAccountKey),
			"--root-ca-file="+r.PKI().CA(),
			"--use-service-account-credentials",
			"--leader-elect=false",
		),
		secure("scheduler", "/healthz", []string{name("apiserver")}, "",
			"--kubeconfig="+r.Kubeconfig(s.name+"-scheduler"),
			"--leader-elect=false",
		),
	}
}

// siteSteps are what a site needs beyond its processes.
func (r *Rig) siteSteps(s site) []step {
	return []step{
		{
			name: s.name + "/objects", needs: []string{s.name + "/apiserver"},
			do: func(ctx context.Context) (string, error) { return r.applyObjects(ctx, s) },
		},
		{
			name: s.name + "/backup-location", needs: []string{s.name + "/velero", "s3"},
			do: func(ctx context.Context) (string, error) {
				_, err := r.kubectl(ctx, s.name, nil, "wait", "--namespace=velero", "--timeout=60s",
					"--for=jsonpath={.status.phase}=Available", "backupstoragelocation/default")
				return "available", err
			},
		},
	}
}

// applyObjects puts definitions, storage classes and Velero's settings into the cluster.
func (r *Rig) applyObjects(ctx context.Context, s site) (string, error) {
	crds, err := r.crds(ctx)
	if err != nil {
		return "", err
	}
	if err := r.apply(ctx, s, crds); err != nil {
		return "", err
	}
	if _, err := r.kubectl(ctx, s.name, nil, "wait", "--timeout=60s", "--for=condition=Established", "crd", "--all"); err != nil {
		return "", err
	}
	bundle, err := os.ReadFile(r.PKI().Bundle("velero"))
	if err != nil {
		return "", err
	}
	objects, err := manifests.Site{
		StorageClasses: s.storageClasses,
		S3URL:          "http://" + local(r.port("s3")),
		Bucket:         bucket,
		ReadOnly:       s.readOnly,
		Location:       r.location(s),
		ClientBundle:   base64.StdEncoding.EncodeToString(bundle),
	}.YAML()
	if err != nil {
		return "", err
	}
	return "applied", r.apply(ctx, s, objects)
}

// location is the configuration of the site's volume snapshot location.
func (r *Rig) location(s site) map[string]string {
	source, target := nodes[0].name, nodes[1].name
	location := map[string]string{
		"agents":         r.agents(),
		"target":         target,
		"targetAddress":  fmt.Sprintf("%s:%d", vm.HostAddress, r.port(target+"/agent")),
		"targetPrefix":   replicas,
		"restoreParents": "znvm/k3s=backup/znvm/k3s,nas/k3s=backup/nas/k3s",
	}
	if !r.state.OneCluster {
		// And after a failover the other way.
		location["failbackTarget"] = source
		location["failbackTargetAddress"] = fmt.Sprintf("%s:%d", vm.HostAddress, r.port(source+"/agent"))
		location["failbackPrefix"] = "replica"
	}
	maps.Copy(location, s.location)
	return location
}

// agents are the addresses of all agents, as a volume snapshot location names them.
func (r *Rig) agents() string {
	var all []string
	for _, n := range nodes {
		all = append(all, n.name+"="+r.AgentAddress(n.name))
	}
	return strings.Join(all, ",")
}

// Etcd is where the site's etcd is reached from this machine.
func (r *Rig) Etcd(site string) string { return "http://" + local(r.port(site+"/etcd")) }

// Server is where the site's API is reached from this machine.
func (r *Rig) Server(site string) string { return "https://" + local(r.port(site+"/apiserver")) }

// AgentAddress is where the node's agent is reached from this machine; the
// name to verify it by is the node's.
func (r *Rig) AgentAddress(node string) string { return local(r.port(node + "/agent")) }

// crds are Velero's definitions as its own release has them, those of other
// projects, and the product's.
func (r *Rig) crds(ctx context.Context) ([]byte, error) {
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, r.set.Bin("velero"), "install", "--crds-only", "--dry-run", "--output=yaml")
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("get Velero's definitions: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	others, err := manifests.CRDs()
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(&out, "\n%s", others)
	files, err := filepath.Glob(filepath.Join(r.state.CRDs, "*.yaml"))
	if err != nil || r.state.CRDs == "" {
		return out.Bytes(), err
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, "\n---\n%s", data)
	}
	return out.Bytes(), nil
}

func (r *Rig) apply(ctx context.Context, s site, objects []byte) error {
	_, err := r.kubectl(ctx, s.name, objects, "apply", "--server-side", "--force-conflicts", "--filename=-")
	return err
}

// kubectl runs kubectl as the site's administrator and returns what it prints.
func (r *Rig) kubectl(ctx context.Context, site string, stdin []byte, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, r.set.Bin("kubectl"), append([]string{"--kubeconfig=" + r.Kubeconfig(site)}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", errors.Join(ctx.Err(), fmt.Errorf("kubectl %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes())))
	}
	return strings.TrimSpace(stdout.String()), nil
}
