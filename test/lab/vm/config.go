// Package vm runs the machines of a rig: qemu processes with a kernel, a root
// file system that forgets, disks for pools that don't, and an SSH server that
// only the rig can log into.
//
// Software emulation is all it asks of the host: no kernel modules, no network
// privileges, no /dev/kvm. Pools are always inside the machines, even where the
// host itself has OpenZFS: two nodes need two kernels for one to die alone.
package vm

import (
	"path/filepath"

	"github.com/kubectl-dr/kubectl-dr/test/lab/guest/guestcfg"
)

// HostAddress is the host as every guest sees it.
const HostAddress = "10.0.2.2"

// Machine describes a virtual machine. The same description finds it again
// later, from another process.
type Machine struct {
	// Name is the guest's host name.
	Name string
	// Dir is the machine's own folder, which Prepare makes. Disks of pools in
	// it survive a restart of the machine.
	Dir      string
	CPUs     int
	MemoryMB int
	// Kernel, Initrd and Root are as in build.Set. Root is never written to.
	Kernel, Initrd, Root string
	// Guest is what the guest is told. Hostname and Pools are filled in from
	// Name and Disks.
	Guest guestcfg.Config
	// Files are given to the guest: path below guestcfg.Dir = file here.
	Files map[string]string
	// Disks hold one pool each.
	Disks []Disk
	// Shared are disks that another machine may have at the same time.
	Shared []SharedDisk
	// SSHPort is the port on 127.0.0.1 that leads to the guest's SSH server.
	SSHPort int
	// Forwards are further ports on 127.0.0.1 that lead into the guest.
	Forwards []Forward
	Link     Link
}

// Disk is a virtual disk with a pool on it.
type Disk struct {
	Pool   string
	SizeGB int
	// Datasets are made in the pool when missing.
	Datasets []string
}

// SharedDisk is a virtual disk with one empty partition, for a pool that more than
// one machine can reach.
type SharedDisk struct {
	// Serial is by which the guest finds it.
	Serial string
	File   string
	SizeGB int
}

// Forward leads from a port on 127.0.0.1 to one of the guest.
type Forward struct{ HostPort, GuestPort int }

// Link is a cable to another machine: frames travel in UDP packets between two
// ports on 127.0.0.1, the other machine having them the other way round. Either
// end may be missing or come and go. No link when both are 0.
type Link struct{ LocalPort, RemotePort int }

func (m Machine) in(name string) string { return filepath.Join(m.Dir, name) }

// Console is the file with what the guest has written to its serial console
// since it was last started.
func (m Machine) Console() string { return m.in("console.log") }

// Log is the file with qemu's own messages.
func (m Machine) Log() string { return m.in("qemu.log") }
