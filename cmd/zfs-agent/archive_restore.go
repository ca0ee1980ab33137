package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
)

type restoreFlags struct {
	archiveFlags
	to     string
	dryRun bool
}

type restoreOptions struct {
	*archiveOptions
	point  string
	to     string
	dryRun bool
}

func newRestoreCommand(e env) *cobra.Command {
	f := &restoreFlags{}
	cmd := &cobra.Command{
		Use:   "restore DATASET@SNAPSHOT|GUID --to DATASET",
		Short: "Make a dataset of a restore point",
		Long: `Make a dataset of a restore point and all that it is based on.

The target must not exist, or come from an earlier restore of the same dataset: then
only what it lacks is received. It is received read-only and unmounted, as a replica
is; what is to be written to is a clone of it. Quota, record size and compression
are put back, where it was mounted is not.

Each part is checked before its bytes are given to zfs receive, and the snapshot by
guid after it. Nothing is rolled back or destroyed. After a failure the target has
whole snapshots only; run it again to continue.` + archiveExitStatus,
		Example: `  # Restore to another pool, then make a copy to work with
  zfs-agent archive restore znvm/k3s/pvc-1@daily-2026-03-04 --to=backup/pvc-1
  zfs clone -o readonly=off -o mountpoint=/mnt backup/pvc-1@daily-2026-03-04 backup/look`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			common, err := f.archiveFlags.toOptions(cmd, e)
			if err != nil {
				return err
			}
			o := &restoreOptions{archiveOptions: common, point: args[0], to: f.to, dryRun: f.dryRun}
			return o.run(cmd.Context())
		},
	}
	f.add(cmd)
	f.addIdentity(cmd)
	f.addHost(cmd)
	cmd.Flags().StringVar(&f.to, "to", "", "dataset to make")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the plan and do nothing")
	if err := cmd.MarkFlagRequired("to"); err != nil {
		panic(err)
	}
	return cmd
}

func (o *restoreOptions) run(ctx context.Context) error {
	c, err := o.store.Catalog(ctx)
	if err != nil {
		return err
	}
	m, err := c.Find(o.point)
	if err != nil {
		return err
	}
	r := &archive.Restorer{ZFS: o.zfs, Store: o.store, Identities: o.identities, Concurrency: o.config.Concurrency}
	plan, err := r.Plan(ctx, c, m.GUID, o.to)
	if err != nil {
		return err
	}
	show := func() error {
		return o.print("ArchiveRestorePlan", plan, []string{plan.Target}, func(t *table) {
			t.row([]string{"SNAPSHOT", "BASE", "STREAM", "STORED", "THERE"}, "GUID")
			for _, s := range plan.Steps {
				base := "full"
				if s.Base != 0 {
					base = s.Base.String()
				}
				t.row([]string{s.Snapshot, base, ibytes(s.Bytes), ibytes(s.StoredBytes), fmt.Sprint(s.There)}, s.GUID.String())
			}
		})
	}
	if o.dryRun {
		return show()
	}
	var total uint64
	for _, s := range plan.Steps {
		if !s.There {
			total += s.Bytes
		}
	}
	p := o.progress("restored", total)
	r.Hooks = p.hooks()
	v, err := r.Restore(ctx, plan)
	if p.parts > 0 {
		p.say()
	}
	if err != nil {
		return err
	}
	if plan.Encryption != "off" {
		fmt.Fprintf(o.cmd.ErrOrStderr(), "%s is encrypted: zfs load-key %s before a clone of it is mounted\n", plan.Target, plan.Target)
	}
	result := map[string]any{"snapshot": v.FullName(), "guid": archive.GUID(v.GUID), "source": plan.Source, "bytes": p.bytes}
	return o.print("ArchiveRestore", result, []string{v.FullName()}, func(t *table) {
		t.row([]string{"SNAPSHOT", "SOURCE", "RESTORED"}, "GUID")
		t.row([]string{v.FullName(), plan.Source, ibytes(p.bytes)}, archive.GUID(v.GUID).String())
	})
}
