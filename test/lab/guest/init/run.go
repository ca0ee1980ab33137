package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kubectl-dr/kubectl-dr/test/lab/guest/guestcfg"
)

// run makes the guest what its configuration says, and keeps it so until it is
// told to end.
func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	if err := mountSystem(); err != nil {
		return err
	}
	config, err := guestcfg.Read(guestcfg.File)
	if err != nil {
		return err
	}
	if err := writeFiles(config); err != nil {
		return err
	}
	if err := command("modprobe", "--all", "virtio_net", "virtio_rng", "overlay", "bridge", "br_netfilter", "veth", "zfs"); err != nil {
		return err
	}
	stage("modules")
	if err := setUpNetwork(config); err != nil {
		return err
	}
	s := &supervisor{logFile: guestcfg.LogFile}
	defer s.shutDown()
	if err := s.start(ctx, sshServer()); err != nil {
		return err
	}
	stage("ssh")
	if err := linkVolumes(ctx); err != nil {
		return err
	}
	for _, p := range config.Pools {
		if err := openPool(p); err != nil {
			return err
		}
	}
	stage("pools")
	for _, service := range config.Services {
		if err := s.start(ctx, service); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		stage(service.Name)
	}
	stage(guestcfg.StageReady)
	<-ctx.Done()
	return nil
}

func mountSystem() error {
	if err := mountAll(
		mount{"run", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		mount{"tmp", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		mount{"pts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=620,ptmxmode=666"},
		mount{"shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		mount{"cgroup", "/sys/fs/cgroup", "cgroup2", 0, ""},
		// Mounts that CSI drivers make have to reach containers.
		mount{"", "/", "", unix.MS_SHARED | unix.MS_REC, ""},
	); err != nil {
		return err
	}
	device, err := diskBySerial(guestcfg.ConfigSerial)
	if err != nil {
		return err
	}
	return mountAll(mount{device, guestcfg.Dir, "ext4", unix.MS_RDONLY, ""})
}

const containerdConfig = `version = 3
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  stats_collect_period = 3600
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = 'docker.io/local/pause:1'
[plugins.'io.containerd.cri.v1.runtime']
  stats_collect_period = '1h'
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/usr/lib/cni']
  conf_dir = '/etc/cni/net.d'
`

const podNetwork = `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "pods0",
      "isGateway": true,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": %q}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

// writeFiles writes what programs expect to find in /etc and elsewhere.
func writeFiles(c guestcfg.Config) error {
	if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	identity := sha256.Sum256([]byte(c.Hostname))
	hosts := "127.0.0.1 localhost\n127.0.1.1 " + c.Hostname + "\n"
	for _, address := range slices.Sorted(maps.Keys(c.Hosts)) {
		hosts += address + " " + strings.Join(c.Hosts[address], " ") + "\n"
	}
	keys, err := os.ReadFile(guestcfg.AuthorizedKeys)
	if err != nil {
		return err
	}
	files := map[string]string{
		"/etc/hostname":   c.Hostname + "\n",
		"/etc/hosts":      hosts,
		"/etc/machine-id": hex.EncodeToString(identity[:16]) + "\n",
		// Pools remember the host they were last open on by this number.
		"/etc/hostid": string(identity[:4]),
		// The emulator's resolver, which asks the host's.
		"/etc/resolv.conf":           "nameserver 10.0.2.3\n",
		"/root/.ssh/authorized_keys": string(keys),
	}
	if c.PodSubnet != "" {
		files["/etc/containerd/config.toml"] = containerdConfig
		files["/etc/cni/net.d/10-pods.conflist"] = fmt.Sprintf(podNetwork, c.PodSubnet)
	}
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return err
		}
		if strings.HasPrefix(path, "/etc/") {
			if err := os.Chmod(path, 0o644); err != nil {
				return err
			}
		}
	}
	return errors.Join(os.RemoveAll("/etc/mtab"), os.Symlink("/proc/self/mounts", "/etc/mtab"))
}

// command runs a program to its end; what it said is in the error.
func command(name string, args ...string) error {
	return commandWithInput("", name, args...)
}

func commandWithInput(input, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
