package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// story prints what is done, shows the commands a user would type with their
// output, and counts the claims that were checked.
type story struct {
	out     io.Writer
	env     []string
	started time.Time
	chapter int
	checked int
	broken  []string
}

// errBroken ends a story at a claim the rest of it stands on.
var errBroken = errors.New("a claim does not hold")

func (s *story) begin(title string) {
	s.chapter++
	fmt.Fprintf(s.out, "\n── %d. %s  (%s)\n", s.chapter, title, s.elapsed())
}

func (s *story) say(format string, args ...any) {
	fmt.Fprintf(s.out, "   "+format+"\n", args...)
}

func (s *story) elapsed() time.Duration { return time.Since(s.started).Round(time.Second) }

// claim records whether something holds. The story goes on after one that does
// not, so that everything wrong is seen; the exit status tells.
func (s *story) claim(holds bool, format string, args ...any) bool {
	s.checked++
	text, mark := fmt.Sprintf(format, args...), "✓"
	if !holds {
		mark = "✗"
		s.broken = append(s.broken, text)
	}
	fmt.Fprintf(s.out, "   %s %s\n", mark, text)
	return holds
}

// must is a claim the rest stands on.
func (s *story) must(holds bool, format string, args ...any) error {
	if s.claim(holds, format, args...) {
		return nil
	}
	return errBroken
}

// show runs a command as a user would, prints it with its output, and returns
// its standard output and exit status.
func (s *story) show(ctx context.Context, argv ...string) (string, int, error) {
	fmt.Fprintf(s.out, "   $ %s\n", strings.Join(quoted(argv), " "))
	return s.command(ctx, &indent{w: s.out}, nil, argv)
}

// output runs a command without showing it; an exit status other than 0 is an error.
func (s *story) output(ctx context.Context, argv ...string) (string, error) {
	return s.input(ctx, nil, argv...)
}

// input is output with something on standard input.
func (s *story) input(ctx context.Context, stdin io.Reader, argv ...string) (string, error) {
	var stderr bytes.Buffer
	out, code, err := s.command(ctx, &stderr, stdin, argv)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit status %d", code)
	}
	if err != nil {
		return out, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// command sends standard error to w, and standard output too when w is the
// story's.
func (s *story) command(ctx context.Context, w io.Writer, stdin io.Reader, argv []string) (string, int, error) {
	var stdout bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stderr, cmd.Stdout = s.env, stdin, w, &stdout
	if in, shown := w.(*indent); shown {
		cmd.Stdout = io.MultiWriter(&stdout, in)
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return stdout.String(), exit.ExitCode(), nil
	}
	return stdout.String(), 0, err
}

// eventually polls until the condition holds; its text says what was seen last.
func (s *story) eventually(ctx context.Context, timeout time.Duration, what string, condition func(context.Context) (bool, string)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	seen := ""
	for {
		var holds bool
		if holds, seen = condition(ctx); holds {
			return nil
		}
		select {
		case <-ctx.Done():
			return s.must(false, "%s within %s (last seen: %s)", what, timeout, seen)
		case <-tick.C:
		}
	}
}

// indent sets a command's output off from the story.
type indent struct {
	w      io.Writer
	inLine bool
}

func (i *indent) Write(p []byte) (int, error) {
	var b bytes.Buffer
	for _, c := range p {
		if !i.inLine {
			b.WriteString("     ")
			i.inLine = true
		}
		b.WriteByte(c)
		if c == '\n' {
			i.inLine = false
		}
	}
	if _, err := i.w.Write(b.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// quoted makes arguments copyable into a shell.
func quoted(argv []string) []string {
	out := make([]string, len(argv))
	for i, a := range argv {
		if a == "" || strings.ContainsAny(a, " *?$&|;<>(){}'\"\\`\n") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out[i] = a
	}
	return out
}
