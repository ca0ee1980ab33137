package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
)

type uploadFlags struct {
	archiveFlags
	node     string
	full     bool
	maxChain int
	dryRun   bool
}

type uploadOptions struct {
	*archiveOptions
	uploader *archive.Uploader
	snapshot string
	dryRun   bool
}

func newUploadCommand(e env) *cobra.Command {
	f := &uploadFlags{}
	cmd := &cobra.Command{
		Use:   "upload DATASET@SNAPSHOT",
		Short: "Make a restore point of a snapshot",
		Long: `Make a restore point of a snapshot of this host.

The stream is an increment on the newest restore point that this dataset still has
as a snapshot or bookmark, and a full one without such. It becomes a restore point
when all of it is stored. An upload that was cut off continues when it is run
again: parts that are there, and still are what zfs send produces, are kept. A
snapshot that is archived already is success.

Encrypted datasets are sent raw; their keys never leave the host. The dataset and
its snapshots are not changed, but for a bookmark that the next increment can
start from.` + archiveExitStatus,
		Example: `  # Archive a snapshot, and start a new chain after 30 points
  zfs-agent archive upload znvm/k3s/pvc-1@daily-2026-03-04 --max-chain=30

  # What would be sent?
  zfs-agent archive upload znvm/k3s/pvc-1@daily-2026-03-04 --dry-run`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := f.toOptions(cmd, e, args)
			if err != nil {
				return err
			}
			return o.run(cmd.Context())
		},
	}
	f.add(cmd)
	f.addHost(cmd)
	cmd.Flags().StringVar(&f.node, "node", "", "name of this node in the archive (default: the host's name)")
	cmd.Flags().BoolVar(&f.full, "full", false, "send a full stream even where an increment would do")
	cmd.Flags().IntVar(&f.maxChain, "max-chain", 0, "send a full stream when the chain has that many points (default: max_chain of the configuration, else any number)")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the plan and do nothing")
	return cmd
}

func (f *uploadFlags) toOptions(cmd *cobra.Command, e env, args []string) (*uploadOptions, error) {
	if f.maxChain < 0 {
		return nil, errors.New("--max-chain is negative")
	}
	common, err := f.archiveFlags.toOptions(cmd, e)
	if err != nil {
		return nil, err
	}
	if f.node == "" {
		if f.node, err = e.hostname(); err != nil {
			return nil, fmt.Errorf("name this node: %w", err)
		}
	}
	o := &uploadOptions{
		archiveOptions: common, snapshot: args[0], dryRun: f.dryRun,
		uploader: common.config.Uploader(common.store, common.zfs, f.node, e.now),
	}
	o.uploader.Full = f.full
	if cmd.Flags().Changed("max-chain") {
		o.uploader.MaxChain = f.maxChain
	}
	return o, nil
}

func (o *uploadOptions) run(ctx context.Context) error {
	plan, err := o.uploader.Plan(ctx, o.snapshot)
	if err != nil {
		return err
	}
	if o.dryRun {
		return o.print("ArchiveUploadPlan", plan, []string{plan.Snapshot}, func(t *table) {
			t.row([]string{"SNAPSHOT", "ACTION", "BASE", "ESTIMATE", "KEPT PARTS"}, "GUID", "CHAIN", "RAW", "ENCRYPTED")
			t.row([]string{plan.Snapshot, string(plan.Action), plan.Base, ibytes(plan.Estimate), fmt.Sprint(plan.Kept)},
				plan.GUID.String(), fmt.Sprint(plan.Chain), fmt.Sprint(plan.Raw), fmt.Sprint(plan.Encrypted))
		})
	}
	p := o.progress("stored", plan.Estimate)
	o.uploader.Hooks = p.hooks()
	m, err := o.uploader.Upload(ctx, plan)
	if p.parts > 0 {
		p.say()
	}
	if err != nil {
		return err
	}
	v := pointOf(m, plan.Chain, archive.StateOK)
	return o.print("ArchivePoint", v, []string{v.Snapshot}, func(t *table) { pointTable(t, []point{v}) })
}
