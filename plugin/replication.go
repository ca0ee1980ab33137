package plugin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/sirupsen/logrus"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"github.com/vmware-tanzu/velero/pkg/kuberesource"
	"github.com/vmware-tanzu/velero/pkg/plugin/velero"
	biav2 "github.com/vmware-tanzu/velero/pkg/plugin/velero/backupitemaction/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// pollTimeout bounds one look at a transfer: Velero polls every operation of
// every backup in turn and waits for each.
const pollTimeout = time.Minute

// ReplicationAction keeps a backup waiting until the target, the archive or both
// hold a copy of every volume's snapshot, so that a Completed backup can be
// recovered from there. It runs on a PersistentVolume before its snapshot is taken; the copy
// is made while Velero polls, after all snapshots were taken.
type ReplicationAction struct {
	Sites *zfssnap.Sites
	Log   logrus.FieldLogger
	Now   func() time.Time

	policy *snapshotPolicy
}

// NewReplicationAction returns the action with the clock of this machine.
func NewReplicationAction(sites *zfssnap.Sites, log logrus.FieldLogger) *ReplicationAction {
	return &ReplicationAction{Sites: sites, Log: log, Now: time.Now, policy: &snapshotPolicy{kube: sites.Kube, log: log}}
}

var _ biav2.BackupItemAction = (*ReplicationAction)(nil)

// Name is required by the interface; Velero uses the registered name.
func (a *ReplicationAction) Name() string { return ReplicationName }

// AppliesTo selects PersistentVolumes.
func (a *ReplicationAction) AppliesTo() (velero.ResourceSelector, error) {
	return velero.ResourceSelector{IncludedResources: []string{kuberesource.PersistentVolumes.Resource}}, nil
}

// Execute returns an operation for a volume that Velero is about to snapshot
// into a location with a target or an archive. A volume of such a location that can not be
// resolved is an error, which makes the backup PartiallyFailed.
func (a *ReplicationAction) Execute(item runtime.Unstructured, backup *velerov1api.Backup) (runtime.Unstructured, []velero.ResourceIdentifier, string, []velero.ResourceIdentifier, error) {
	op, err := a.operation(context.Background(), item, backup)
	if err != nil {
		return nil, nil, "", nil, err
	}
	if op == nil {
		return item, nil, "", nil, nil
	}
	return item, nil, op.String(), nil, nil
}

// operation returns what has to be waited for, or nil for nothing.
func (a *ReplicationAction) operation(ctx context.Context, item runtime.Unstructured, backup *velerov1api.Backup) (*operation, error) {
	switch backup.Status.Phase {
	case velerov1api.BackupPhaseFinalizing, velerov1api.BackupPhaseFinalizingPartiallyFailed:
		// Velero no longer waits for operations.
		return nil, nil
	}
	site, location, err := siteOf(ctx, a.Sites, backup)
	if err != nil || site == nil {
		return nil, err
	}
	if site.Target == "" && site.Archive == "" {
		return nil, nil
	}
	vol, ours, err := site.Locate(ctx, item)
	if err != nil || !ours {
		return nil, err
	}
	if _, ok := site.Destination(vol.Node, vol.Dataset); !ok && site.Archive == "" {
		return nil, nil
	}
	// Asked last, because it lists pods.
	taken, err := a.policy.takes(ctx, item, backup)
	if err != nil || !taken {
		return nil, err
	}
	return &operation{location: location, snapshot: zfssnap.SnapshotName(backup.Name, backup.UID), volume: vol}, nil
}

