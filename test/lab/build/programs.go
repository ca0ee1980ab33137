package build

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// part is a module below parts, whose tools are programs of one upstream.
type part struct {
	name string
	// module is the upstream, whose version in go.mod is filled in for VERSION
	// in ldflags, its minor number for MINOR.
	module  string
	tags    string
	ldflags string
	// tools are programs of the host, as in hostTools, that go with it.
	tools []string
	// programs are what the tools are called here, by what go build calls them.
	programs map[string]string
}

// objectStore is the one part that hosts without Kubernetes need too.
const objectStore = "s3"

var parts = []part{
	{
		name: "kubernetes", module: "k8s.io/kubernetes",
		ldflags: "-X k8s.io/component-base/version.gitVersion=VERSION" +
			" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=MINOR",
		programs: same("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet"),
	},
	{
		name: "containerd", module: "github.com/containerd/containerd/v2", tags: "no_btrfs no_devmapper",
		programs: same("containerd", "containerd-shim-runc-v2", "ctr"),
	},
	{name: "etcd", module: "go.etcd.io/etcd/server/v3", programs: map[string]string{"server": "etcd"}},
	{
		name: "velero", module: "github.com/vmware-tanzu/velero",
		// Beside its own metrics the server opens those of its library, on a fixed
		// port that no flag changes: two servers on one machine need it closed.
		ldflags: "-X github.com/vmware-tanzu/velero/pkg/buildinfo.Version=VERSION" +
			" -X sigs.k8s.io/controller-runtime/pkg/metrics/server.DefaultBindAddress=0",
		programs: same("velero", "velero-restore-helper"),
	},
	{
		name: "velero-plugin-for-aws", module: "github.com/vmware-tanzu/velero-plugin-for-aws",
		programs: same("velero-plugin-for-aws"),
	},
	{name: objectStore, module: "github.com/versity/versitygw", programs: same("versitygw")},
}

// others are programs that are built when asked for: what judges restored objects or
// brings some from Git, and what leads to Services in rigs with WordPress.
var others = []part{
	{name: "cert-manager", module: "github.com/cert-manager/cert-manager", programs: same("cert-manager")},
	{
		name: "external-dns", module: "sigs.k8s.io/external-dns",
		ldflags:  "-X sigs.k8s.io/external-dns/pkg/apis/externaldns.Version=VERSION",
		programs: same("external-dns"),
	},
	{
		name: "source-controller", module: "github.com/fluxcd/source-controller",
		tools:    []string{"git"}, // to serve what it reads
		programs: same("source-controller"),
	},
	{
		name: "kustomize-controller", module: "github.com/fluxcd/kustomize-controller",
		programs: same("kustomize-controller"),
	},
	serviceProxy,
	// What Kubernetes has beside CSI drivers: of two upstreams that release together,
	// and built together in half the time.
	{
		name: "csi-sidecars", module: "github.com/kubernetes-csi/external-provisioner/v6",
		programs: same("csi-provisioner", "csi-snapshotter", "snapshot-controller"),
	},
}

var serviceProxy = part{
	name: "kube-proxy", module: "k8s.io/kubernetes",
	ldflags: "-X k8s.io/component-base/version.gitVersion=VERSION" +
		" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=MINOR",
	programs: same("kube-proxy"),
}

// own are this module's programs that run in guests, by package.
var own = map[string]string{
	"./guest/init":    "init",
	"./guest/zfsnode": "zfsnode",
	"./image/pause":   "pause",
}

// ownOthers are those of them that tests ask for.
var ownOthers = map[string]string{"./guest/folders": "folders"}

// nodePrograms are those that go into the root file system of a Kubernetes node.
var nodePrograms = []string{"kubelet", "containerd", "containerd-shim-runc-v2", "ctr", "zfsnode"}

func same(names ...string) map[string]string {
	m := map[string]string{}
	for _, name := range names {
		m[name] = name
	}
	return m
}

// programs builds all Go programs and returns the file of each. One upstream
// after the other: go build uses all cores by itself.
func (b *builder) programs(ctx context.Context) (map[string]string, error) {
	files, err := b.ownPrograms(ctx, own)
	if err != nil {
		return nil, err
	}
	wanted := parts
	if b.wordpress {
		wanted = append(slices.Clone(parts), serviceProxy)
	}
	for _, p := range wanted {
		if b.hostsOnly && p.name != objectStore {
			continue
		}
		built, err := b.part(ctx, p)
		if err != nil {
			return nil, err
		}
		maps.Copy(files, built)
	}
	return files, nil
}

