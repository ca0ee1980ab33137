package build

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// cancelGrace is how long a program may take to end when it is asked to.
const cancelGrace = 15 * time.Second

// builder carries what all recipes need.
type builder struct {
	cache
	source    string
	goVersion string
	hostsOnly bool
	wordpress bool
}

func newBuilder(ctx context.Context, o Options) (*builder, error) {
	b := &builder{source: o.Source, hostsOnly: o.HostsOnly, wordpress: o.WordPress}
	b.dir, b.tell = o.Cache, o.Tell
	if b.tell == nil {
		b.tell = func(string, string) {}
	}
	var err error
	if b.dir == "" {
		if b.dir, err = DefaultCache(); err != nil {
			return nil, err
		}
	}
	if b.source == "" {
		if b.source, err = findSource(); err != nil {
			return nil, err
		}
	}
	out, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if err != nil {
		return nil, fmt.Errorf("find Go: %w", err)
	}
	b.goVersion = strings.TrimSpace(string(out))
	return b, nil
}

// findSource is this module's folder, seen from where the program lies in a
// working tree or from where it is run.
func findSource() (string, error) {
	var starts []string
	if self, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(self))
	}
	if here, err := os.Getwd(); err == nil {
		starts = append(starts, here)
	}
	for _, dir := range starts {
		for ; dir != "/"; dir = filepath.Dir(dir) {
			source := filepath.Join(dir, "test", "lab")
			if _, err := os.Stat(filepath.Join(source, "parts")); err == nil {
				return source, nil
			}
		}
	}
	return "", fmt.Errorf("find the source of the rig: no test/lab above %s", strings.Join(slices.Compact(starts), " or "))
}

// command is a program whose output goes to the log. When the context ends it is
// asked to end, so that it can take down what it has set up.
func command(ctx context.Context, log *os.File, dir, name string, args ...string) *exec.Cmd {
	fmt.Fprintf(log, "+ %s %q\n", name, args)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = cancelGrace
	return cmd
}

// run runs a program to its end.
func run(cmd *exec.Cmd) error {
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w", filepath.Base(cmd.Path), err)
	}
	return nil
}
