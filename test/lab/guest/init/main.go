// Command init is the first process of the rig's guests, and the only program
// in their initial RAM file system.
//
// As process 1 it loads the modules that the root file system needs, makes that
// the root, and from then on only reaps orphans. Everything else is done by a
// second process of the same program, so that the bookkeeping of its children
// and the reaping of strangers don't get in each other's way.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kubectl-dr/kubectl-dr/test/lab/guest/guestcfg"
)

const supervise = "supervise"

func main() {
	if len(os.Args) > 1 && os.Args[1] == supervise {
		if err := run(); err != nil {
			fatal(err)
			os.Exit(1)
		}
		return
	}
	if err := first(); err != nil {
		fatal(err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// first is what process 1 does; the machine powers off when it returns.
func first() error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	if err := enterRoot(); err != nil {
		return err
	}
	stage("root")
	supervisor := exec.Command("/proc/self/exe", supervise)
	supervisor.Stdout, supervisor.Stderr = os.Stdout, os.Stderr
	supervisor.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	if err := supervisor.Start(); err != nil {
		return fmt.Errorf("start supervisor: %w", err)
	}
	go func() {
		for range stop {
			_ = unix.Kill(supervisor.Process.Pid, unix.SIGTERM)
		}
	}()
	for {
		pid, err := unix.Wait4(-1, nil, 0, nil)
		switch {
		case pid == supervisor.Process.Pid:
			return nil
		case err != nil && err != unix.EINTR:
			return fmt.Errorf("wait for processes: %w", err)
		}
	}
}

// stage tells the rig how far the guest has come.
func stage(name string) {
	fmt.Printf("%s%s %ss\n", guestcfg.StagePrefix, name, uptime())
}

// fatal tells the rig why the guest ends.
func fatal(err error) {
	fmt.Println(guestcfg.FatalPrefix + strings.Join(strings.Fields(err.Error()), " "))
}

// uptime is in seconds since the kernel started.
func uptime() string {
	data, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return "?"
	}
	seconds, _, _ := strings.Cut(string(data), " ")
	return seconds
}