// Progress starts or follows the copies. It completes when all places hold the
// snapshot, fails when that can not come about or there is no snapshot, and keeps
// Velero waiting while an agent or the cluster does not answer, up to the
// location's replicationTimeout after the backup's start. An error returned to
// Velero would fail the operation for good, so none is returned for any of these.
func (a *ReplicationAction) Progress(operationID string, backup *velerov1api.Backup) (velero.OperationProgress, error) {
	op, err := parseOperation(operationID)
	if err != nil {
		return velero.OperationProgress{}, err
	}
	if zfssnap.SnapshotFailed(backup, op.volume) {
		err := fmt.Errorf("%s of node %s is not in the backup: its snapshot failed", op.volume.Dataset, op.volume.Node)
		return a.unsettled(err, true, backup, 0), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), pollTimeout)
	defer cancel()
	site, err := a.site(ctx, op, backup)
	if err != nil {
		return a.unsettled(err, permanent(err), backup, zfssnap.DefaultReplicationTimeout), nil
	}
	var each []velero.OperationProgress
	for _, c := range site.Copies(ctx, op.volume, op.snapshot) {
		switch {
		case c.Err != nil:
			each = append(each, a.unsettled(c.Err, !zfssnap.Unreachable(c.Err), backup, site.ReplicationTimeout))
		case c.Arrival != nil:
			each = append(each, a.arrivalOf(*c.Arrival, backup, site))
		default:
			each = append(each, progressOf(c.Transfer, op, c.To))
		}
	}
	if len(each) == 0 {
		err := fmt.Errorf("snapshot location %s has neither target nor archive any more", op.location)
		return a.unsettled(err, true, backup, site.ReplicationTimeout), nil
	}
	return together(each), nil
}

// together is the progress of several copies as one: their bytes are summed, it
// completes when all have, and fails when one does.
func together(each []velero.OperationProgress) velero.OperationProgress {
	all := velero.OperationProgress{Completed: true, OperationUnits: "Bytes"}
	var errs, descriptions []string
	for _, p := range each {
		all.NCompleted += p.NCompleted
		all.NTotal += p.NTotal
		all.Completed = all.Completed && p.Completed
		if all.Started.IsZero() || !p.Started.IsZero() && p.Started.Before(all.Started) {
			all.Started = p.Started
		}
		if p.Updated.After(all.Updated) {
			all.Updated = p.Updated
		}
		if p.Err != "" {
			errs = append(errs, p.Err)
		}
		if p.Description != "" {
			descriptions = append(descriptions, p.Description)
		}
	}
	all.Completed = all.Completed || len(errs) > 0
	all.Err, all.Description = strings.Join(errs, "; "), strings.Join(descriptions, "; ")
	return all
}

func (a *ReplicationAction) site(ctx context.Context, op operation, backup *velerov1api.Backup) (*zfssnap.Site, error) {
	vsl, err := getLocation(ctx, a.Sites, backup.Namespace, op.location)
	if err != nil {
		return nil, err
	}
	return a.Sites.OpenLocation(ctx, vsl)
}

// permanent reports whether opening a location failed for a reason that asking
// again does not change.
func permanent(err error) bool {
	var bad *zfssnap.LocationError
	return apierrors.IsNotFound(err) || errors.As(err, &bad)
}

// unsettled is the progress when nothing is known of the transfer.
func (a *ReplicationAction) unsettled(err error, permanent bool, backup *velerov1api.Backup, timeout time.Duration) velero.OperationProgress {
	now := a.Now()
	if start := backup.Status.StartTimestamp; !permanent && start != nil && now.After(start.Add(timeout)) {
		err, permanent = fmt.Errorf("gave up after %s: %w", timeout, err), true
	}
	p := velero.OperationProgress{OperationUnits: "Bytes", Updated: now, Completed: permanent}
	if permanent {
		p.Err = err.Error()
	} else {
		a.Log.WithError(err).Warn("replication is waiting")
		p.Description = "waiting: " + err.Error()
	}
	return p
}

