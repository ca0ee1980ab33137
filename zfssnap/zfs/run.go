package zfs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Cmd is one command. Args[0] is "zfs" or "zpool".
type Cmd struct {
	Args   []string
	Stdin  io.Reader // nil for none
	Stdout io.Writer // nil to collect the output in Result.Stdout
}

// Result is what a command that ran left behind.
type Result struct {
	Stdout   []byte // empty when Cmd.Stdout was set
	Stderr   string // bounded
	ExitCode int    // -1 when a signal ended the command
}

// Runner runs commands. A command that ran and failed is not an error of Run:
// it has a non-zero ExitCode. Run returns an error when the command could not
// be started, was ended by the context or by a signal, or when Stdin or Stdout
// failed; the Result then holds what is known.
type Runner interface {
	Run(ctx context.Context, c Cmd) (Result, error)
}

// maxStderr bounds what is kept of a command's stderr: a send over many
// datasets can warn once per dataset.
const maxStderr = 64 << 10

// killGrace is the Grace of an Exec that has none.
const killGrace = 5 * time.Second

// Exec runs commands as child processes. The zero value finds zfs and zpool on
// PATH.
type Exec struct {
	// Prefix is put before every command, for example to reach another host:
	// {"ssh", "host"}. The words of the command follow unquoted, so it must end
	// in something that takes an argv.
	Prefix []string
	// Paths maps "zfs" and "zpool" to binaries; a missing entry means PATH.
	Paths map[string]string
	// Env is added to the environment.
	Env []string
	// Grace is how long a killed command may take to go, and how long a reader or
	// writer of it may block after it went; five seconds when it is zero.
	Grace time.Duration
}

// LeftError is a command that does not end though it was killed, as happens on
// a suspended pool. Its process was left behind.
type LeftError struct {
	Command string
	Ended   <-chan struct{} // closed when the process has ended after all
	cause   error
}

func (e *LeftError) Error() string {
	return fmt.Sprintf("%s does not end when killed: %v: %v", e.Command, ErrPoolUnavailable, e.cause)
}

// Unwrap returns ErrPoolUnavailable, and why the command was killed.
func (e *LeftError) Unwrap() []error { return []error{ErrPoolUnavailable, e.cause} }

var _ Runner = Exec{}

