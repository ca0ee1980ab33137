package zfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMain plays the zfs binary when the environment says so.
func TestMain(m *testing.M) {
	if role := os.Getenv("ZFS_TEST_CHILD"); role != "" {
		child(role)
		return
	}
	os.Exit(m.Run())
}

func child(role string) {
	switch role {
	case "args":
		fmt.Print(strings.Join(os.Args[1:], "|"), "|", os.Getenv("LC_ALL"), "|", os.Getenv("TZ"))
	case "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "fail":
		fmt.Fprintln(os.Stderr, "cannot open 'tank/none': dataset does not exist")
		os.Exit(1)
	case "chatter":
		fmt.Fprint(os.Stderr, strings.Repeat("x", 1<<20))
	case "flood":
		for {
			if _, err := os.Stdout.Write(make([]byte, 4096)); err != nil {
				os.Exit(3)
			}
		}
	case "hang":
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "detach":
		// A process that no signal to the group reaches, and that has stdout.
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "ZFS_TEST_CHILD=hang")
		cmd.Stdin, cmd.Stdout = os.Stdin, os.Stdout
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		_ = cmd.Run()
	case "pipe":
		info, err := os.Stdout.Stat()
		fmt.Print(err == nil && info.Mode()&os.ModeNamedPipe != 0)
	case "head":
		_, _ = io.ReadFull(os.Stdin, make([]byte, 3))
	}
}

func runner(role string) Exec {
	return Exec{Paths: map[string]string{"zfs": os.Args[0]}, Env: []string{"ZFS_TEST_CHILD=" + role}}
}

func TestExecPassesArgumentsInAnEnglishEnvironment(t *testing.T) {
	t.Parallel()
	res, err := runner("args").Run(t.Context(), Cmd{Args: []string{"zfs", "list", "a b", "$(c)"}})
	require.NoError(t, err)
	assert.Equal(t, Result{Stdout: []byte("list|a b|$(c)|C|UTC")}, res)
}

func TestExecPutsAPrefixBeforeTheCommand(t *testing.T) {
	t.Parallel()
	e := runner("args")
	e.Prefix = []string{os.Args[0], "exec", "host", "--"}
	e.Paths = nil
	res, err := e.Run(t.Context(), Cmd{Args: []string{"zfs", "list"}})
	require.NoError(t, err)
	assert.Equal(t, "exec|host|--|zfs|list|C|UTC", string(res.Stdout))
}

func TestExecStreams(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("zfs"), 1<<20)
	var out bytes.Buffer
	res, err := runner("cat").Run(t.Context(), Cmd{Args: []string{"zfs"}, Stdin: bytes.NewReader(data), Stdout: &out})
	require.NoError(t, err)
	assert.Equal(t, Result{}, res)
	assert.True(t, bytes.Equal(data, out.Bytes()))
}

func TestExecAlwaysWritesToAPipe(t *testing.T) {
	t.Parallel()
	f, err := os.Create(t.TempDir() + "/out")
	require.NoError(t, err)
	defer f.Close()
	_, err = runner("pipe").Run(t.Context(), Cmd{Args: []string{"zfs"}, Stdout: f})
	require.NoError(t, err)
	got, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	assert.Equal(t, "true", string(got))
}

func TestExecReturnsAFailureAsExitCode(t *testing.T) {
	t.Parallel()
	res, err := runner("fail").Run(t.Context(), Cmd{Args: []string{"zfs"}})
	require.NoError(t, err)
	assert.Equal(t, 1, res.ExitCode)
	assert.Equal(t, ErrNotFound, Classify(res.Stderr))
}

func TestExecBoundsStderr(t *testing.T) {
	t.Parallel()
	res, err := runner("chatter").Run(t.Context(), Cmd{Args: []string{"zfs"}})
	require.NoError(t, err)
	assert.Len(t, res.Stderr, maxStderr)
}

func TestExecReportsWhatCannotStart(t *testing.T) {
	t.Parallel()
	_, err := Exec{Paths: map[string]string{"zfs": "/nonexistent/zfs"}}.Run(t.Context(), Cmd{Args: []string{"zfs"}})
	assert.ErrorIs(t, err, os.ErrNotExist)
	_, err = Exec{}.Run(t.Context(), Cmd{})
	assert.Error(t, err)
}

func TestExecKillsWhenTheContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	res, err := runner("hang").Run(ctx, Cmd{Args: []string{"zfs"}, Stdin: endsWith(ctx, r), Stdout: writerFunc(func(p []byte) (int, error) {
		cancel()
		return len(p), nil
	})})
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, -1, res.ExitCode)
	_, err = runner("args").Run(ctx, Cmd{Args: []string{"zfs"}})
	assert.ErrorIs(t, err, context.Canceled)
}

func TestExecLeavesAProcessThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	detaching := runner("detach")
	detaching.Grace = 100 * time.Millisecond
	_, err := detaching.Run(ctx, Cmd{Args: []string{"zfs", "snapshot"}, Stdin: r, Stdout: writerFunc(func(p []byte) (int, error) {
		cancel()
		return len(p), nil
	})})
	var left *LeftError
	require.ErrorAs(t, err, &left)
	assert.ErrorIs(t, err, ErrPoolUnavailable)
	assert.ErrorIs(t, err, context.Canceled)
	assert.EqualError(t, err, "zfs snapshot does not end when killed: pool is unavailable: context canceled")
	select {
	case <-left.Ended:
		t.Error("it has ended")
	default:
	}
	require.NoError(t, w.Close())
	<-left.Ended
}

func TestExecTellsWhyOutputEnded(t *testing.T) {
	t.Parallel()
	full := errors.New("connection lost")
	_, err := runner("flood").Run(t.Context(), Cmd{Args: []string{"zfs"}, Stdout: writerFunc(func([]byte) (int, error) { return 0, full })})
	assert.ErrorIs(t, err, full)
}

func TestExecTellsWhyInputEnded(t *testing.T) {
	t.Parallel()
	lost := errors.New("connection lost")
	_, err := runner("cat").Run(t.Context(), Cmd{Args: []string{"zfs"}, Stdin: iotest.ErrReader(lost)})
	assert.ErrorIs(t, err, lost)
}

func TestExecDoesNotWaitForInputThatIsNotWanted(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	defer w.Close()
	go func() { _, _ = w.Write([]byte("abc")) }()
	head := runner("head")
	head.Grace = 100 * time.Millisecond
	res, err := head.Run(t.Context(), Cmd{Args: []string{"zfs"}, Stdin: r})
	require.NoError(t, err)
	assert.Zero(t, res.ExitCode)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// endsWith closes a reader when the context ends, as a network stream does.
func endsWith(ctx context.Context, r *io.PipeReader) io.Reader {
	context.AfterFunc(ctx, func() { r.Close() })
	return r
}
