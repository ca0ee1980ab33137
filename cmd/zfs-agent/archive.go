package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"filippo.io/age"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

const archiveExitStatus = `

Exit status:
  0    done, or checked and sound
  1    error, or wrong usage
  2    checked and not sound
  130  interrupted`

func newArchiveCommand(e env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "archive",
		Short: "Keep snapshots in object storage, and restore from there",
		Long: `Keep snapshots in object storage, and restore from there.

--config names a YAML file that says where the archive is. Credentials of S3 come
from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or from a file in AWS's format,
never from the command line.`,
	}
	cmd.AddCommand(newUploadCommand(e), newListCommand(e), newVerifyCommand(e), newRestoreCommand(e), newPruneCommand(e))
	return cmd
}

// archiveFlags are those of every command of an archive.
type archiveFlags struct {
	config   string
	output   string
	identity string
	opens    bool // the command opens encrypted parts
	hostRoot string
}

func (f *archiveFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.config, "config", "/etc/zfs-agent/archive.yaml", "where the archive is, in YAML")
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "output format: json, yaml, wide or name (default: a table)")
}

func (f *archiveFlags) addIdentity(cmd *cobra.Command) {
	f.opens = true
	cmd.Flags().StringVar(&f.identity, "identity", "", "file of age secret keys that open encrypted parts (default: identity_file of the configuration)")
}

func (f *archiveFlags) addHost(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.hostRoot, "host-root", "", "run the zfs and zpool of the file system mounted there, for an agent in a container")
}

// archiveOptions are what archiveFlags stand for.
type archiveOptions struct {
	cmd        *cobra.Command
	env        env
	config     *archive.Config
	store      *archive.Store
	zfs        *zfs.Client
	identities []age.Identity
	output     string
}

func (f *archiveFlags) toOptions(cmd *cobra.Command, e env) (*archiveOptions, error) {
	o := &archiveOptions{cmd: cmd, env: e, output: f.output}
	err := checkOutput(f.output)
	if err != nil {
		return nil, err
	}
	if o.config, err = archive.LoadConfig(f.config); err != nil {
		return nil, err
	}
	if o.store, err = o.config.Open(); err != nil {
		return nil, err
	}
	if f.identity != "" {
		o.config.IdentityFile = f.identity
	}
	if f.opens {
		if o.identities, err = o.config.Identities(); err != nil {
			return nil, err
		}
	}
	o.zfs, err = e.zfs(f.hostRoot)
	return o, err
}

// print prints a result: as a document of a kind, its names, or a table.
func (o *archiveOptions) print(kind string, v any, names []string, fill func(t *table)) error {
	return printResult(o.cmd.OutOrStdout(), o.output, kind, v, names, fill)
}

func ibytes[N int64 | uint64](n N) string { return humanize.IBytes(uint64(n)) }

func at(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// progressEvery is how often a long run says how far it is.
const progressEvery = 10 * time.Second

// progress says on stderr how far a run is.
type progress struct {
	out   io.Writer
	now   func() time.Time
	verb  string
	total uint64 // expected, 0 when it is not known

	last  time.Time
	bytes uint64
	parts int
	kept  int
}

func (o *archiveOptions) progress(verb string, total uint64) *progress {
	return &progress{out: o.cmd.ErrOrStderr(), now: o.env.now, verb: verb, total: total, last: o.env.now()}
}

func (p *progress) hooks() archive.Hooks {
	return archive.Hooks{
		Part: func(e archive.PartEvent) {
			p.bytes += uint64(e.Bytes)
			p.parts++
			if e.Kept {
				p.kept++
			}
			if now := p.now(); now.Sub(p.last) >= progressEvery {
				p.last = now
				p.say()
			}
		},
		Warn: func(err error) { fmt.Fprintln(p.out, "Warning:", err) },
	}
}

func (p *progress) say() {
	line := fmt.Sprintf("%s %s", p.verb, ibytes(p.bytes))
	if p.total > 0 {
		line += " of about " + ibytes(p.total)
	}
	line += fmt.Sprintf(" in %d parts", p.parts)
	if p.kept > 0 {
		line += fmt.Sprintf(", %d of them there before", p.kept)
	}
	fmt.Fprintln(p.out, line)
}

// confirm asks before what cannot be undone.
func (o *archiveOptions) confirm(ctx context.Context, question string) error {
	in, ok := o.cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return errors.New("there is no terminal to ask on: add --yes to begin without being asked, or --dry-run to see the plan")
	}
	fmt.Fprintf(o.cmd.ErrOrStderr(), "%s Type yes to begin: ", question)
	answer := make(chan string, 1)
	go func() {
		var line string
		_, _ = fmt.Fscanln(in, &line)
		answer <- line
	}()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case got := <-answer:
		if got != "yes" {
			return errors.New("not begun")
		}
		return nil
	}
}