// Run implements [Runner]. The command gets its own process group, which is
// killed when ctx ends. A process that cannot be killed, as happens on a
// suspended pool, is left behind after a grace period and the call returns
// a *LeftError rather than hang with it.
func (e Exec) Run(ctx context.Context, c Cmd) (Result, error) {
	if len(c.Args) == 0 {
		return Result{}, errors.New("run command: no arguments")
	}
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	argv := append([]string(nil), c.Args...)
	if p, ok := e.Paths[argv[0]]; ok {
		argv[0] = p
	}
	argv = append(append([]string(nil), e.Prefix...), argv...)

	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	// Messages are matched and dates parsed, so neither may be localised.
	cmd.Env = append(append(os.Environ(), "LC_ALL=C", "TZ=UTC"), e.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	grace := cmp.Or(e.Grace, killGrace)
	cmd.WaitDelay = grace

	stdout, outBuffer := &gate{w: c.Stdout}, streamBuffer
	var collected bytes.Buffer
	if c.Stdout == nil {
		stdout.w, outBuffer = &collected, textBuffer
	}
	tail := &bounded{max: maxStderr}
	stderr := &gate{w: tail}
	cmd.Stderr = stderr
	// Always a pipe, since zfs send refuses some kinds of file on recent
	// kernels, and always our own: those of os/exec are closed a grace after
	// the command's end, though a writer may be slow with what is left in them,
	// and make Wait block as long as a reader does.
	out, err := newPipe()
	if err != nil {
		return Result{}, fmt.Errorf("start %s: %w", argv[0], err)
	}
	cmd.Stdout = out.w
	var in pipe
	inBuffer := streamBuffer
	if _, text := c.Stdin.(*strings.Reader); text {
		inBuffer = textBuffer
	}
	if c.Stdin != nil {
		if in, err = newPipe(); err != nil {
			out.close()
			return Result{}, fmt.Errorf("start %s: %w", argv[0], err)
		}
		cmd.Stdin = in.r
	}
	if err := cmd.Start(); err != nil {
		out.close()
		in.close()
		return Result{}, fmt.Errorf("start %s: %w", argv[0], err)
	}
	if c.Stdout != nil {
		out.widen()
	}
	if inBuffer == streamBuffer {
		in.widen()
	}
	out.w.Close()
	copied, fed := make(chan error, 1), make(chan error, 1)
	go func() {
		err := copyStream(stdout, out.r, outBuffer)
		// When the writer failed, the command gets a broken pipe.
		out.r.Close()
		copied <- err
	}()
	if c.Stdin != nil {
		in.r.Close()
		go func() {
			fed <- copyStream(in.w, c.Stdin, inBuffer)
			in.w.Close()
		}()
	}
	type end struct{ wait, copy error }
	done, gone := make(chan end, 1), make(chan struct{})
	go func() {
		defer close(gone)
		e := end{wait: cmd.Wait()}
		e.copy = <-copied
		done <- e
	}()

	var ended end
	select {
	case ended = <-done:
	case <-ctx.Done():
		select {
		case ended = <-done:
		case <-time.After(2 * grace):
			stdout.close()
			stderr.close()
			return Result{ExitCode: -1}, &LeftError{Command: verb(c.Args), Ended: gone, cause: ctx.Err()}
		}
	}
	var feedErr error
	if c.Stdin != nil {
		// zfs receive stops at the end record, or when it fails, and need not
		// see the reader's end.
		select {
		case feedErr = <-fed:
		case <-time.After(grace):
		}
	}
	res := Result{Stdout: collected.Bytes(), Stderr: tail.String(), ExitCode: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil && !cmd.ProcessState.Success():
		return res, ctx.Err()
	case ended.copy != nil:
		return res, fmt.Errorf("run %s: write output: %w", argv[0], ended.copy)
	case feedErr != nil && !errors.Is(feedErr, syscall.EPIPE):
		return res, fmt.Errorf("run %s: read input: %w", argv[0], feedErr)
	case ended.wait == nil, errors.As(ended.wait, &exit) && exit.Exited():
		return res, nil
	default:
		return res, fmt.Errorf("run %s: %w", argv[0], ended.wait)
	}
}

// pipe is both ends of a pipe.
type pipe struct{ r, w *os.File }

func newPipe() (pipe, error) {
	r, w, err := os.Pipe()
	return pipe{r, w}, err
}

// streamBuffer is what is moved at a time, and pipeSize what a pipe with a stream
// holds: with little in between, whoever reads and whoever writes wait in turns.
// textBuffer is for lists and programs, which are many and short: large buffers
// would be most of what they cost here.
const (
	streamBuffer = 256 << 10
	pipeSize     = 1 << 20
	textBuffer   = 8 << 10
)

// copyStream hides what else its arguments can do: a copy in the kernel is not
// possible here, and copies in small pieces would be made instead.
func copyStream(w io.Writer, r io.Reader, buffer int) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, buffer))
	return err
}

// close closes a pipe that no command got; the zero pipe is closed.
func (p pipe) close() {
	if p.r != nil {
		p.r.Close()
		p.w.Close()
	}
}

// gate passes writes on until it is closed, so that a process left behind
// cannot write to what its caller has taken back.
type gate struct {
	mu     sync.Mutex
	w      io.Writer
	closed bool
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return 0, io.ErrClosedPipe
	}
	return g.w.Write(p)
}

func (g *gate) close() {
	// A writer that blocks holds the lock; it is not waited for.
	if g.mu.TryLock() {
		g.closed = true
		g.mu.Unlock()
	}
}

// bounded keeps the first max bytes and drops the rest.
type bounded struct {
	bytes.Buffer
	max int
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.max - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
