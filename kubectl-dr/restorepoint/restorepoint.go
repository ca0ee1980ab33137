// Package restorepoint finds the points that a plan's application can be
// recovered to: Velero backups whose every volume has a copy at the recovery
// site. What agents replicate is looked for there; of what Velero keeps otherwise
// its own records tell.
package restorepoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// Replicas finds copies of snapshots at the recovery site; *cluster.Storage
// does. It is asked about several at a time.
type Replicas interface {
	// Find returns where the copy of a snapshot lies. Its error wraps
	// cluster.ErrNoCopy when it was looked for everywhere and is not there.
	Find(ctx context.Context, id zfssnap.SnapshotID) (cluster.Copy, error)
	// Newer returns the names of the snapshots of a copy's dataset that are
	// newer than the copy, oldest first.
	Newer(ctx context.Context, than cluster.Copy) ([]string, error)
}

// Point is a backup and its volumes in the plan's namespaces.
type Point struct {
	Backup      string
	CompletedAt time.Time
	// StartedAt is when Velero began to read the objects.
	StartedAt time.Time
	Volumes   []plan.Volume
	// TakenHere: a volume's snapshot was taken at the site that would recover it.
	// Such backups are for the other way.
	TakenHere bool
	// Problem says why the point as a whole cannot be used, and Remedy what to do
	// about it.
	Problem, Remedy string
}

// Recoverable reports whether every volume has a copy.
func (p *Point) Recoverable() bool { return len(p.Problems()) == 0 }

// Problems says why the point cannot be used.
func (p *Point) Problems() []string {
	var problems []string
	if p.Problem != "" {
		problems = append(problems, p.Problem)
	}
	for _, v := range p.Volumes {
		if v.Problem != "" && !v.Unprotected {
			problems = append(problems, fmt.Sprintf("volume %s/%s: %s", v.Namespace, v.Claim, v.Problem))
		}
	}
	return problems
}

// Unprotected returns the volumes that come back empty.
func (p *Point) Unprotected() []plan.Volume {
	var lost []plan.Volume
	for _, v := range p.Volumes {
		if v.Unprotected {
			lost = append(lost, v)
		}
	}
	return lost
}

// Mirrored reports whether every volume comes with a pool that is mirrored over both
// sites, so that nothing of any is lost.
func (p *Point) Mirrored() bool { return plan.Mirrored(p.Volumes) }

// By returns the volumes that Velero backed up by a method, as
// "<namespace>/<claim>".
func (p *Point) By(m plan.Method) []string {
	var names []string
	for _, v := range p.Volumes {
		if v.Method == m {
			names = append(names, v.Namespace+"/"+v.Claim)
		}
	}
	return names
}

// Copies returns where the volumes lie that a host has the snapshots of.
func (p *Point) Copies() []cluster.Copy {
	var copies []cluster.Copy
	for _, v := range p.Volumes {
		if dataset, snapshot, ok := strings.Cut(v.Snapshot, "@"); ok {
			copies = append(copies, cluster.Copy{Node: v.Node, Dataset: dataset, Snapshot: snapshot})
		}
	}
	return copies
}

// At returns the oldest time that data goes back to: that of the oldest
// volume's snapshot, of the objects when there is no volume. Volumes on stretched
// pools are not as old as that.
func (p *Point) At() time.Time {
	at := p.StartedAt
	for _, v := range p.Volumes {
		if !v.Unprotected && v.StretchedPool == "" && v.SnapshotAt.Time.Before(at) {
			at = v.SnapshotAt.Time
		}
	}
	return at
}

// RestoresTo returns the time that data goes back to when the point is recovered at a
// time: to that one where nothing is lost.
func (p *Point) RestoresTo(now time.Time) time.Time {
	if p.Mirrored() {
		return now
	}
	return p.At()
}

// Finder finds points.
type Finder struct {
	Client    client.Reader
	Namespace string // Velero's
	Files     cluster.Files
	Replicas  Replicas
	// Limit is how many backups to look into for a recoverable one; 10 when zero.
	Limit int
}

