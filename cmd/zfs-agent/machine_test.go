package main

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

// begin is when every test begins.
var begin = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)

// machine is a host in memory.
type machine struct {
	*zfstest.Pool
	zfs   *zfs.Client
	clock time.Time
}

func newMachine(pools ...string) *machine {
	m := &machine{Pool: zfstest.NewPool(pools...), clock: begin}
	m.SetClock(m.now)
	m.zfs = &zfs.Client{Runner: m.Pool}
	return m
}

func (m *machine) now() time.Time { return m.clock }

// run runs a fresh command on the machine.
func (m *machine) run(ctx context.Context, args string) result {
	var out, errOut bytes.Buffer
	cmd := newCommand(env{
		zfs: func(string) (*zfs.Client, error) { return m.zfs, nil }, now: m.now,
		hostname:     func() (string, error) { return "hassio", nil },
		synchronized: func() (bool, error) { return true, nil },
	})
	cmd.SetArgs(strings.Fields(args))
	cmd.SetOut(&out)
	cmd.SetErr(&errOut)
	r := result{}
	if err := cmd.ExecuteContext(ctx); err != nil {
		printError(&errOut, err)
		r.status = exitStatus(ctx, err)
	}
	r.out, r.err = out.String(), errOut.String()
	return r
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"", "serve", "holds", "doctor", "certs"} {
		golden(t, filepath.Join("help", strings.TrimSpace("zfs-agent "+command)), newMachine().run(t.Context(), command+" --help").String())
	}
}

var errBroken = errors.New("zfs is broken")
