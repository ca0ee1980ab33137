package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-dr/kubectl-dr/test/lab/guest/guestcfg"
)

// A mount is one line of a mount table.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func (m mount) mount() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
	}
	return nil
}

func mountAll(mounts ...mount) error {
	for _, m := range mounts {
		if err := m.mount(); err != nil {
			return err
		}
	}
	return nil
}

// enterRoot goes from the initial RAM file system to the root file system.
func enterRoot() error {
	kernel := []mount{
		{"dev", "/dev", "devtmpfs", unix.MS_NOSUID, ""},
		{"proc", "/proc", "proc", 0, ""},
		{"sys", "/sys", "sysfs", 0, ""},
	}
	if err := mountAll(kernel...); err != nil {
		return err
	}
	// Their names sort in the order they need each other.
	modules, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	for _, m := range modules {
		if err := loadModule(m); err != nil {
			return err
		}
	}
	device, err := diskBySerial(guestcfg.RootSerial)
	if err != nil {
		return err
	}
	const root = "/root"
	if err := mountAll(mount{device, root, "ext4", unix.MS_NOATIME, ""}); err != nil {
		return err
	}
	for _, m := range kernel {
		if err := mountAll(mount{m.target, root + m.target, "", unix.MS_MOVE, ""}); err != nil {
			return err
		}
	}
	// As switch_root(8) does it: a RAM file system at the bottom can't be
	// pivoted away from.
	return errors.Join(unix.Chdir(root), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), unix.Chdir("/"))
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", filepath.Base(path), err)
	}
	return nil
}

// diskBySerial is the device of the virtual disk with that serial number. Disks
// appear some time after their driver.
func diskBySerial(serial string) (string, error) {
	// virtio has room for so many characters.
	const room = 20
	want := serial[:min(len(serial), room)]
	for range 100 {
		files, err := filepath.Glob("/sys/block/vd*/serial")
		if err != nil {
			return "", err
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err == nil && strings.TrimRight(string(data), "\x00\n") == want {
				return "/dev/" + filepath.Base(filepath.Dir(file)), nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "", fmt.Errorf("find disk %s: no virtual disk has this serial number", serial)
}
