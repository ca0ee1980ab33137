package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
)

// stateUnfinished is that of an upload that is no restore point.
const stateUnfinished archive.State = "unfinished"

// point is a restore point, or what is not one, as a listing shows it.
type point struct {
	Snapshot string        `json:"snapshot,omitempty"`
	GUID     archive.GUID  `json:"guid"`
	Node     string        `json:"node,omitempty"`
	Created  *time.Time    `json:"created,omitempty"`
	State    archive.State `json:"state"`
	Problem  string        `json:"problem,omitempty"`
	// Base is the guid of the point it is based on, and Chain how many points
	// restoring it takes.
	Base        archive.GUID      `json:"base,omitempty"`
	Chain       int               `json:"chain,omitempty"`
	Bytes       uint64            `json:"bytes,omitempty"` // of the stream
	StoredBytes int64             `json:"storedBytes"`
	Parts       int               `json:"parts"`
	Stream      *archive.Stream   `json:"stream,omitempty"`
	Recipients  []string          `json:"recipients,omitempty"`
	Properties  map[string]string `json:"properties,omitempty"`
}

func pointOf(m *archive.Manifest, chain int, state archive.State) point {
	p := point{
		Snapshot: m.FullName(), GUID: m.GUID, Node: m.Node, Created: &m.Created, State: state, Base: m.BaseGUID(), Chain: chain,
		StoredBytes: m.StoredBytes(), Parts: len(m.Parts), Stream: &m.Stream, Recipients: m.Recipients, Properties: m.Properties,
	}
	if m.End != nil {
		p.Bytes = m.End.Bytes
	}
	return p
}

// pointsOf lists a catalog, or what of it belongs to datasets.
func pointsOf(c *archive.Catalog, datasets []string) []point {
	all := []point{}
	asked := func(m *archive.Manifest) bool {
		return len(datasets) == 0 || m != nil && slices.Contains(datasets, m.Dataset)
	}
	for _, m := range c.Points {
		if !asked(m) {
			continue
		}
		chain, err := c.Chain(m.GUID)
		p := pointOf(m, len(chain), archive.StateOK)
		if err != nil {
			p.State, p.Problem = archive.StateBroken, err.Error()
		}
		all = append(all, p)
	}
	for _, u := range c.Unfinished {
		if !asked(u.Record) {
			continue
		}
		p := point{GUID: u.GUID}
		if u.Record != nil {
			p = pointOf(u.Record, 0, stateUnfinished)
		}
		if u.Err != nil {
			p.Problem = u.Err.Error()
		}
		p.State, p.Parts, p.StoredBytes = stateUnfinished, u.Parts, u.Bytes
		all = append(all, p)
	}
	for _, v := range c.Manifests() {
		if len(datasets) == 0 {
			all = append(all, point{GUID: v.GUID, State: v.State, Problem: v.Findings[0].Problem})
		}
	}
	return all
}

func pointTable(t *table, points []point) {
	t.row([]string{"SNAPSHOT", "CREATED", "STATE", "BASE", "STORED"}, "GUID", "NODE", "CHAIN", "PARTS", "FLAGS", "ENCRYPTED", "PROBLEM")
	for _, p := range points {
		created, base, flags := "", "full", ""
		if p.Created != nil {
			created = at(*p.Created)
		}
		if p.Base != 0 {
			base = p.Base.String()
		}
		if p.Stream != nil {
			flags = sendFlags(p.Stream.Flags)
		} else {
			base = ""
		}
		t.row([]string{p.Snapshot, created, string(p.State), base, ibytes(p.StoredBytes)},
			p.GUID.String(), p.Node, fmt.Sprint(p.Chain), fmt.Sprint(p.Parts), flags, fmt.Sprint(len(p.Recipients) > 0), p.Problem)
	}
}

// sendFlags are the options of zfs send as they are typed.
func sendFlags(f archive.Flags) string {
	if f.Letters() == "" {
		return ""
	}
	return "-" + f.Letters()
}

func snapshotNames(points []point) []string {
	var all []string
	for _, p := range points {
		if p.Snapshot != "" {
			all = append(all, p.Snapshot)
		}
	}
	return all
}

type listOptions struct {
	*archiveOptions
	datasets []string
}