// arrivalOf is the progress where another tool replicates. It has all the
// location's replicationTimeout, from the start of the backup.
func (a *ReplicationAction) arrivalOf(arrival zfssnap.Arrival, backup *velerov1api.Backup, site *zfssnap.Site) velero.OperationProgress {
	if !arrival.Arrived() {
		return a.unsettled(fmt.Errorf("another tool replicates to node %s: %s", site.Target, arrival), false, backup, site.ReplicationTimeout)
	}
	return velero.OperationProgress{
		Completed: true, OperationUnits: "Bytes", Updated: a.Now(),
		Description: fmt.Sprintf("replicated to node %s by another tool: %s", site.Target, arrival),
	}
}

// progressOf is the progress of a copy to one place.
func progressOf(t *agentpb.Transfer, op operation, to string) velero.OperationProgress {
	p := velero.OperationProgress{
		NCompleted:     int64(t.GetBytesSent()),
		NTotal:         int64(max(t.GetBytesTotal(), t.GetBytesSent())),
		OperationUnits: "Bytes",
		Started:        time.UnixMilli(t.GetStartedUnixMs()),
		Updated:        time.UnixMilli(t.GetUpdatedUnixMs()),
	}
	what := fmt.Sprintf("%s@%s to %s", op.volume.Dataset, op.snapshot, to)
	switch t.GetState() {
	case agentpb.Transfer_DONE:
		p.Completed, p.NCompleted = true, p.NTotal
		p.Description = "copied " + what
	case agentpb.Transfer_FAILED, agentpb.Transfer_CANCELLED:
		p.Completed = true
		p.Err = fmt.Sprintf("copy %s: %s", what, strings.ToLower(t.GetState().String()))
		if t.GetError() != "" {
			p.Err = fmt.Sprintf("copy %s: %s", what, t.GetError())
		}
	default:
		p.Description = "copying " + what
		if t.GetBase() != "" {
			p.Description += ", incremental from " + t.GetBase()
		}
		if t.GetResumed() {
			p.Description += ", resumed"
		}
		if t.GetRateBytesPerSecond() > 0 {
			p.Description += ", " + humanize.IBytes(t.GetRateBytesPerSecond()) + "/s"
		}
		if t.GetEtaSeconds() > 0 {
			p.Description += fmt.Sprintf(", %s left", time.Duration(t.GetEtaSeconds())*time.Second)
		}
		if t.GetStalled() {
			p.Description += "; no data has moved for some time"
		}
		if t.GetError() != "" {
			p.Description += "; waiting to try again: " + t.GetError()
		}
	}
	return p
}

// Cancel stops the copies. It learns their transfers by asking for them, which
// starts one that has not begun. What another tool does is not ours to stop.
func (a *ReplicationAction) Cancel(operationID string, backup *velerov1api.Backup) error {
	op, err := parseOperation(operationID)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), pollTimeout)
	defer cancel()
	site, err := a.site(ctx, op, backup)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range site.Copies(ctx, op.volume, op.snapshot) {
		switch {
		case errors.Is(c.Err, zfssnap.ErrNoSnapshot):
		case c.Err != nil:
			errs = append(errs, c.Err)
		case c.Transfer.GetState() == agentpb.Transfer_RUNNING:
			errs = append(errs, site.CancelCopy(ctx, op.volume, c.Transfer.GetId()))
		}
	}
	return errors.Join(errs...)
}

// operation identifies a copy across processes.
type operation struct {
	location string // name of the VolumeSnapshotLocation
	snapshot string
	volume   zfssnap.VolumeID
}

// String returns "<location>/<snapshot>/<volume id>"; neither of the first two
// can contain a slash.
func (o operation) String() string { return o.location + "/" + o.snapshot + "/" + o.volume.String() }

func parseOperation(id string) (operation, error) {
	f := strings.SplitN(id, "/", 3)
	if len(f) != 3 || f[0] == "" || f[1] == "" {
		return operation{}, biav2.InvalidOperationIDError(id)
	}
	vol, err := zfssnap.ParseVolumeID(f[2])
	if err != nil {
		return operation{}, fmt.Errorf("operation %q: %w", id, err)
	}
	return operation{location: f[0], snapshot: f[1], volume: vol}, nil
}