const defaultLimit = 10

// NoBackupError says that a schedule has no backup to recover from.
type NoBackupError struct {
	Schedule string
	Context  string
	// Others are backups of the schedule that are not Completed, with phase.
	Others []string
}

func (e *NoBackupError) Error() string {
	msg := fmt.Sprintf("schedule %q has no completed backup", e.Schedule)
	if len(e.Others) > 0 {
		msg += "; not completed: " + strings.Join(e.Others, ", ")
	}
	return msg
}

// Hint says where to look.
func (e *NoBackupError) Hint() string {
	return "check spec.source.schedule of the plan, that the schedule runs at the source, and that Velero at the recovery site reads the same object storage (backups appear with its next sync, a minute by default)"
}

// UnrecoverableError says that no point can be recovered.
type UnrecoverableError struct {
	// Points are those looked at, newest first.
	Points []Point
}

func (e *UnrecoverableError) Error() string {
	p := &e.Points[0]
	msg := fmt.Sprintf("backup %s cannot be recovered here: %s", p.Backup, strings.Join(p.Problems(), "; "))
	if older := len(e.Points) - 1; older > 0 {
		msg += fmt.Sprintf("; nor can the %d before it", older)
	}
	return msg
}

// Hint says what to look at.
func (e *UnrecoverableError) Hint() string {
	if remedy := e.Points[0].Remedy; remedy != "" {
		return remedy
	}
	return "see whether replication runs at the source; kubectl dr rpo shows each volume"
}

// UnknownError says that it could not be found out whether a copy exists.
type UnknownError struct {
	Backup string
	Err    error
}

func (e *UnknownError) Error() string { return fmt.Sprintf("backup %s: %s", e.Backup, e.Err) }
func (e *UnknownError) Unwrap() error { return e.Err }

// Hint says what to look at; what the cause knows comes first.
func (e *UnknownError) Hint() string {
	var cause interface{ Hint() string }
	if errors.As(e.Err, &cause) && cause.Hint() != "" {
		return cause.Hint()
	}
	return "run kubectl dr check to see whether the agents answer"
}

// Completed returns the completed backups of a plan's schedule, newest first;
// a *NoBackupError when there is none.
func (f *Finder) Completed(ctx context.Context, source plan.Source) ([]velerov1api.Backup, error) {
	return f.completed(ctx, source, source.Schedule)
}

func (f *Finder) completed(ctx context.Context, source plan.Source, schedules ...string) ([]velerov1api.Backup, error) {
	of, err := labels.NewRequirement(velerov1api.ScheduleNameLabel, selection.In, schedules)
	if err != nil {
		return nil, fmt.Errorf("list backups of schedule %q: %w", source.Schedule, err)
	}
	list := &velerov1api.BackupList{}
	err = f.Client.List(ctx, list, client.InNamespace(f.Namespace), client.MatchingLabelsSelector{Selector: labels.NewSelector().Add(*of)})
	if err != nil {
		return nil, fmt.Errorf("list backups in namespace %s: %w", f.Namespace, err)
	}
	slices.SortFunc(list.Items, func(a, b velerov1api.Backup) int {
		if c := completion(b).Compare(completion(a)); c != 0 {
			return c
		}
		return strings.Compare(b.Name, a.Name)
	})
	noBackup := &NoBackupError{Schedule: source.Schedule}
	var completed []velerov1api.Backup
	for _, b := range list.Items {
		if b.Status.Phase == velerov1api.BackupPhaseCompleted {
			completed = append(completed, b)
			continue
		}
		noBackup.Others = append(noBackup.Others, fmt.Sprintf("%s (%s)", b.Name, phaseOf(b)))
	}
	if len(completed) == 0 {
		return nil, noBackup
	}
	return completed, nil
}

func phaseOf(b velerov1api.Backup) velerov1api.BackupPhase {
	if b.Status.Phase == "" {
		return velerov1api.BackupPhaseNew
	}
	return b.Status.Phase
}

func completion(b velerov1api.Backup) time.Time {
	if b.Status.CompletionTimestamp != nil {
		return b.Status.CompletionTimestamp.Time
	}
	return b.CreationTimestamp.Time
}

