package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// suite is the Debian release that guests run.
	suite = "bookworm"

	kernelFile   = "vmlinuz"
	modulesFile  = "modules.tar"
	packagesFile = "packages.tar"
	rootFile     = "root.img"
)

// hostTools are the programs that building and running machines, and what is beside
// them, needs on the host, and the Debian packages that have them.
var hostTools = map[string]string{
	"git":                "git",
	"mmdebstrap":         "mmdebstrap",
	"mke2fs":             "e2fsprogs",
	"qemu-system-x86_64": "qemu-system-x86",
}

// nodePackages are what a guest's root file system is made of.
var nodePackages = []string{
	// A system that programs of others can be run on.
	"kmod", "mount", "util-linux", "procps", "iproute2", "iptables", "iputils-ping",
	"e2fsprogs", "ca-certificates", "busybox-static", "dropbear-bin",
	"zfsutils-linux",
	// What containerd needs besides itself.
	"runc", "containernetworking-plugins",
	// syncoid, a replication tool that others use on the same pools.
	"sanoid", "mbuffer", "pv", "lzop", "openssh-client",
}

var kernelPackages = []string{"linux-image-cloud-amd64", "linux-headers-cloud-amd64", "zfs-dkms"}

// installTools installs those of hostTools that the host lacks, where it is a
// Debian and the user may.
func (b *builder) installTools(ctx context.Context, programs ...string) error {
	var missing []string
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, hostTools[program])
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	install := "apt-get install --no-install-recommends " + strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return fmt.Errorf("find %s: not installed; as root, on Debian or Ubuntu: %s", strings.Join(missing, ", "), install)
	}
	unlock, err := b.lock(ctx, "host-tools")
	if err != nil {
		return err
	}
	defer unlock()
	log, err := os.Create(filepath.Join(b.dir, "host-tools.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	b.tell("host tools", install)
	for _, args := range [][]string{
		{"update"},
		append([]string{"install", "--yes", "--no-install-recommends"}, missing...),
	} {
		cmd := command(ctx, log, "/", "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if err := run(cmd); err != nil {
			return fmt.Errorf("install %s: %w; the end of %s:\n%s",
				strings.Join(missing, ", "), err, log.Name(), tail(log.Name()))
		}
	}
	return nil
}

// mmdebstrap are the arguments that make a Debian of these packages and those
// they depend on. OpenZFS is in contrib, for its licence.
func mmdebstrap(variant string, packages ...string) []string {
	args := []string{
		"--variant=" + variant, "--components=main,contrib", "--architectures=amd64",
		"--include=" + strings.Join(packages, ","),
		"--aptopt=APT::Install-Recommends false",
	}
	for _, docs := range []string{"doc", "man", "info", "locale"} {
		args = append(args, "--dpkgopt=path-exclude=/usr/share/"+docs+"/*")
	}
	return args
}

// debian builds an artefact with mmdebstrap. Its packages are those of the day
// it is built on; the key doesn't change with them.
func (b *builder) debian(ctx context.Context, name string, args []string) (string, error) {
	return b.ensure(ctx, recipe{
		name:   name,
		inputs: args,
		make: func(ctx context.Context, dir string, log *os.File) error {
			if os.Geteuid() != 0 {
				return errors.New("root is needed, for Debian packages to be unpacked with their owners")
			}
			cmd := command(ctx, log, dir, "mmdebstrap", args...)
			// It leaves its temporary folder where it is killed.
			cmd.Env = append(os.Environ(), "TMPDIR="+dir)
			return run(cmd)
		},
	})
}

// kernel builds the modules of OpenZFS for Debian's kernel, which takes minutes
// and needs compilers, and keeps that kernel with all its modules.
func (b *builder) kernel(ctx context.Context) (string, error) {
	args := append(mmdebstrap("apt", kernelPackages...),
		// An OpenZFS that didn't compile is no reason for dkms to fail.
		`--customize-hook=test -n "$(find "$1/usr/lib/modules" -name zfs.ko)"`,
		// Whatever its version.
		`--customize-hook=mv "$1"/boot/vmlinuz-* "$1/boot/`+kernelFile+`"`,
		"--customize-hook=copy-out /boot/"+kernelFile+" .",
		"--customize-hook=tar-out /usr/lib/modules "+modulesFile,
		suite, "/dev/null")
	return b.debian(ctx, "kernel", args)
}

// packages unpacks the node's Debian packages.
func (b *builder) packages(ctx context.Context) (string, error) {
	return b.debian(ctx, "packages", append(mmdebstrap("minbase", nodePackages...), suite, packagesFile))
}

// root makes the root file system: Debian's packages, the kernel's modules and,
// for Kubernetes nodes, their programs.
func (b *builder) root(ctx context.Context, kernel, packages string, programs map[string]string) (string, error) {
	inputs := []string{kernel, packages}
	var add []string
	if !b.hostsOnly {
		add = nodePrograms
	}
	for _, name := range add {
		inputs = append(inputs, programs[name])
	}
	dir, err := b.ensure(ctx, recipe{
		name:   "root",
		inputs: inputs,
		make: func(ctx context.Context, dir string, log *os.File) error {
			tree := filepath.Join(dir, "tree")
			if err := os.Mkdir(tree, 0o755); err != nil {
				return err
			}
			if err := run(command(ctx, log, tree, "tar", "--numeric-owner", "-xpf", filepath.Join(packages, packagesFile))); err != nil {
				return err
			}
			if err := run(command(ctx, log, filepath.Join(tree, "usr/lib"), "tar", "--numeric-owner", "-xpf", filepath.Join(kernel, modulesFile))); err != nil {
				return err
			}
			for _, name := range add {
				if err := copyFile(filepath.Join(tree, "usr/bin", name), programs[name]); err != nil {
					return err
				}
			}
			// No journal: what a guest writes here ends with it.
			if err := run(command(ctx, log, dir, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0",
				"-d", tree, rootFile, "4G")); err != nil {
				return err
			}
			return os.RemoveAll(tree)
		},
	})
	return filepath.Join(dir, rootFile), err
}

// nameServer is BIND's program.
const nameServer = "named"

// runNameServer runs it with its own libraries, whatever the host has.
const runNameServer = `#!/bin/sh
root=$(dirname "$0")/tree
exec "$root"/lib64/ld-linux-x86-64.so.2 --library-path "$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu" \
  "$root/usr/sbin/` + nameServer + `" "$@"
`

// nameServer unpacks BIND. An installed one would serve the host from then on.
func (b *builder) nameServer(ctx context.Context) (string, error) {
	if err := b.installTools(ctx, "mmdebstrap"); err != nil {
		return "", err
	}
	args := append(mmdebstrap("extract", "bind9"), suite, packagesFile)
	dir, err := b.ensure(ctx, recipe{
		name:   "bind9",
		inputs: append(args, runNameServer),
		make: func(ctx context.Context, dir string, log *os.File) error {
			cmd := command(ctx, log, dir, "mmdebstrap", args...)
			cmd.Env = append(os.Environ(), "TMPDIR="+dir)
			if err := run(cmd); err != nil {
				return err
			}
			tree := filepath.Join(dir, "tree")
			if err := os.Mkdir(tree, 0o755); err != nil {
				return err
			}
			if err := run(command(ctx, log, tree, "tar", "--no-same-owner", "--exclude=./dev", "-xf", filepath.Join(dir, packagesFile))); err != nil {
				return err
			}
			return errors.Join(os.Remove(filepath.Join(dir, packagesFile)),
				os.WriteFile(filepath.Join(dir, nameServer), []byte(runNameServer), 0o755))
		},
	})
	return filepath.Join(dir, nameServer), err
}