func newListCommand(e env) *cobra.Command {
	f := &archiveFlags{}
	cmd := &cobra.Command{
		Use:   "list [DATASET...]",
		Short: "List restore points",
		Long: `List restore points, of all datasets or of some, and uploads that are not finished.

A point is ok when its manifest is sound and so are those of all points it is based
on; that its parts are too is what verify tells. It is broken when a point it is
based on is missing. An upload that is unfinished runs, or continues when it is run
again.` + archiveExitStatus,
		Example: `  zfs-agent archive list
  zfs-agent archive list znvm/k3s/pvc-1 -o wide`,
		RunE: func(cmd *cobra.Command, args []string) error {
			common, err := f.toOptions(cmd, e)
			if err != nil {
				return err
			}
			return (&listOptions{common, args}).run(cmd.Context())
		},
	}
	f.add(cmd)
	return cmd
}

func (o *listOptions) run(ctx context.Context) error {
	c, err := o.store.Catalog(ctx)
	if err != nil {
		return err
	}
	points := pointsOf(c, o.datasets)
	if len(points) == 0 && o.output != "json" && o.output != "yaml" {
		fmt.Fprintf(o.cmd.ErrOrStderr(), "there are no restore points in %s\n", o.store.Name)
		return nil
	}
	return o.print("ArchivePointList", map[string]any{"items": points}, snapshotNames(points), func(t *table) { pointTable(t, points) })
}

type verifyOptions struct {
	*archiveOptions
	named []string
}

func newVerifyCommand(e env) *cobra.Command {
	f := &archiveFlags{}
	cmd := &cobra.Command{
		Use:   "verify [DATASET|DATASET@SNAPSHOT|GUID...]",
		Short: "Read restore points back and check every byte",
		Long: `Read restore points back and check every byte, without restoring.

Each part must have the SHA-256 that its manifest says, and so must the stream that
the parts make up. Encrypted parts are checked as they are stored; with --identity,
what is encrypted in them too. A point named by snapshot or guid is checked along
with all that it is based on.` + archiveExitStatus,
		Example: `  # Everything there is
  zfs-agent archive verify --identity=/root/archive.key

  # What one restore would take
  zfs-agent archive verify znvm/k3s/pvc-1@daily-2026-03-04`,
		RunE: func(cmd *cobra.Command, args []string) error {
			common, err := f.toOptions(cmd, e)
			if err != nil {
				return err
			}
			return (&verifyOptions{common, args}).run(cmd.Context())
		},
	}
	f.add(cmd)
	f.addIdentity(cmd)
	return cmd
}

// choose finds the points that arguments name.
func (o *verifyOptions) choose(c *archive.Catalog) ([]*archive.Manifest, error) {
	if len(o.named) == 0 {
		return c.Points, nil
	}
	wanted := map[archive.GUID]bool{}
	for _, name := range o.named {
		found := false
		for _, m := range c.Points {
			if m.Dataset == name {
				wanted[m.GUID], found = true, true
			}
		}
		if found {
			continue
		}
		m, err := c.Find(name)
		if err != nil {
			return nil, err
		}
		wanted[m.GUID] = true
		chain, err := c.Chain(m.GUID)
		if err != nil && !errors.Is(err, archive.ErrBroken) {
			return nil, err
		}
		for _, below := range chain {
			wanted[below.GUID] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(c.Points), func(m *archive.Manifest) bool { return !wanted[m.GUID] }), nil
}

func (o *verifyOptions) run(ctx context.Context) error {
	c, err := o.store.Catalog(ctx)
	if err != nil {
		return err
	}
	points, err := o.choose(c)
	if err != nil {
		return err
	}
	var total uint64
	for _, m := range points {
		total += m.End.Bytes
	}
	p := o.progress("checked", total)
	v := &archive.Verifier{Store: o.store, Identities: o.identities, Concurrency: o.config.Concurrency, Hooks: p.hooks()}
	found, err := v.Verify(ctx, c, points)
	if err != nil {
		return err
	}
	if len(o.named) == 0 {
		found = append(found, c.Manifests()...)
	}
	bad := 0
	var all []string
	for _, v := range found {
		if v.State != archive.StateOK {
			bad++
		}
		all = append(all, v.Snapshot)
	}
	err = o.print("ArchiveVerification", map[string]any{"items": found}, all, func(t *table) {
		t.row([]string{"SNAPSHOT", "GUID", "STATE", "CHECKED", "READ", "PROBLEM"})
		for _, v := range found {
			checked := "stored parts"
			if v.Stream {
				checked = "stream"
			}
			var problems []string
			for _, f := range v.Findings {
				problems = append(problems, f.Problem)
			}
			t.row([]string{v.Snapshot, v.GUID.String(), string(v.State), checked, ibytes(v.Bytes), strings.Join(problems, "; ")})
		}
	})
	if err == nil && bad > 0 {
		err = fmt.Errorf("%w: %d of %d restore points are not sound", errUnhealthy, bad, len(found))
	}
	return err
}