func begin(b velerov1api.Backup) time.Time {
	if b.Status.StartTimestamp != nil {
		return b.Status.StartTimestamp.Time
	}
	return b.CreationTimestamp.Time
}

// Points returns completed backups, newest first, up to and including the first
// that is recoverable.
func (f *Finder) Points(ctx context.Context, source plan.Source) ([]Point, error) {
	backups, err := f.Completed(ctx, source)
	if err != nil {
		return nil, err
	}
	limit := cmp.Or(f.Limit, defaultLimit)
	var points []Point
	for _, b := range backups {
		if len(points) == limit {
			break
		}
		p, err := f.point(ctx, source, &b)
		if err != nil {
			return points, err
		}
		if p.TakenHere {
			continue
		}
		points = append(points, p)
		if p.Recoverable() {
			break
		}
	}
	if len(points) == 0 {
		return nil, &NoBackupError{Schedule: source.Schedule}
	}
	return points, nil
}

// Newest returns the newest recoverable point; an *UnrecoverableError when
// there is none.
func (f *Finder) Newest(ctx context.Context, source plan.Source) (Point, error) {
	points, err := f.Points(ctx, source)
	if err != nil {
		return Point{}, err
	}
	if last := points[len(points)-1]; last.Recoverable() {
		return last, nil
	}
	return Point{}, &UnrecoverableError{Points: points}
}

// Before returns the newest recoverable point of which nothing is as young as a time, of
// all classes of the plan's backups; an *UnrecoverableError or a *TooYoungError when
// there is none.
func (f *Finder) Before(ctx context.Context, source plan.Source, at time.Time) (Point, error) {
	// A name that is too long for a label is that of no Schedule.
	schedules := slices.DeleteFunc(source.Schedules(), func(name string) bool { return len(name) > validation.LabelValueMaxLength })
	backups, err := f.completed(ctx, source, schedules...)
	if err != nil {
		return Point{}, err
	}
	oldest := backups[len(backups)-1]
	var unrecoverable []Point
	for _, b := range backups {
		if !begin(b).Before(at) || len(unrecoverable) == cmp.Or(f.Limit, defaultLimit) {
			continue
		}
		p, err := f.point(ctx, source, &b)
		if err != nil {
			return Point{}, err
		}
		for _, v := range p.Volumes {
			if v.StretchedPool != "" {
				return Point{}, fmt.Errorf("volume %s/%s has no earlier point: it is on the stretched pool %s, which is as it was last written", v.Namespace, v.Claim, v.StretchedPool)
			}
		}
		switch young := func(v plan.Volume) bool { return !v.Unprotected && !v.SnapshotAt.Time.Before(at) }; {
		case p.TakenHere || slices.ContainsFunc(p.Volumes, young):
		case p.Recoverable():
			return p, nil
		default:
			unrecoverable = append(unrecoverable, p)
		}
	}
	if len(unrecoverable) > 0 {
		return Point{}, &UnrecoverableError{Points: unrecoverable}
	}
	return Point{}, &TooYoungError{At: at, Oldest: oldest.Name, Began: begin(oldest)}
}

// TooYoungError says that no backup is from before a time.
type TooYoungError struct {
	At time.Time
	// Oldest is a backup, and Began when that was.
	Oldest string
	Began  time.Time
}

func (e *TooYoungError) Error() string {
	return fmt.Sprintf("no completed backup has only data from before %s; the oldest, %s, began at %s",
		e.At.UTC().Format(time.RFC3339), e.Oldest, e.Began.UTC().Format(time.RFC3339))
}

// Hint says what to do.
func (e *TooYoungError) Hint() string {
	return "name a later time, or keep backups for longer: spec.protect of the plan"
}

