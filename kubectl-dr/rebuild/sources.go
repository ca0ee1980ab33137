package rebuild

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/restorepoint"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rewrite"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// Backup is a restore point that a rebuild takes volumes and objects from. What
// was read of it once is not read again.
type Backup struct {
	Name   string
	Source plan.Source
	Finder *restorepoint.Finder
	Files  cluster.Files
	// Keep are claims, "<namespace>/<name>", that nothing is looked for.
	Keep []string

	objects []*unstructured.Unstructured
	sources []Source
	point   restorepoint.Point
}

// Objects returns those of the backup.
func (b *Backup) Objects(ctx context.Context) ([]*unstructured.Unstructured, error) {
	if b.objects == nil {
		in := &rewrite.Input{}
		if err := in.Download(ctx, b.Files, b.Name); err != nil {
			return nil, err
		}
		b.objects = in.Objects
	}
	return b.objects, nil
}

// Sources returns the volumes of the backup, and writes them into a run's journal.
func (b *Backup) Sources(ctx context.Context, r *plan.RecoveryRun) ([]Source, string, error) {
	if b.sources == nil {
		if err := b.read(ctx); err != nil {
			return nil, "", err
		}
	}
	at := journal(r, b.point.Volumes, b.point.At())
	return b.sources, fmt.Sprintf("backup %s, %s, data as of %s", b.Name, report.Count(len(b.sources), "volume"), at), nil
}

// journal writes volumes into a run's journal, with what an earlier execution found.
func journal(r *plan.RecoveryRun, volumes []plan.Volume, at time.Time) string {
	was := r.Status.Volumes
	r.Status.Volumes = slices.Clone(volumes)
	for i := range r.Status.Volumes {
		v := &r.Status.Volumes[i]
		if j := slices.IndexFunc(was, func(w plan.Volume) bool { return w.Namespace == v.Namespace && w.Claim == v.Claim }); j >= 0 {
			v.Left, v.Kept = was[j].Left, was[j].Kept
		}
	}
	restored := metav1.NewTime(at).Rfc3339Copy()
	r.Status.RestoredTo = &restored
	return at.UTC().Format(time.RFC3339)
}

func (b *Backup) read(ctx context.Context) error {
	var err error
	if b.point, err = b.Finder.Named(ctx, b.Source, b.Name); err != nil {
		return err
	}
	objects, err := b.Objects(ctx)
	if err != nil {
		return err
	}
	infos, err := cluster.VolumeInfos(ctx, b.Files, b.Name)
	if err != nil {
		return err
	}
	sources := []Source{}
	for _, v := range b.point.Volumes {
		if v.Unprotected {
			continue
		}
		if v.SnapshotID == "" {
			if slices.Contains(b.Keep, v.Namespace+"/"+v.Claim) {
				continue
			}
			return hint.Add(fmt.Errorf("volume %s/%s is kept by Velero (%s), and only volumes on ZFS hosts are rebuilt", v.Namespace, v.Claim, v.Method),
				fmt.Sprintf("restore it with Velero, and name it with --keep-claim=%s/%s; or use kubectl dr failover", v.Namespace, v.Claim))
		}
		s, err := source(v, objects)
		if err != nil {
			return err
		}
		for _, info := range infos {
			if info.PVCNamespace == v.Namespace && info.PVCName == v.Claim && info.NativeSnapshot != nil {
				s.Origin.VolumeType = info.NativeSnapshot.VolumeType
			}
		}
		sources = append(sources, s)
	}
	b.sources = sources
	return nil
}

// source finds a volume's objects among those of a backup.
func source(v plan.Volume, objects []*unstructured.Unstructured) (Source, error) {
	s := Source{Volume: v}
	var err error
	if s.Origin.Snapshot, err = zfssnap.ParseSnapshotID(v.SnapshotID); err != nil {
		return s, err
	}
	find := func(kind, namespace, name string) *unstructured.Unstructured {
		i := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool {
			return o.GetKind() == kind && o.GetNamespace() == namespace && o.GetName() == name && o.GroupVersionKind().Group == ""
		})
		if i < 0 {
			return nil
		}
		return objects[i]
	}
	if s.Claim = find("PersistentVolumeClaim", v.Namespace, v.Claim); s.Claim == nil {
		return s, fmt.Errorf("the backup holds the data of claim %s/%s, and not the claim", v.Namespace, v.Claim)
	}
	name, _, _ := unstructured.NestedString(s.Claim.Object, "spec", "volumeName")
	if s.Origin.Volume = find("PersistentVolume", "", name); s.Origin.Volume == nil {
		return s, hint.Add(fmt.Errorf("the backup holds the data of claim %s/%s, and not its PersistentVolume %q", v.Namespace, v.Claim, name),
			"have the schedule's backups include PersistentVolumes")
	}
	return s, nil
}

