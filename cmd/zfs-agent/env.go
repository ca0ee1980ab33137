package main

import (
	"os"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/doctor"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// env is what commands have of the host; tests replace it.
type env struct {
	zfs      func(hostRoot string) (*zfs.Client, error)
	now      func() time.Time
	hostname func() (string, error)
	// user is who runs the process.
	user int
	// synchronized reports whether a time server disciplines the clock.
	synchronized func() (bool, error)
	// poolStates is how the kernel sees pools; nil where that can't be told.
	poolStates func() map[string]string
}

func hostEnv() env {
	return env{
		zfs: hostZFS, now: time.Now, hostname: os.Hostname,
		user: os.Geteuid(), synchronized: clockSynchronized, poolStates: doctor.KernelPoolStates,
	}
}
