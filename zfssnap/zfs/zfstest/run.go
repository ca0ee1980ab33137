package zfstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

var _ zfs.Runner = (*Pool)(nil)

// errKilled is what a Runner says of a process that a signal ended.
var errKilled = errors.New("signal: killed")

// failure is a command that did not succeed.
type failure struct {
	code   int
	stderr string
}

func fail(format string, args ...any) *failure {
	return &failure{code: 1, stderr: fmt.Sprintf(format, args...) + "\n"}
}

// and adds what failed later; f is nil when nothing did before.
func (f *failure) and(later *failure) *failure {
	if f == nil {
		return later
	}
	return &failure{code: max(f.code, later.code), stderr: f.stderr + later.stderr}
}

func notFound(name string) *failure { return fail("cannot open '%s': dataset does not exist", name) }

// usage is the failure of a command that prints how it is used.
func usage(f *failure) *failure {
	f.code = 2
	f.stderr += "usage:\n"
	return f
}

// flags are the options of one command: those given, and the operands.
type flags struct {
	set      map[string]bool
	value    map[string]string
	props    [][2]string // -o name=value, in order
	exclude  []string    // -x
	operands []string
}

// parse reads options as getopt does; valued lists those that take a value.
func parse(args []string, known, valued string) (flags, *failure) {
	f := flags{set: map[string]bool{}, value: map[string]string{}}
	for i := 0; i < len(args); i++ {
		a := args[i]
		if len(a) < 2 || a[0] != '-' {
			f.operands = args[i:]
			break
		}
		for j := 1; j < len(a); j++ {
			o := a[j : j+1]
			switch {
			case strings.Contains(valued, o):
				v := a[j+1:]
				if v == "" {
					if i++; i >= len(args) {
						return f, usage(fail("missing argument for '%s' option", o))
					}
					v = args[i]
				}
				j = len(a)
				name, value, pair := strings.Cut(v, "=")
				switch {
				case o == "x":
					f.exclude = append(f.exclude, v)
				case o == "o" && pair:
					f.props = append(f.props, [2]string{name, value})
				default:
					f.value[o] = v
				}
			case strings.Contains(known, o):
				f.set[o] = true
			default:
				return f, usage(fail("invalid option '%s'", o))
			}
		}
	}
	return f, nil
}

// Run implements [zfs.Runner].
func (p *Pool) Run(ctx context.Context, c zfs.Cmd) (zfs.Result, error) {
	if err := ctx.Err(); err != nil {
		return zfs.Result{}, err
	}
	p.mu.Lock()
	p.commands = append(p.commands, append([]string(nil), c.Args...))
	before, dead := p.before, p.dead
	p.mu.Unlock()
	if before != nil {
		if err := before(c.Args); err != nil {
			return zfs.Result{ExitCode: -1}, err
		}
	}
	if dead {
		return zfs.Result{ExitCode: -1}, errors.New("the host is dead")
	}
	if c.Args[0] == "hostid" {
		return zfs.Result{Stdout: fmt.Appendf(nil, "%08x\n", p.hostID)}, nil
	}
	if len(c.Args) < 2 {
		return zfs.Result{}, errors.New("run command: too few arguments")
	}
	if p.hangs(c.Args) {
		<-ctx.Done()
		return zfs.Result{ExitCode: -1}, ctx.Err()
	}
	verb, args := c.Args[1], c.Args[2:]
	switch c.Args[0] {
	case "zpool":
		verb = "zpool " + verb
	case "zdb", "uname":
		verb, args = c.Args[0], c.Args[1:]
	}
	out := &bytes.Buffer{}
	var failed *failure
	var err error
	switch verb {
	case "send":
		failed, err = p.send(ctx, args, c.Stdout, out)
	case "receive":
		failed, err = p.receive(ctx, args, c.Stdin)
	case "program":
		failed, err = p.program(args, c.Stdin, out)
	default:
		p.mu.Lock()
		failed = p.dispatch(verb, args, out)
		p.mu.Unlock()
	}
	res := zfs.Result{}
	if failed != nil {
		res.ExitCode, res.Stderr = failed.code, failed.stderr
	}
	if errors.Is(err, errKilled) || ctx.Err() != nil && err != nil {
		res.ExitCode = -1
	}
	if c.Stdout == nil {
		res.Stdout = out.Bytes()
	} else if verb != "send" {
		_, err = io.Copy(c.Stdout, out)
	}
	return res, err
}

func (p *Pool) dispatch(verb string, args []string, out io.Writer) *failure {
	switch verb {
	case "zpool list":
		return p.zpoolList(args, out)
	case "zpool get":
		return p.zpoolGet(args, out)
	case "zpool import":
		return p.zpoolImport(args, out)
	case "zpool export":
		return p.zpoolExport(args)
	case "zdb":
		return p.zdb(args, out)
	case "uname":
		fmt.Fprintln(out, p.host)
		return nil
	case "version":
		fmt.Fprintf(out, "zfs-%s\nzfs-kmod-%s\n", p.userland, p.module)
		return nil
	case "list":
		return p.list(args, out)
	case "get":
		return p.get(args, out)
	case "snapshot":
		return p.takeSnapshots(args)
	case "hold":
		return p.hold(args)
	case "release":
		return p.release(args)
	case "holds":
		return p.holds(args, out)
	case "bookmark":
		return p.makeBookmark(args)
	case "create":
		return p.create(args)
	case "clone":
		return p.clone(args)
	case "promote":
		return p.promote(args)
	case "destroy":
		return p.destroy(args)
	case "rename":
		return p.rename(args)
	case "set":
		return p.set(args)
	case "inherit":
		return p.inherit(args)
	case "load-key":
		return p.loadKey(args)
	case "mount":
		return p.mount(args)
	case "unmount":
		return p.unmount(args)
	default:
		return usage(fail("unrecognized command '%s'", verb))
	}
}

// hangs tells whether a command names a pool that does not answer.
func (p *Pool) hangs(args []string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range args[2:] {
		if v := p.pools[poolOf(a)]; v != nil && v.hanging {
			return true
		}
	}
	return false
}

// open finds a dataset, as every command does first.
func (p *Pool) open(name string) (*dataset, *failure) {
	if f := p.suspended(name); f != nil {
		return nil, f
	}
	d := p.datasets[name]
	if d == nil {
		return nil, notFound(name)
	}
	return d, nil
}

func (p *Pool) openSnapshot(name string) (*snapshot, *failure) {
	if f := p.suspended(name); f != nil {
		return nil, f
	}
	s := p.snapshot(name)
	if s == nil {
		return nil, notFound(name)
	}
	return s, nil
}

func (p *Pool) suspended(name string) *failure {
	if v := p.pools[poolOf(name)]; v != nil && v.suspended {
		return fail("cannot open '%s': pool I/O is currently suspended", name)
	}
	return nil
}
