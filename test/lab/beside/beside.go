// Package beside has what a test needs to run programs beside it, which end with it.
package beside

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/test/lab/proc"
)

// Start starts a program with further environment variables. What it said last is
// shown when the test fails.
func Start(t *testing.T, env []string, program string, args ...string) {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			lines := strings.Split(said.String(), "\n")
			t.Logf("%s said last:\n%s", filepath.Base(program), strings.Join(lines[max(0, len(lines)-30):], "\n"))
		}
	})
}

// Address is one on this machine that nothing listens on.
func Address(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// Eventually tries until there is no error.
func Eventually(t *testing.T, timeout time.Duration, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	var err error
	proc.Poll(ctx, 100*time.Millisecond, func() bool {
		// What the last try of all says is that the time was up.
		if err == nil || ctx.Err() == nil {
			err = try(ctx)
		}
		return err == nil
	})
	require.NoError(t, err, what)
}

// Answers waits until a URL is answered, with whatever status.
func Answers(t *testing.T, timeout time.Duration, what, url string) {
	t.Helper()
	Eventually(t, timeout, what, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// Module is the folder with a module's files; it is named with its version.
func Module(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", module).Output()
	require.NoError(t, err, module)
	var downloaded struct{ Dir string }
	require.NoError(t, json.Unmarshal(out, &downloaded))
	return downloaded.Dir
}
