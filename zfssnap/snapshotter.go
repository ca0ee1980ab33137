package zfssnap

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// Tags that Velero passes to CreateSnapshot.
const (
	tagBackup = "velero.io/backup"
	tagPV     = "velero.io/pv"
)

// unresolvedPrefix begins the stand-in for a volume that is ours but whose
// dataset can not be told.
const unresolvedPrefix = "zfs-unresolved:"

// UnresolvedVolumeID stands for a volume whose dataset could not be told, and
// carries the reason.
func UnresolvedVolumeID(reason error) string { return unresolvedPrefix + reason.Error() }

// resolvedVolume parses a volume ID and turns an unresolved one back into its
// reason.
func resolvedVolume(id string) (VolumeID, error) {
	if reason, ok := strings.CutPrefix(id, unresolvedPrefix); ok {
		return VolumeID{}, errors.New(reason)
	}
	return ParseVolumeID(id)
}

// Snapshotter implements Velero's VolumeSnapshotter. Velero keeps one instance
// per process, initialises it again and again, sometimes with different
// locations, and may call it concurrently.
type Snapshotter struct {
	// Sites opens locations; shared with whoever else needs agents.
	Sites *Sites
	// Namespace is Velero's, where Restores are.
	Namespace string
	Log       logrus.FieldLogger
	// Groups says which volumes of a backup are taken together; nil for none.
	Groups *Groups
	// Admit, when set, refuses a restore that can't succeed before a volume is
	// made for it, which nothing would use.
	Admit func(*velerov1api.Restore) error

	mu      sync.RWMutex
	current *Site
	unseen  sync.Map // volume ID → why GetVolumeInfo could not look at it
	claims  sync.Map // volume ID → the record of its claim
	made    sync.Map // volume ID → the name of the Restore that it was just made for
}

// Init makes config the location that following calls consult first.
func (s *Snapshotter) Init(config map[string]string) error {
	loc, err := ParseLocation(config)
	if err != nil {
		return err
	}
	pem, err := readCredential(loc.CredentialsFile)
	if err != nil {
		return err
	}
	site, err := s.Sites.Open(loc, pem)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = site
	return nil
}

// errNotInitialised is a breach of Velero's contract.
var errNotInitialised = errors.New("volume snapshotter is used before Init")

func (s *Snapshotter) site() (*Site, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.current == nil {
		return nil, errNotInitialised
	}
	return s.current, nil
}

// siteOf returns the site to reach a node through: the last one initialised,
// or any other that knows the node, since Velero's backup deletion initialises
// every location of the provider before it deletes any snapshot.
func (s *Snapshotter) siteOf(node string) (*Site, error) {
	current, err := s.site()
	if err != nil {
		return nil, err
	}
	return s.Sites.withAgentOn(node, current)
}

// GetVolumeID returns the identifier of a PersistentVolume, "" for one that is
// not on ZFS here. Velero only logs an error of this method and then backs the
// volume up without its data. A volume that is ours but can not be resolved
// therefore gets an identifier that makes GetVolumeInfo and CreateSnapshot fail
// with the reason: their errors count, and the backup is PartiallyFailed.
func (s *Snapshotter) GetVolumeID(pv runtime.Unstructured) (string, error) {
	site, err := s.site()
	if err != nil {
		return "", err
	}
	id, ours, err := site.Locate(context.Background(), pv)
	switch {
	case err != nil:
		s.Log.WithError(err).Error("volume can not be resolved; its snapshot will fail")
		return UnresolvedVolumeID(err), nil
	case !ours:
		return "", nil
	}
	// Velero tells no more of a volume than this when it wants the snapshot.
	s.claims.Store(id.String(), RecordClaim(pv, id))
	return id.String(), nil
}

// GetVolumeInfo returns a description of the volume as its type; see
// volumeType. There are no IOPS.
//
// After an error Velero does not ask for the snapshot, and without that call
// nobody learns which backup has failed: one that waits for the copy would wait
// on. So a volume that can not be looked at has the type "", which no restore
// accepts, and the reason becomes the error of its snapshot.
func (s *Snapshotter) GetVolumeInfo(volumeID, _ string) (string, *int64, error) {
	id, err := resolvedVolume(volumeID)
	if err != nil {
		return "", nil, err
	}
	site, err := s.siteOf(id.Node)
	if err != nil {
		return "", nil, err
	}
	ds, err := site.dataset(context.Background(), id.Node, "look up "+id.Dataset, byName(id.Dataset))
	if err != nil {
		s.Log.WithError(err).Error("volume can not be looked at; its snapshot will fail")
		s.unseen.Store(volumeID, err)
		return "", nil, nil
	}
	s.unseen.Delete(volumeID)
	return volumeTypeOf(ds).String(), nil, nil
}

// CreateSnapshot takes the snapshot of a volume for a backup, and with the first
// of a group those of the whole group; the agent sees to it that they are held.
// It does not move data, so it returns quickly, and is idempotent for volume and
// backup.
func (s *Snapshotter) CreateSnapshot(volumeID, _ string, tags map[string]string) (string, error) {
	id, err := resolvedVolume(volumeID)
	if err != nil {
		return "", err
	}
	name := tags[tagBackup]
	if name == "" {
		return "", fmt.Errorf("snapshot %s: tag %s is missing", id.Dataset, tagBackup)
	}
	ctx := context.Background()
	backup, err := s.backup(ctx, name)
	if err != nil {
		return "", fmt.Errorf("snapshot %s: %w", id.Dataset, err)
	}
	var snap SnapshotID
	if reason, ok := s.unseen.Load(volumeID); ok {
		err = reason.(error)
	} else {
		properties := propertiesOf(tags)
		if record, ok := s.claims.Load(volumeID); ok && record != "" {
			properties[names.ClaimProperty(id.Dataset)] = record.(string)
		}
		snap, err = s.take(ctx, id, backup, properties)
	}
	if err != nil {
		s.noteFailure(ctx, backup, id)
		return "", err
	}
	return snap.String(), nil
}

