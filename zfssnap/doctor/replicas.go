package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/holds"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

func (e *examination) lookAtReplicas(ctx context.Context) {
	if len(e.roots()) == 0 {
		return
	}
	replicas, good := 0, true
	for _, root := range e.roots() {
		var datasets []zfs.Dataset
		var ours []string
		var props map[string]map[string]zfs.Property
		// A dataset may go away between the commands; the next look is right again.
		if !e.call(ctx, zfs.Pool(root), "replicas below "+root, func(ctx context.Context) (err error) {
			if datasets, err = e.ZFS.Datasets(ctx, root, true); err != nil {
				return err
			}
			if ours, err = e.ZFS.Tagged(ctx, root, names.PropSource); err != nil {
				return err
			}
			props, err = e.ZFS.GetEach(ctx, ours, "canmount", "volmode")
			return err
		}) {
			good = false
			continue
		}
		for _, d := range datasets {
			if slices.Contains(ours, d.Name) {
				replicas++
				good = e.lookAtReplica(d, props[d.Name]) && good
			}
			if d.ReceiveResumeToken != "" {
				good = e.lookAtToken(ctx, d) && good
			}
		}
	}
	if good {
		e.ok("replicas", fmt.Sprintf("%d, all read-only and not mounted", replicas))
	}
}

func (e *examination) lookAtReplica(d zfs.Dataset, props map[string]zfs.Property) (good bool) {
	good = true
	wrong := func(state State, message, set string) {
		good = false
		e.add(state, "replica "+d.Name, message, fmt.Sprintf("zfs %s %s", set, d.Name))
	}
	if d.Mounted {
		wrong(Problem, "it is mounted: what is written there parts it from its source", "unmount")
	}
	if !d.ReadOnly {
		wrong(Problem, "it is writable: the next increment is refused after a write", "set readonly=on")
	}
	if v := props["canmount"].Value; d.Type == zfs.Filesystem && v != "noauto" && v != "off" {
		wrong(Warning, "canmount is "+v+": it is mounted at the next boot", "set canmount=noauto")
	}
	if v := props["volmode"].Value; d.Type == zfs.Volume && v != "none" {
		wrong(Warning, "volmode is "+v+": its device can be opened", "set volmode=none")
	}
	return good
}

// lookAtToken warns of an interrupted receive that nobody goes on with. It holds
// space, and its base.
func (e *examination) lookAtToken(ctx context.Context, d zfs.Dataset) (good bool) {
	var began time.Time
	if !e.call(ctx, zfs.Pool(d.Name), "interrupted receive into "+d.Name, func(ctx context.Context) (err error) {
		began, err = e.ZFS.ReceiveBegan(ctx, d.Name)
		return err
	}) {
		return false
	}
	if age := e.Now().Sub(began); age > e.ReceiveAge {
		e.warn("interrupted receive into "+d.Name, fmt.Sprintf("begun %d days ago and not gone on with", int(age.Hours()/24)),
			"replicate again, which goes on with it; or drop what has arrived: zfs receive -A "+d.Name)
		return false
	}
	return true
}

func (e *examination) lookAtHolds(ctx context.Context) {
	if len(e.roots()) == 0 {
		return
	}
	now := e.Now()
	total := 0
	var dead, orphans, idle []string
	for _, root := range e.roots() {
		var found []holds.Hold
		if !e.call(ctx, zfs.Pool(root), "holds below "+root, func(ctx context.Context) (err error) {
			found, err = e.Holds.Look(ctx, root)
			return err
		}) {
			continue
		}
		total += len(found)
		for _, h := range found {
			is := h.Snapshot + " (" + h.Tag + ")"
			switch {
			case h.Dead && now.Sub(h.Placed) > deadHold:
				dead = append(dead, is)
			case h.State == holds.Orphan && !h.Dead:
				orphans = append(orphans, is)
			case holds.Purpose(h.Tag) == names.HoldReplication && now.Sub(h.Placed) > idleReplica:
				idle = append(idle, is+" for "+h.Owner)
			}
		}
	}
	good := true
	tell := func(names []string, message, remedy string) {
		if len(names) > 0 {
			good = false
			e.warn(strings.Fields(message)[0]+" holds", fmt.Sprintf(message, len(names), list(names)), remedy)
		}
	}
	tell(dead, "dead since more than a day: %d, %s", "zfs-agent holds --reap --tls=…; see why the agent does not, as with --reap-every=0")
	tell(orphans, "orphan and never released by themselves: %d, %s", "zfs-agent holds -o wide says why; zfs release TAG SNAPSHOT when they are not needed")
	tell(idle, "idle for more than 30 days: %d, %s", "replicate again; if the replica is given up, zfs release TAG SNAPSHOT")
	if good {
		e.ok("holds", fmt.Sprintf("%d, none leaked", total))
	}
}