// Programs builds programs of upstreams alone, with everything else of the same
// ones, and returns the file of each by name. Besides those of rigs they are
// cert-manager, external-dns, Flux's controllers, kube-proxy and named, what goes with
// CSI drivers, and folders, which is one.
func Programs(ctx context.Context, o Options, names ...string) (map[string]string, error) {
	b, err := newBuilder(ctx, o)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	all := slices.Concat(parts, others)
	for _, name := range names {
		if slices.Contains(slices.Collect(maps.Values(ownOthers)), name) {
			built, err := b.ownPrograms(ctx, ownOthers)
			if err != nil {
				return nil, err
			}
			files[name] = built[name]
			continue
		}
		if name == nameServer {
			if files[name], err = b.nameServer(ctx); err != nil {
				return nil, err
			}
			continue
		}
		i := slices.IndexFunc(all, func(p part) bool { return slices.Contains(slices.Collect(maps.Values(p.programs)), name) })
		if i < 0 {
			return nil, fmt.Errorf("no part of the rig has a program %q", name)
		}
		built, err := b.part(ctx, all[i])
		if err != nil {
			return nil, err
		}
		files[name] = built[name]
	}
	return files, nil
}

func (b *builder) part(ctx context.Context, p part) (map[string]string, error) {
	if err := b.installTools(ctx, p.tools...); err != nil {
		return nil, err
	}
	folder := filepath.Join(b.source, "parts", p.name)
	mod, err := os.ReadFile(filepath.Join(folder, "go.mod"))
	if err != nil {
		return nil, err
	}
	sum, err := os.ReadFile(filepath.Join(folder, "go.sum"))
	if err != nil {
		return nil, err
	}
	source, err := sourceOf(folder)
	if err != nil {
		return nil, err
	}
	version, minor, err := required(string(mod), p.module)
	if err != nil {
		return nil, fmt.Errorf("%s/go.mod: %w", folder, err)
	}
	flags := strings.TrimSpace("-s -w " + strings.NewReplacer("VERSION", version, "MINOR", minor).Replace(p.ldflags))
	dir, err := b.ensure(ctx, recipe{
		name:   p.name,
		inputs: append([]string{b.goVersion, string(mod), string(sum), p.tags, flags}, source...),
		make: func(ctx context.Context, dir string, log *os.File) error {
			cmd := command(ctx, log, folder, "go", "build", "-trimpath", "-tags="+p.tags, "-ldflags="+flags,
				"-o", dir+"/", "tool")
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly")
			if err := run(cmd); err != nil {
				return err
			}
			for built, name := range p.programs {
				if err := os.Rename(filepath.Join(dir, built), filepath.Join(dir, name)); err != nil {
					return err
				}
			}
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for _, name := range p.programs {
		files[name] = filepath.Join(dir, name)
	}
	return files, nil
}

// sourceOf is the Go code in a part's own folder. Most parts have none.
func sourceOf(folder string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		return nil, err
	}
	var source []string
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		source = append(source, string(content))
	}
	return source, nil
}

// required is the version of a module in a go.mod file, whole and its minor number.
func required(mod, module string) (version, minor string, err error) {
	m := regexp.MustCompile(`(?m)^\s*(?:require )?` + regexp.QuoteMeta(module) + ` (v\d+\.(\d+)\.\S+)`).FindStringSubmatch(mod)
	if m == nil {
		return "", "", fmt.Errorf("%s is not required", module)
	}
	return m[1], m[2], nil
}

// ownPrograms builds programs of this module every time, which takes a moment
// when nothing has changed, and keys them by what came out: images made of them
// stay valid across changes elsewhere in the module.
func (b *builder) ownPrograms(ctx context.Context, packages map[string]string) (map[string]string, error) {
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, ".own-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	log, err := os.Create(filepath.Join(b.dir, "own.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	files := map[string]string{}
	for pkg, name := range packages {
		file := filepath.Join(dir, name)
		cmd := command(ctx, log, b.source, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", file, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
		if err := run(cmd); err != nil {
			return nil, fmt.Errorf("build %s: %w; the end of %s:\n%s", name, err, log.Name(), tail(log.Name()))
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		kept, err := b.ensure(ctx, recipe{
			name:   name,
			quick:  true,
			inputs: []string{fmt.Sprintf("%x", sha256.Sum256(content))},
			make: func(_ context.Context, dir string, _ *os.File) error {
				return os.Rename(file, filepath.Join(dir, name))
			},
		})
		if err != nil {
			return nil, err
		}
		files[name] = filepath.Join(kept, name)
	}
	return files, nil
}

// copyFile copies a program, keeping it executable.
func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, data, 0o755))
}
