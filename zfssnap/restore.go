package zfssnap

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/received"
)

// CreateVolumeFromSnapshot makes a volume from the copy of a snapshot and
// returns its identifier. The volume's name follows from the snapshot and the
// Restore in progress: every restore has its own volume, and trying again
// within one finds the volume again.
func (s *Snapshotter) CreateVolumeFromSnapshot(snapshotID, volType, _ string, _ *int64) (string, error) {
	if snapshotID == "" {
		// Velero does not look at a snapshot's phase before it restores.
		return "", errors.New("restore volume: the backup has no snapshot of it, because taking it failed; restore from another backup")
	}
	id, err := ParseSnapshotID(snapshotID)
	if err != nil {
		return "", err
	}
	site, err := s.site()
	if err != nil {
		return "", err
	}
	vt, err := parseVolumeType(volType)
	if err != nil {
		s.Log.WithError(err).Warn("the restored volume gets none of its source's own properties")
	}
	ctx := context.Background()
	restore, err := s.restoreInProgress(ctx)
	if err == nil && s.Admit != nil {
		err = s.Admit(restore)
	}
	if err != nil {
		return "", fmt.Errorf("restore volume from %s: %w", id.Name(), err)
	}
	vol, err := site.createVolume(ctx, id, vt, restore)
	if err != nil {
		return "", fmt.Errorf("restore volume from %s: %w", id.Name(), err)
	}
	s.made.Store(vol.String(), restore.Name)
	s.Log.WithFields(logrus.Fields{"node": vol.Node, "dataset": vol.Dataset, "snapshot": id.Name(), "guid": id.GUID}).Info("volume made")
	return vol.String(), nil
}

// origin is what a volume is made from.
type origin struct {
	node     string // to make it on
	snapshot *agentpb.Version
	archive  string // to take the snapshot from, where the node has not got it
	missing  error  // why it is taken from there
}

// MakeVolume makes a volume from the copy of a snapshot as a restore of Velero does,
// without Velero: restore has the name and the uid of what it is made for, and the
// label of a run. volumeType is what GetVolumeInfo returned for the source, or ""
// when nobody knows any more. Idempotent for a snapshot and a uid.
func (s *Site) MakeVolume(ctx context.Context, id SnapshotID, volumeType string, restore *velerov1api.Restore) (VolumeID, error) {
	vt := noVolumeType
	if volumeType != "" {
		var err error
		if vt, err = parseVolumeType(volumeType); err != nil {
			return VolumeID{}, err
		}
	}
	return s.createVolume(ctx, id, vt, restore)
}

// createVolume finds a snapshot and makes a volume from it.
func (s *Site) createVolume(ctx context.Context, id SnapshotID, vt volumeType, restore *velerov1api.Restore) (VolumeID, error) {
	from, err := s.findOrigin(ctx, id)
	if err != nil {
		return VolumeID{}, err
	}
	parent, err := s.RestoreParent(id, from.node)
	if err != nil {
		return VolumeID{}, err
	}
	name := restoredName(id, restore)
	dataset := parent + "/" + name
	req := &agentpb.CreateVolumeRequest{
		Guid:    id.GUID,
		Dataset: dataset,
		Mode:    s.RestoreMode,
		Properties: map[string]string{
			PropManaged: "true",
			PropRestore: restore.Name,
			PropVolume:  name,
		},
		Native: vt.nativeFor(dataset, s.RestoreAs == AsLocal, isThin(restore)),
	}
	if run := restore.Labels[LabelRun]; run != "" {
		req.Properties[PropRun] = run
	}
	deed, timeout, found := "make "+dataset, s.ReplicationTimeout, from.snapshot.GetDataset()
	switch {
	case from.archive != "":
		req.Mode, req.Archive = modeArchive, from.archive
		deed += " from archive " + from.archive
	case s.RestoreMode == ModeClone && poolOf(parent) != poolOf(found):
		return VolumeID{}, fmt.Errorf("clone %s to pool %s: a clone stays in the pool of its snapshot; set %s: %s, or a parent in pool %s",
			found, poolOf(parent), KeyRestoreMode, ModeCopy, poolOf(found))
	case s.RestoreMode == ModeClone:
		timeout = callTimeout
		fallthrough
	default:
		req.Snapshot = found + "@" + from.snapshot.GetName()
	}
	_, err = callFor(ctx, timeout, s, from.node, deed, func(ctx context.Context, a Agent) (*agentpb.Dataset, error) {
		return a.CreateVolume(ctx, req)
	})
	switch {
	case isNotFound(err) && from.archive != "":
		err = errors.Join(err, from.missing)
	case status.Code(err) == codes.ResourceExhausted && reserves(req.GetNative()):
		err = fmt.Errorf("%w (its source reserves space; make room in the pool, or restore with the label %s=true to reserve none)", err, AnnotationThin)
	}
	return VolumeID{Node: from.node, Dataset: dataset}, err
}