// Named returns the point of one backup, which may be PartiallyFailed; an
// *UnrecoverableError when it cannot be used.
func (f *Finder) Named(ctx context.Context, source plan.Source, name string) (Point, error) {
	b := &velerov1api.Backup{}
	if err := f.Client.Get(ctx, client.ObjectKey{Namespace: f.Namespace, Name: name}, b); err != nil {
		return Point{}, fmt.Errorf("get backup %q in namespace %s: %w", name, f.Namespace, err)
	}
	if p := b.Status.Phase; p != velerov1api.BackupPhaseCompleted && p != velerov1api.BackupPhasePartiallyFailed {
		return Point{}, fmt.Errorf("backup %q is %s; only a Completed or, named like this, a PartiallyFailed one can be restored", name, phaseOf(*b))
	}
	p, err := f.point(ctx, source, b)
	if err != nil {
		return Point{}, err
	}
	if !p.Recoverable() {
		return p, &UnrecoverableError{Points: []Point{p}}
	}
	return p, nil
}

// Arrived returns the newest backup of the schedule that has a copy of every
// volume of a point here, is newer than the point, and is not known to Velero of
// this cluster: it looks into object storage once a minute. "" is none, and so it
// is when the point has no volume.
func (f *Finder) Arrived(ctx context.Context, source plan.Source, p Point) (string, error) {
	copies := p.Copies()
	if len(copies) == 0 {
		return "", nil
	}
	// Mostly there is nothing newer, and one volume tells.
	common, err := f.newer(ctx, source, copies[0])
	if err != nil || len(common) == 0 {
		return "", err
	}
	others := make([][]string, len(copies)-1)
	if err := each(len(others), func(i int) (err error) {
		others[i], err = f.newer(ctx, source, copies[i+1])
		return err
	}); err != nil {
		return "", err
	}
	for _, names := range others {
		common = slices.DeleteFunc(common, func(name string) bool { return !slices.Contains(names, name) })
	}
	for _, snapshot := range slices.Backward(common) {
		backup, _ := zfssnap.BackupOf(snapshot)
		err := f.Client.Get(ctx, client.ObjectKey{Namespace: f.Namespace, Name: backup}, &velerov1api.Backup{})
		switch {
		case apierrors.IsNotFound(err):
			return backup, nil
		case err != nil:
			return "", fmt.Errorf("get backup %q in namespace %s: %w", backup, f.Namespace, err)
		}
	}
	return "", nil
}

// newer returns the snapshots of a schedule's backups that are newer than a copy,
// oldest first.
func (f *Finder) newer(ctx context.Context, source plan.Source, than cluster.Copy) ([]string, error) {
	names, err := f.Replicas.Newer(ctx, than)
	return slices.DeleteFunc(names, func(name string) bool {
		backup, ok := zfssnap.BackupOf(name)
		return !ok || !ofSchedule(backup, source.Schedule)
	}), err
}

// ofSchedule reports whether a backup has a name that Velero gives to those of
// a schedule.
func ofSchedule(backup, schedule string) bool {
	at, ok := strings.CutPrefix(backup, schedule+"-")
	_, err := time.Parse("20060102150405", at)
	return ok && err == nil
}

// The results that Velero records.
const (
	succeeded = "succeeded"
	failed    = "failed"
)

// Why a volume comes back empty.
const (
	NotHeld   = "the backup does not hold its data"
	NoRecord  = "Velero recorded nothing of it"
	NotTaking = "it takes no snapshots"
)

// Recorded returns the snapshots of ours that Velero has on record for a backup,
// of volumes in any namespace. None where object storage has no list of them.
func Recorded(ctx context.Context, files cluster.Files, backup string) ([]zfssnap.SnapshotID, error) {
	infos, err := cluster.VolumeInfos(ctx, files, backup)
	if errors.Is(err, cluster.ErrNoFile) {
		return nil, nil
	}
	var recorded []zfssnap.SnapshotID
	for _, info := range infos {
		if info.NativeSnapshot == nil {
			continue
		}
		if id, err := zfssnap.ParseSnapshotID(info.NativeSnapshot.SnapshotHandle); err == nil {
			recorded = append(recorded, id)
		}
	}
	return recorded, err
}

