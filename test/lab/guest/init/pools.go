package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kubectl-dr/kubectl-dr/test/lab/guest/guestcfg"
)

// openPool imports the pool on its disk, or creates it there. Creating is
// without force: zpool(8) refuses a partition that holds a pool, even one that
// could not be imported.
func openPool(p guestcfg.Pool) error {
	disk, err := diskBySerial(guestcfg.PoolSerial + p.Name)
	if err != nil {
		return err
	}
	partition := disk + "1"
	// Force is about the host that had it open last, which was this one.
	importErr := command("zpool", "import", "-f", "-N", "-o", "cachefile=none", "-d", partition, p.Name)
	if importErr != nil {
		err := command("zpool", "create", "-o", "cachefile=none", "-o", "ashift=12", "-O", "mountpoint=none",
			p.Name, partition)
		if err != nil {
			return errors.Join(importErr, err)
		}
	}
	for _, dataset := range p.Datasets {
		if err := command("zfs", "create", "-p", dataset); err != nil {
			return err
		}
	}
	return nil
}

// linkVolumes keeps /dev/zvol as udev would: a link per ZFS volume, named as
// the volume, to the device that the kernel made.
func linkVolumes(ctx context.Context) error {
	events, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("listen to kernel events: %w", err)
	}
	const fromKernel = 1
	if err := unix.Bind(events, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: fromKernel}); err != nil {
		return fmt.Errorf("listen to kernel events: %w", err)
	}
	go func() {
		links := map[string]string{}
		message := make([]byte, 64<<10)
		for ctx.Err() == nil {
			n, err := unix.Read(events, message)
			if err != nil {
				continue // the buffer overflowed; the next event is read again
			}
			header, _, _ := bytes.Cut(message[:n], []byte{0})
			action, device, _ := strings.Cut(string(header), "@")
			name := filepath.Base(device)
			if !strings.HasPrefix(name, "zd") {
				continue
			}
			switch volume, err := volumeName("/dev/" + name); {
			case action == "remove":
				_ = os.Remove(links[name])
				delete(links, name)
			case err == nil:
				partition := ""
				if _, number, ok := strings.Cut(name, "p"); ok {
					partition = "-part" + number
				}
				link := filepath.Join("/dev/zvol", volume+partition)
				_ = os.MkdirAll(filepath.Dir(link), 0o755)
				_ = os.Remove(link)
				_ = os.Symlink("/dev/"+name, link)
				links[name] = link
			}
		}
	}()
	return nil
}

// volumeName asks the kernel for the dataset behind a block device.
func volumeName(device string) (string, error) {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	// BLKZNAME: _IOR(0x12, 125, char[256])
	const request = 2<<30 | 256<<16 | 0x12<<8 | 125
	var name [256]byte
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&name))); errno != 0 {
		return "", errno
	}
	return unix.ByteSliceToString(name[:]), nil
}
