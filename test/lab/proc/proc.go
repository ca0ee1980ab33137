// Package proc starts programs that outlive the command that starts them, and
// finds them again later without ever touching a foreign process.
//
// A process is known by its number and the instant it started: numbers are
// reused, the two together are not. Every process also carries a mark in its
// environment, inherited by its children, so that what an interrupted command
// left behind is found without any record.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// markVariable carries the mark in the environment of a process.
const markVariable = "KUBECTL_DR_LAB_PART"

// ID identifies a process for as long as the machine runs.
type ID struct {
	PID int `json:"pid"`
	// Start is the instant it started, in clock ticks since boot.
	Start uint64 `json:"start"`
}

// Spec is a program to start.
type Spec struct {
	Argv []string
	// Env is added to the environment of the command.
	Env []string
	Dir string
	// Log receives standard output and error, appended.
	Log string
	// Mark names the process for Marked.
	Mark string
	// Hosts, when set, is a file that this process and its children see as /etc/hosts.
	Hosts string
}

// Start runs the program in a session of its own and returns once it runs.
func Start(s Spec) (ID, error) {
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return ID{}, err
	}
	defer log.Close()
	cmd := exec.Command(s.Argv[0], s.Argv[1:]...)
	cmd.Env = append(append(os.Environ(), s.Env...), Env(s.Mark))
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	start := cmd.Start
	if s.Hosts != "" {
		start = func() error { return startWithHosts(cmd, s.Hosts) }
	}
	if err := start(); err != nil {
		return ID{}, fmt.Errorf("start %s: %w", filepath.Base(s.Argv[0]), err)
	}
	id, err := Identify(cmd.Process.Pid)
	// Reaping it lets Alive tell the truth when it ends before this command does.
	go func() { _ = cmd.Wait() }()
	if err != nil {
		return ID{}, fmt.Errorf("start %s: it ended at once; see %s", filepath.Base(s.Argv[0]), s.Log)
	}
	return id, nil
}

// Env is the entry that marks a process, for those that are not started here.
func Env(mark string) string { return markVariable + "=" + mark }

// startWithHosts starts cmd in a mount namespace of its own, in which hosts
// lies over /etc/hosts. The namespace is the thread's: the child inherits it,
// and the thread, never unlocked, ends with its goroutine.
func startWithHosts(cmd *exec.Cmd, hosts string) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("unshare mount namespace (needs root): %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("make mounts private: %w", err)
			}
			if err := unix.Mount(hosts, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("bind %s over /etc/hosts: %w", hosts, err)
			}
			return cmd.Start()
		}()
	}()
	return <-result
}

// Identify returns the identity of the process that has the number now.
func Identify(pid int) (ID, error) {
	fields, err := stat(pid)
	if err != nil {
		return ID{}, err
	}
	return ID{PID: pid, Start: fields.start}, nil
}

// Alive reports whether the very process still runs. One that has ended and
// only waits to be reaped does not.
func (id ID) Alive() bool {
	if id.PID == 0 {
		return false
	}
	s, err := stat(id.PID)
	return err == nil && s.start == id.Start && s.state != 'Z' && s.state != 'X'
}

// Resident is the memory the process holds, in bytes; 0 when it has ended.
func (id ID) Resident() int64 {
	if !id.Alive() {
		return 0
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", id.PID))
	fields := strings.Fields(string(data))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// Stop asks the process to end and kills it when it hasn't within the grace
// period. A process that is gone already is no error.
func (id ID) Stop(ctx context.Context, grace time.Duration) error {
	// The handle pins the process: after it is open, the number cannot come to
	// mean another one unnoticed.
	p, err := os.FindProcess(id.PID)
	if err != nil || !id.Alive() {
		return nil
	}
	defer func() { _ = p.Release() }()
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop process %d: %w", id.PID, err)
	}
	if id.ended(ctx, grace) {
		return nil
	}
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d: %w", id.PID, err)
	}
	if !id.ended(ctx, 10*time.Second) {
		return fmt.Errorf("kill process %d: it still runs", id.PID)
	}
	return nil
}

func (id ID) ended(ctx context.Context, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return Poll(ctx, 20*time.Millisecond, func() bool { return !id.Alive() })
}

// Poll asks until the condition holds, and returns whether it did before the
// context ended.
func Poll(ctx context.Context, every time.Duration, condition func() bool) bool {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			return condition()
		case <-tick.C:
		}
	}
	return true
}

// Marked returns every process whose mark is the given one or lies below it,
// as paths do: "a/b" has "a/b" and "a/b/c".
func Marked(mark string) ([]ID, error) {
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return nil, err
	}
	var ids []ID
	for _, f := range files {
		// Unreadable ones have ended or belong to another user; neither is ours.
		environ, err := os.ReadFile(f)
		if err != nil || !hasMark(environ, mark) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil {
			continue
		}
		if id, err := Identify(pid); err == nil && id.Alive() {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func hasMark(environ []byte, mark string) bool {
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		value, ok := strings.CutPrefix(string(entry), markVariable+"=")
		if ok && (value == mark || strings.HasPrefix(value, mark+"/")) {
			return true
		}
	}
	return false
}

type status struct {
	state byte
	start uint64
}

func stat(pid int) (status, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return status{}, err
	}
	return parseStat(string(data))
}

// parseStat reads fields 3 and 22 of proc_pid_stat(5). Field 2, the program's
// name, may hold spaces and parentheses, so counting starts after its last one.
func parseStat(line string) (status, error) {
	const state, start = 0, 19
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(fields) <= start || len(fields[state]) != 1 {
		return status{}, fmt.Errorf("parse process status %q: too few fields", line)
	}
	ticks, err := strconv.ParseUint(fields[start], 10, 64)
	if err != nil {
		return status{}, fmt.Errorf("parse process status %q: %w", line, err)
	}
	return status{state: fields[state][0], start: ticks}, nil
}