func (f *Finder) point(ctx context.Context, source plan.Source, b *velerov1api.Backup) (Point, error) {
	p := Point{Backup: b.Name, CompletedAt: completion(*b), StartedAt: b.CreationTimestamp.Time}
	if b.Status.StartTimestamp != nil {
		p.StartedAt = b.Status.StartTimestamp.Time
	}
	if missing := notIncluded(source.Namespaces, b); len(missing) > 0 {
		p.Problem = fmt.Sprintf("it does not include namespace %s", strings.Join(missing, ", "))
		p.Remedy = "correct spec.source.namespaces of the plan, or include the namespace in the schedule's backups"
		return p, nil
	}
	infos, err := cluster.VolumeInfos(ctx, f.Files, b.Name)
	if errors.Is(err, cluster.ErrNoFile) {
		p.Problem = "object storage has no list of its volumes"
		p.Remedy = "take another backup: a file of this one is missing"
		return p, nil
	}
	if err != nil {
		return p, err
	}
	if err := f.find(ctx, source, &p, infos); err != nil {
		return p, &UnknownError{Backup: b.Name, Err: err}
	}
	missing, err := f.notRecorded(ctx, source, p, b)
	if err != nil {
		return p, err
	}
	p.Volumes = append(p.Volumes, missing...)
	slices.SortFunc(p.Volumes, func(a, b plan.Volume) int {
		return strings.Compare(a.Namespace+"/"+a.Claim, b.Namespace+"/"+b.Claim)
	})
	return p, ctx.Err()
}

// atOnce bounds how many volumes agents are asked about at a time. An agent answers
// what is asked at the same time with few commands.
const atOnce = 64

// each does something for 0 to n-1, several at a time. After an error no further ones
// are begun; the error is that of the lowest.
func each(n int, do func(i int) error) error {
	errs := make([]error, n)
	var failed atomic.Bool
	var doing errgroup.Group
	doing.SetLimit(atOnce)
	for i := 0; i < n && !failed.Load(); i++ {
		doing.Go(func() error {
			if errs[i] = do(i); errs[i] != nil {
				failed.Store(true)
			}
			return nil
		})
	}
	_ = doing.Wait() // errs has them
	return cmp.Or(errs...)
}

// find adds the volumes in the plan's namespaces to a point.
func (f *Finder) find(ctx context.Context, source plan.Source, p *Point, infos []cluster.VolumeInfo) error {
	claims := map[string]bool{}
	infos = slices.DeleteFunc(infos, func(info cluster.VolumeInfo) bool {
		claim := info.PVCNamespace + "/" + info.PVCName
		again := claims[claim]
		claims[claim] = true
		return again || !slices.Contains(source.Namespaces, info.PVCNamespace)
	})
	volumes := make([]plan.Volume, len(infos))
	var takenHere atomic.Bool
	err := each(len(infos), func(i int) error {
		v, err := f.volume(ctx, source, *p, infos[i])
		if errors.Is(err, cluster.ErrTakenHere) {
			takenHere.Store(true)
			v.Problem, err = err.Error(), nil
		}
		volumes[i] = v
		return err
	})
	p.TakenHere = takenHere.Load()
	if err == nil {
		p.Volumes = volumes
	}
	return err
}

// notRecorded returns the claims of a backup of whose volumes Velero recorded
// nothing. A backup is Completed all the same.
func (f *Finder) notRecorded(ctx context.Context, source plan.Source, p Point, b *velerov1api.Backup) ([]plan.Volume, error) {
	contents, err := cluster.ReadJSON[map[string][]string](ctx, f.Files, velerov1api.DownloadTargetKindBackupResourceList, b.Name)
	if errors.Is(err, cluster.ErrNoFile) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	why := NoRecord
	if !ptr.Deref(b.Spec.SnapshotVolumes, true) {
		why = NotTaking
	}
	var missing []plan.Volume
	for _, name := range contents["v1/PersistentVolumeClaim"] {
		namespace, claim, _ := strings.Cut(name, "/")
		if !slices.Contains(source.Namespaces, namespace) || listed(p.Volumes, namespace, claim) {
			continue
		}
		v := plan.Volume{Namespace: namespace, Claim: claim, SnapshotAt: metav1.NewTime(p.StartedAt), Unprotected: true}
		if !source.IgnoresClaim(namespace, claim) {
			v.Problem = NotHeld + ": " + why
		}
		missing = append(missing, v)
	}
	return missing, nil
}