// isThin reports whether the volumes of a restore are to reserve no space.
func isThin(restore *velerov1api.Restore) bool {
	return restore.Annotations[AnnotationThin] == "true" || restore.Labels[AnnotationThin] == "true"
}

// reserves reports whether native properties of a dataset, with sizes in bytes,
// reserve space for it.
func reserves(native map[string]string) bool {
	return slices.ContainsFunc(received.Reservations, func(name string) bool { return native[name] != "" && native[name] != "0" })
}

// findOrigin looks for a snapshot by guid on restoreNode, or else on the
// snapshot's own node and then on the target. One that a failover's volume was
// copied back with is looked for where it was copied to. Where none has it the
// archive is used, on the first of them that answers.
func (s *Site) findOrigin(ctx context.Context, id SnapshotID) (origin, error) {
	copied, replicated := s.Destination(id.Node, id.Dataset)
	var nodes []string
	switch _, known := s.Agents[id.Node]; {
	case s.Returns(id.Node):
		nodes = []string{s.FailbackTarget}
	case s.RestoreNode != "":
		nodes = []string{s.RestoreNode}
	default:
		if known {
			nodes = append(nodes, id.Node)
		}
		if replicated {
			nodes = append(nodes, copied.Node)
		}
	}
	if len(nodes) == 0 {
		return origin{}, &NoAgentError{Node: id.Node}
	}
	req := &agentpb.FindSnapshotRequest{Guid: id.GUID, Hints: s.Hints(id.Node, id.Dataset)}
	var errs []error
	var without []string
	for _, node := range nodes {
		v, err := call(ctx, s, node, fmt.Sprintf("find snapshot with guid %d", id.GUID), func(ctx context.Context, a Agent) (*agentpb.Version, error) {
			return a.FindSnapshot(ctx, req)
		})
		if err == nil {
			return origin{node: node, snapshot: v}, nil
		}
		if isNotFound(err) {
			without = append(without, node)
		}
		errs = append(errs, err)
	}
	if s.Archive != "" && len(without) > 0 {
		return origin{node: without[0], archive: s.Archive, missing: errors.Join(errs...)}, nil
	}
	return origin{}, errors.Join(errs...)
}

// restoreInProgress returns the Restore that Velero is working on. Velero tells
// a snapshotter nothing about it, but runs one at a time.
func (s *Snapshotter) restoreInProgress(ctx context.Context) (*velerov1api.Restore, error) {
	kube, err := s.Sites.Kube()
	if err != nil {
		return nil, err
	}
	list := &velerov1api.RestoreList{}
	if err := kube.List(ctx, list, client.InNamespace(s.Namespace)); err != nil {
		return nil, fmt.Errorf("list restores in namespace %s: %w", s.Namespace, err)
	}
	var running []*velerov1api.Restore
	var names []string
	for i := range list.Items {
		if list.Items[i].Status.Phase == velerov1api.RestorePhaseInProgress {
			running = append(running, &list.Items[i])
			names = append(names, list.Items[i].Name)
		}
	}
	if len(running) != 1 {
		return nil, fmt.Errorf("find the restore in progress: namespace %s has %d, not 1: %q", s.Namespace, len(running), names)
	}
	return running[0], nil
}

var (
	// restoredSuffix is what restoredName appends; a volume restored from a
	// restored one does not grow a second one.
	restoredSuffix = regexp.MustCompile(`-[0-9a-f]{8}$`)
	notInName      = regexp.MustCompile(`[^a-z0-9.-]+`)
)

