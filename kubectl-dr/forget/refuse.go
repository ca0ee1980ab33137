package forget

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/restorepoint"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
)

// known returns who knows which of the backups of a name, by what of their uid is
// in the names of snapshots. unclear says why that can't be told of one.
func (f *Forgetter) known(ctx context.Context, backup string) (known map[string]string, unclear, err error) {
	known = map[string]string{}
	taken := false
	for _, c := range append([]*cluster.Cluster{f.Recovery}, f.Others...) {
		b := &velerov1api.Backup{}
		err := c.Client.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: backup}, b)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("get backup %q in namespace %s of context %q: %w", backup, c.Namespace, c.Context, err)
		}
		by := fmt.Sprintf("Velero of context %s has backup %s in storage location %s", c.Context, backup, b.Spec.StorageLocation)
		known[zfssnap.ShortUID(b.UID)] = by
		if !synced(b) {
			taken = true
			continue
		}
		// Its object here has another uid than the one that snapshots were named
		// after.
		ids, err := restorepoint.Recorded(ctx, c.Files, backup)
		if err != nil {
			return nil, nil, err
		}
		recorded := false
		for _, id := range ids {
			if uid, ok := names.UIDOf(id.Snapshot, zfssnap.SnapshotStem(backup)); ok {
				known[uid], recorded = by, true
			}
		}
		if !recorded {
			unclear = hint.Errorf("name the cluster that took it with --source-context: there its uid is known",
				"Velero of context %s has a backup %s that another cluster took, and no record of its snapshots: which are its own can't be told", c.Context, backup)
		}
	}
	if taken {
		unclear = nil
	}
	return known, unclear, nil
}

// synced reports whether a backup was taken by another cluster: Velero makes its
// object when it finds it in object storage.
func synced(b *velerov1api.Backup) bool {
	return b.Status.StartTimestamp != nil && b.CreationTimestamp.After(b.Status.StartTimestamp.Time)
}

// refuse says why nothing of a plan may be destroyed.
func (f *Forgetter) refuse(ctx context.Context, p *Plan, unclear error) (refused, err error) {
	in := func(s State) (items []Item) {
		for _, i := range p.Items {
			if i.State == s {
				items = append(items, i)
			}
		}
		return items
	}
	blocked, known := in(Blocked), in(Known)
	if len(p.Items) > 0 && len(known) == len(p.Items) {
		return hint.Errorf(fmt.Sprintf("velero backup delete %s, where it was taken, deletes it with its snapshots", p.Backup), "%s", known[0].Reason), nil
	}
	if !p.ToDo() && len(blocked) == 0 {
		return nil, nil
	}
	if unclear != nil {
		return unclear, nil
	}
	if err := ambiguous(p); err != nil {
		return err, nil
	}
	newest := newestOf(p.Items)
	if age := f.Now().Sub(newest); age < f.MinAge {
		return hint.Errorf(fmt.Sprintf("wait until %s; or, when nothing takes or copies it any more, say --min-age=0s", newest.Add(f.MinAge).UTC().Format(time.RFC3339)),
			"the newest snapshot of backup %s is %s old, and a backup that runs is not known everywhere", p.Backup, report.Age(age)), nil
	}
	if unsynced, err := f.unsynced(ctx, newest); err != nil || unsynced != nil && !f.Unsynced {
		return unsynced, err
	}
	return inTheWay(p.Backup, blocked), nil
}

// ambiguous asks for the uid where several backups of the name are left over.
func ambiguous(p *Plan) error {
	var uids []string
	for _, i := range p.Items {
		if i.State != Known && !slices.Contains(uids, i.UID) {
			uids = append(uids, i.UID)
		}
	}
	if len(uids) < 2 {
		return nil
	}
	slices.Sort(uids)
	return hint.Errorf("say which with --uid="+uids[0], "there are snapshots of %d backups that were named %s: of uid %s", len(uids), p.Backup, strings.Join(uids, ", "))
}

// newestOf is when the newest snapshot was taken that is not of a known backup.
func newestOf(items []Item) (newest time.Time) {
	for _, i := range items {
		if i.State != Known && i.ID.Created.After(newest) {
			newest = i.ID.Created
		}
	}
	return newest
}

// unsynced says which storage locations of the recovery cluster might have a backup
// that Velero there has not seen: those it has not listed since the newest snapshot
// was as old as MinAge.
func (f *Forgetter) unsynced(ctx context.Context, newest time.Time) (refused, err error) {
	c := f.Recovery
	list := &velerov1api.BackupStorageLocationList{}
	if err := c.Client.List(ctx, list, client.InNamespace(c.Namespace)); err != nil {
		return nil, fmt.Errorf("list BackupStorageLocations in namespace %s: %w", c.Namespace, err)
	}
	if len(list.Items) == 0 {
		return hint.Errorf("add the BackupStorageLocation of the backups; or say --accept-unsynced when their bucket is gone",
			"Velero of context %s has no BackupStorageLocation, so it knows no backup", c.Context), nil
	}
	var missing []string
	for _, l := range list.Items {
		switch last := l.Status.LastSyncedTime; {
		case last == nil:
			missing = append(missing, l.Name+", which it never listed")
		case last.Time.Before(newest.Add(f.MinAge)):
			missing = append(missing, fmt.Sprintf("%s, which it listed %s", l.Name, last.UTC().Format(time.RFC3339)))
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	return hint.Errorf("make it Available; delete it if its bucket is gone: velero backup-location delete; or say --accept-unsynced",
		"Velero of context %s can't know whether the backup is in storage location %s", c.Context, strings.Join(missing, ", or in ")), nil
}

// inTheWay is the error for what is blocked, nil for nothing.
func inTheWay(backup string, blocked []Item) error {
	var each []string
	for _, i := range blocked {
		each = append(each, fmt.Sprintf("%s: %s", i, i.Reason))
	}
	if len(each) == 0 {
		return nil
	}
	return hint.Errorf("clones of a drill go with kubectl dr drill cleanup; what is not known to be ours, and what others hold or made of it, is for you to destroy or release: zfs destroy, zfs release",
		"nothing of backup %s is destroyed while this is in the way: %s", backup, strings.Join(each, "; "))
}
