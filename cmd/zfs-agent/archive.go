package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"filippo.io/age"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// env is what the commands of an archive have of the host.
type env struct {
	zfs      func(hostRoot string) (*zfs.Client, error)
	now      func() time.Time
	hostname func() (string, error)
}

func hostEnv() env { return env{zfs: hostZFS, now: time.Now, hostname: os.Hostname} }

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
	hostRoot string
}

func (f *archiveFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.config, "config", "/etc/zfs-agent/archive.yaml", "where the archive is, in YAML")
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "output format: json, yaml, wide or name (default: a table)")
}

func (f *archiveFlags) addIdentity(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.identity, "identity", "", "file of age secret keys that open encrypted parts")
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
	if !slices.Contains([]string{"", "json", "yaml", "wide", "name"}, f.output) {
		return nil, fmt.Errorf("--output %q is not json, yaml, wide or name", f.output)
	}
	var err error
	if o.config, err = archive.LoadConfig(f.config); err != nil {
		return nil, err
	}
	if o.store, err = o.config.Open(); err != nil {
		return nil, err
	}
	if f.identity != "" {
		if o.identities, err = archive.LoadIdentities(f.identity); err != nil {
			return nil, err
		}
	}
	o.zfs, err = e.zfs(f.hostRoot)
	return o, err
}

// print prints a result: as a document of a kind, its names, or a table.
func (o *archiveOptions) print(kind string, v any, names []string, fill func(t *table)) error {
	out := o.cmd.OutOrStdout()
	switch o.output {
	case "json", "yaml":
		data, err := document(kind, v)
		if err == nil && o.output == "yaml" {
			data, err = yaml.JSONToYAML(data)
		}
		if err == nil {
			_, err = out.Write(data)
		}
		return err
	case "name":
		for _, n := range names {
			if _, err := fmt.Fprintln(out, n); err != nil {
				return err
			}
		}
		return nil
	default:
		t := &table{w: tabwriter.NewWriter(out, 0, 0, 3, ' ', 0), wide: o.output == "wide"}
		fill(t)
		return errors.Join(t.err, t.w.Flush())
	}
}

// document puts what a document is before its fields.
func document(kind string, v any) ([]byte, error) {
	fields, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	head, err := json.Marshal(map[string]string{"apiVersion": names.Domain + "/v1alpha1", "kind": kind})
	if err != nil {
		return nil, err
	}
	merged := append(append(head[:len(head)-1], ','), fields[1:]...)
	var all json.RawMessage = merged
	data, err := json.MarshalIndent(all, "", "  ")
	return append(data, '\n'), err
}

// table is a table under way; cells that are for -o wide alone come last.
type table struct {
	w    *tabwriter.Writer
	wide bool
	err  error
}

func (t *table) row(cells []string, wide ...string) {
	if t.wide {
		cells = append(cells, wide...)
	}
	for i, c := range cells {
		if c == "" {
			cells[i] = "-"
		}
	}
	if _, err := fmt.Fprintln(t.w, strings.Join(cells, "\t")); err != nil && t.err == nil {
		t.err = err
	}
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