// restoredName is the last component of a restored dataset. It is the name of
// the PersistentVolume and of objects made for it as well, and the value of
// labels, so it is made to fit all of them.
func restoredName(id SnapshotID, restore *velerov1api.Restore) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d/%s", id.GUID, restore.UID))
	base := restoredSuffix.ReplaceAllString(path.Base(id.Dataset), "")
	base = notInName.ReplaceAllString(strings.ToLower(base), "-")
	suffix := fmt.Sprintf("-%x", sum[:4])
	base = base[:min(len(base), validation.LabelValueMaxLength-len(suffix))]
	base = strings.Trim(strings.ReplaceAll(base, "..", "-"), "-.")
	if base == "" {
		base = "volume"
	}
	return base + suffix
}

// SetVolumeID returns the PersistentVolume of a restored volume: a copy of the
// given one with name, handle, attributes, path and node affinity changed
// together. It also makes what the volume's driver needs to mount it. When that
// fails Velero makes no PersistentVolume, and the volume goes again.
func (s *Snapshotter) SetVolumeID(obj runtime.Unstructured, volumeID string) (runtime.Unstructured, error) {
	id, err := resolvedVolume(volumeID)
	if err != nil {
		return nil, err
	}
	site, err := s.siteOf(id.Node)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	restore, made := s.made.LoadAndDelete(volumeID)
	pv, err := site.SetVolume(ctx, obj, id)
	switch {
	case err == nil:
		return pv, nil
	case !made:
		return nil, err
	}
	if errUndo := site.destroyUnused(ctx, id, restore.(string)); errUndo != nil {
		return nil, fmt.Errorf("%w; the volume that was made for it stays: %w", err, errUndo)
	}
	return nil, fmt.Errorf("%w; the volume that was made for it is gone again", err)
}

// destroyUnused destroys a volume that was made for a Restore, unless a
// PersistentVolume has its name: a restore may visit a snapshot twice. The agent
// refuses what was not made for that Restore, is mounted, or has snapshots.
func (s *Site) destroyUnused(ctx context.Context, id VolumeID, restore string) error {
	kube, err := s.kube()
	if err != nil {
		return err
	}
	name := path.Base(id.Dataset)
	err = kube.Get(ctx, client.ObjectKey{Name: name}, &corev1api.PersistentVolume{})
	switch {
	case err == nil:
		return fmt.Errorf("destroy %s on node %s: PersistentVolume %s has it", id.Dataset, id.Node, name)
	case !apierrors.IsNotFound(err):
		return fmt.Errorf("get PersistentVolume %s: %w", name, err)
	}
	_, err = call(ctx, s, id.Node, "destroy "+id.Dataset, func(ctx context.Context, a Agent) (*agentpb.DestroyVolumeResponse, error) {
		return a.DestroyVolume(ctx, &agentpb.DestroyVolumeRequest{Dataset: id.Dataset, Match: map[string]string{
			PropManaged: "true", PropRestore: restore, PropVolume: name,
		}})
	})
	return err
}

// SetVolume returns the PersistentVolume of a volume that MakeVolume made; see
// SetVolumeID.
func (s *Site) SetVolume(ctx context.Context, obj runtime.Unstructured, id VolumeID) (*unstructured.Unstructured, error) {
	typed, err := toPV(obj)
	if err != nil {
		return nil, err
	}
	d := driverOf(typed)
	if d == nil {
		return nil, fmt.Errorf("set volume of PersistentVolume %s: it is of a kind this plugin does not know", typed.Name)
	}
	ds, err := s.dataset(ctx, id.Node, "look up "+id.Dataset, byName(id.Dataset))
	if err != nil {
		return nil, err
	}
	vol := restored{
		VolumeID: id,
		name:     path.Base(id.Dataset),
		labels:   map[string]string{LabelVolume: labelValue(typed.Name)},
		dataset:  ds,
	}
	if run := ds.GetProperties()[PropRun]; run != "" {
		vol.labels[LabelRun] = labelValue(run)
	}
	pv := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(obj.UnstructuredContent())}
	rewrite := d.rewrite
	if s.RestoreAs == AsLocal {
		rewrite = toLocal
	}
	if err := rewrite(ctx, s, pv, vol); err != nil {
		return nil, fmt.Errorf("set volume of PersistentVolume %s: %w", typed.Name, err)
	}
	pv.SetName(vol.name)
	labels := pv.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	for k, v := range vol.labels {
		labels[k] = v
	}
	pv.SetLabels(labels)
	return pv, nil
}

// labelValue returns s where it may be the value of a label, else "true".
func labelValue(s string) string {
	if len(validation.IsValidLabelValue(s)) > 0 {
		return "true"
	}
	return s
}