// take takes the snapshot of a volume with those of its group, or alone.
func (s *Snapshotter) take(ctx context.Context, id VolumeID, backup *velerov1api.Backup, properties map[string]string) (SnapshotID, error) {
	order := snapshotOrder{name: SnapshotName(backup.Name, backup.UID), properties: properties}
	if g := s.Groups.of(backup.Name, backup.UID, id); g != nil {
		snap, taken, err := g.take(ctx, s, id, order.clone())
		if err != nil || taken {
			return snap, err
		}
	}
	snaps, err := s.takeTogether(ctx, []VolumeID{id}, order)
	if err != nil {
		return SnapshotID{}, err
	}
	return snaps[0], nil
}

// backup returns a backup by its name, which is all that Velero tells of it: its
// uid tells it from an earlier one of that name.
func (s *Snapshotter) backup(ctx context.Context, name string) (*velerov1api.Backup, error) {
	kube, err := s.Sites.Kube()
	if err != nil {
		return nil, err
	}
	backup := &velerov1api.Backup{}
	if err := kube.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: name}, backup); err != nil {
		return nil, fmt.Errorf("get backup %s: %w", name, err)
	}
	return backup, nil
}

// noteFailure tells whoever waits for copies of the backup, in another process,
// that a volume's snapshot is not part of it. See SnapshotFailed.
func (s *Snapshotter) noteFailure(ctx context.Context, backup *velerov1api.Backup, id VolumeID) {
	noted := backup.DeepCopy()
	metav1.SetMetaDataAnnotation(&noted.ObjectMeta, failureAnnotation(id), id.String())
	kube, err := s.Sites.Kube()
	if err == nil {
		err = kube.Patch(ctx, noted, client.MergeFrom(backup))
	}
	if err != nil {
		s.Log.WithError(err).Warn("the backup can not be told that a snapshot has failed, and waits for its copy until its time is over")
	}
}

// SnapshotFailed reports whether the snapshot of a volume could not be taken for
// a backup, which Velero records as failed even if it comes to be later.
func SnapshotFailed(backup *velerov1api.Backup, id VolumeID) bool {
	return backup.Annotations[failureAnnotation(id)] == id.String()
}

// failureAnnotation is one per volume, because several fail at once, and short,
// because names of annotations have to be.
func failureAnnotation(id VolumeID) string {
	sum := sha256.Sum256([]byte(id.String()))
	return fmt.Sprintf("%s/snapshot-failed-%x", Domain, sum[:8])
}

// snapshotOrder is what the snapshots of a backup have in common.
type snapshotOrder struct {
	name       string
	properties map[string]string
}

func (o snapshotOrder) clone() snapshotOrder {
	return snapshotOrder{name: o.name, properties: maps.Clone(o.properties)}
}

// propertiesOf keeps the tags that Velero gives a snapshot: the name of the
// backup and of the volume, and the labels of the backup; beside them the version
// of this plugin. A label whose name is too long for a property is left out.
func propertiesOf(tags map[string]string) map[string]string {
	props := map[string]string{PropManaged: "true", PropBackup: tags[tagBackup], PropVersion: Version}
	if pv := tags[tagPV]; pv != "" {
		props[PropVolume] = pv
	}
	for _, tag := range slices.Sorted(maps.Keys(tags)) {
		if tag == tagBackup || tag == tagPV || tags[tag] == "" {
			continue
		}
		if name := tagProperty(tag); zfs.ValidateUserProperty(name) == nil {
			props[name] = tags[tag]
		}
	}
	return props
}

// tagProperty is the user property that keeps a tag. Names of properties know
// neither capitals nor slashes (zfsprops(7)).
func tagProperty(tag string) string {
	return PropTagPrefix + strings.ReplaceAll(strings.ToLower(tag), "/", ":")
}

// takeTogether takes the snapshots of volumes of one node and pool at once.
func (s *Snapshotter) takeTogether(ctx context.Context, vols []VolumeID, order snapshotOrder) ([]SnapshotID, error) {
	node, what := vols[0].Node, describe(vols)
	site, err := s.siteOf(node)
	if err != nil {
		return nil, err
	}
	req := &agentpb.CreateSnapshotsRequest{Name: order.name, Properties: order.properties, Hold: HoldTag("backup")}
	for _, vol := range vols {
		req.Datasets = append(req.Datasets, vol.Dataset)
	}
	resp, err := call(ctx, site, node, "snapshot "+what, func(ctx context.Context, a Agent) (*agentpb.CreateSnapshotsResponse, error) {
		return a.CreateSnapshots(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	if len(resp.GetSnapshots()) != len(vols) {
		return nil, fmt.Errorf("snapshot %s on node %s: the agent reported %d snapshots, not %d", what, node, len(resp.GetSnapshots()), len(vols))
	}
	var snaps []SnapshotID
	for _, v := range resp.GetSnapshots() {
		snap := snapshotID(node, v)
		s.Log.WithFields(logrus.Fields{"node": node, "snapshot": snap.Name(), "guid": snap.GUID}).Info("snapshot taken")
		snaps = append(snaps, snap)
	}
	return snaps, nil
}

func poolOf(dataset string) string {
	pool, _, _ := strings.Cut(dataset, "/")
	return pool
}

// under reports whether a dataset is root or lies below it.
func under(root, dataset string) bool {
	return root != "" && (dataset == root || strings.HasPrefix(dataset, root+"/"))
}