// listed reports whether a claim is there already.
func listed(volumes []plan.Volume, namespace, claim string) bool {
	return slices.ContainsFunc(volumes, func(v plan.Volume) bool { return v.Namespace == namespace && v.Claim == claim })
}

func (f *Finder) volume(ctx context.Context, source plan.Source, p Point, info cluster.VolumeInfo) (plan.Volume, error) {
	v := plan.Volume{Namespace: info.PVCNamespace, Claim: info.PVCName, SnapshotAt: metav1.NewTime(p.StartedAt)}
	switch {
	case info.Skipped:
		v.Unprotected = true
		if !source.IgnoresClaim(v.Namespace, v.Claim) {
			v.Problem = NotHeld
			if info.SkippedReason != "" {
				v.Problem += ": " + strings.TrimSuffix(strings.TrimSpace(info.SkippedReason), ".")
			}
		}
		return v, nil
	case info.BackupMethod != plan.MethodNativeSnapshot:
		return keptByVelero(v, info), nil
	case info.NativeSnapshot == nil || info.NativeSnapshot.SnapshotHandle == "":
		v.Problem = "its snapshot failed"
		return v, nil
	}
	id, err := zfssnap.ParseSnapshotID(info.NativeSnapshot.SnapshotHandle)
	if errors.Is(err, zfssnap.ErrForeignID) {
		return keptByVelero(v, info), nil
	}
	v.SnapshotID = info.NativeSnapshot.SnapshotHandle
	if err != nil {
		v.Problem = err.Error()
		return v, nil
	}
	v.SnapshotAt = metav1.NewTime(id.Created)
	if pool := source.Stretched(id.Node, id.Dataset); pool != nil {
		if id.Node == pool.Recovery {
			return v, fmt.Errorf("%w of %s: that was taken on node %s itself", cluster.ErrTakenHere, id.Name(), id.Node)
		}
		v.StretchedPool, v.Node = pool.Pool, pool.Recovery
		return v, nil
	}
	found, err := f.Replicas.Find(ctx, id)
	switch {
	case errors.Is(err, cluster.ErrTakenHere):
		return v, err
	case errors.Is(err, cluster.ErrNoCopy):
		v.Problem = err.Error()
		return v, nil
	case err != nil:
		return v, fmt.Errorf("volume %s/%s: %w", v.Namespace, v.Claim, err)
	}
	v.Node = found.Node
	if found.Archive == "" {
		v.Snapshot = found.Dataset + "@" + found.Snapshot
	}
	return v, nil
}

// keptByVelero tells of a volume that Velero restores by itself what it recorded.
// Where it did not record when the snapshot was taken, that was not before the
// backup began.
func keptByVelero(v plan.Volume, info cluster.VolumeInfo) plan.Volume {
	v.Method = info.BackupMethod
	if info.SnapshotDataMoved {
		v.Method = plan.MethodDataUpload
	} else if info.StartTimestamp != nil {
		v.SnapshotAt = *info.StartTimestamp
	}
	switch {
	case info.SnapshotDataMoved && info.Result != succeeded:
		v.Problem = "the data of its snapshot was not moved"
	case info.Result == failed:
		v.Problem = "its backup failed"
	}
	return v
}

// notIncluded returns the namespaces that a backup leaves out.
func notIncluded(namespaces []string, b *velerov1api.Backup) []string {
	var missing []string
	for _, ns := range namespaces {
		in := len(b.Spec.IncludedNamespaces) == 0 ||
			slices.Contains(b.Spec.IncludedNamespaces, "*") || slices.Contains(b.Spec.IncludedNamespaces, ns)
		if !in || slices.Contains(b.Spec.ExcludedNamespaces, ns) {
			missing = append(missing, ns)
		}
	}
	return missing
}