// Pools are nodes whose pools are all there is.
type Pools struct {
	Nodes []string
	// Namespaces are those whose volumes are wanted; all when empty.
	Namespaces []string
	Pool       func(ctx context.Context, node string) ([]cluster.Found, []string, error)

	sources []Source
	silent  []string // datasets whose snapshots do not say which claim they belong to
}

// Notes says what the pools have besides.
func (p *Pools) Notes() []string {
	var notes []string
	for _, dataset := range p.silent {
		notes = append(notes, fmt.Sprintf("%s: %v", dataset, zfssnap.ErrNoClaim))
	}
	return notes
}

// ErrNothing is returned for pools that know of no volume that is wanted.
var ErrNothing = errors.New("no snapshot says which claim it belongs to")

// Sources returns the volumes that the pools know of, and writes them into a run's
// journal.
func (p *Pools) Sources(ctx context.Context, r *plan.RecoveryRun) ([]Source, string, error) {
	if p.sources == nil {
		if err := p.read(ctx); err != nil {
			return nil, "", err
		}
	}
	var volumes []plan.Volume
	oldest := p.sources[0].SnapshotAt.Time
	for _, s := range p.sources {
		volumes = append(volumes, s.Volume)
		if s.SnapshotAt.Time.Before(oldest) {
			oldest = s.SnapshotAt.Time
		}
	}
	at := journal(r, volumes, oldest)
	return p.sources, fmt.Sprintf("the pools of %s, %s, data as of %s", strings.Join(p.Nodes, ", "), report.Count(len(p.sources), "volume"), at), nil
}

func (p *Pools) read(ctx context.Context) error {
	newest := map[string]Source{}
	for _, node := range p.Nodes {
		found, silent, err := p.Pool(ctx, node)
		if err != nil {
			return err
		}
		for _, dataset := range silent {
			p.silent = append(p.silent, node+":"+dataset)
		}
		for _, f := range found {
			if len(p.Namespaces) > 0 && !slices.Contains(p.Namespaces, f.Namespace) {
				continue
			}
			s, err := recorded(f)
			if err != nil {
				return err
			}
			if have, ok := newest[s.name()]; !ok || s.SnapshotAt.After(have.SnapshotAt.Time) {
				newest[s.name()] = s
			}
		}
	}
	slices.Sort(p.silent)
	if len(newest) == 0 {
		return hint.Add(fmt.Errorf("the pools of %s: %w", strings.Join(p.Nodes, ", "), ErrNothing),
			"snapshots say so that were taken by this version's plugin; older ones are made volumes of by hand: docs/rebuild.md")
	}
	for _, s := range newest {
		p.sources = append(p.sources, s)
	}
	slices.SortFunc(p.sources, func(a, b Source) int { return strings.Compare(a.name(), b.name()) })
	return nil
}

// recorded is a volume as its snapshot tells of it.
func recorded(f cluster.Found) (Source, error) {
	pv, err := f.PersistentVolume()
	if err != nil {
		return Source{}, err
	}
	claim, err := f.PersistentVolumeClaim()
	return Source{
		Volume: plan.Volume{
			Namespace: f.Namespace, Claim: f.ClaimRecord.Claim, SnapshotID: f.Snapshot.String(), SnapshotAt: metav1.NewTime(f.Snapshot.Created),
			Node: f.Node, Snapshot: f.Copy,
		},
		Origin: cluster.Origin{Snapshot: f.Snapshot, VolumeType: f.VolumeType(), Volume: pv, Node: f.Node},
		Claim:  claim,
	}, err
}
