package rebuild

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// State is what a cluster has where a claim's volume is to come back.
type State string

// The states.
const (
	Absent   State = "absent"
	Unbound  State = "unbound"  // a claim without a volume
	Empty    State = "empty"    // its volume was never written to, and no pod has it
	Written  State = "written"  // its volume was written to, or nobody can say that it was not
	Restored State = "restored" // its volume was restored by a run
)

// Action is what is done about a claim.
type Action string

// The actions.
const (
	Restore Action = "restore" // volume and claim
	Bind    Action = "bind"    // the volume to the claim that is there
	Swap    Action = "swap"    // the claim for one with the volume
	Replace Action = "replace" // as Swap, by name; what it held is kept
	Keep    Action = "keep"    // the claim, by name
	Refuse  Action = "refuse"
	None    Action = "none"
)

// emptyVolume is how much an empty filesystem takes at most. What is larger may
// be data.
const emptyVolume = 1 << 20

// Volumes makes volumes and looks at them; *cluster.Storage does.
type Volumes interface {
	// Make makes a volume from a snapshot for a run, and returns its
	// PersistentVolume, which is not created. Idempotent.
	Make(ctx context.Context, c client.Client, from cluster.Origin, run string, uid types.UID) (*unstructured.Unstructured, error)
	// Locate returns the dataset of a PersistentVolume, false when no agent has it.
	Locate(ctx context.Context, c client.Client, pv *unstructured.Unstructured) (zfssnap.VolumeID, bool, error)
	// Dataset returns what an agent says of a dataset.
	Dataset(ctx context.Context, id zfssnap.VolumeID) (*agentpb.Dataset, error)
	// Keep takes a snapshot of a dataset for a run. Idempotent.
	Keep(ctx context.Context, node, dataset, name, run string) error
}

// Source is a volume that can come back.
type Source struct {
	plan.Volume
	Origin cluster.Origin
	// Claim is as it was.
	Claim *unstructured.Unstructured
}

func (s Source) name() string { return s.Namespace + "/" + s.Volume.Claim }

// Judged is a source and what the cluster has in its place.
type Judged struct {
	Source
	State  State
	Action Action
	// Why says what led to that.
	Why string
	// Live and LiveVolume are what is there; nil when they are not.
	Live       *corev1api.PersistentVolumeClaim
	LiveVolume *corev1api.PersistentVolume
	// On is the dataset of the live volume; zero when no agent has it.
	On zfssnap.VolumeID
}

func (j Judged) report() report.RebuildVolume {
	return report.RebuildVolume{
		Namespace: j.Namespace, Claim: j.Volume.Claim, State: string(j.State), Action: string(j.Action),
		SnapshotAt: j.SnapshotAt, Node: j.Node, Snapshot: j.Snapshot, Message: j.Why,
	}
}

// judge looks at what the cluster has where a volume is to come back, and says what
// to do. It changes nothing.
func (r *Rebuild) judge(ctx context.Context, s Source) (Judged, error) {
	j := Judged{Source: s, State: Absent, Action: Restore}
	claim := &corev1api.PersistentVolumeClaim{}
	err := r.Cluster.Client.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: s.Volume.Claim}, claim)
	if apierrors.IsNotFound(err) {
		return j, nil
	}
	if err != nil {
		return j, fmt.Errorf("get claim %s: %w", s.name(), err)
	}
	j.Live = claim
	if claim.Spec.VolumeName == "" {
		j.State, j.Action, j.Why = Unbound, Bind, "the claim has no volume yet"
		return j, j.fits()
	}
	pv := &corev1api.PersistentVolume{}
	err = r.Cluster.Client.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, pv)
	switch {
	case apierrors.IsNotFound(err):
		j.State, j.Action, j.Why = Unbound, Swap, fmt.Sprintf("volume %s of the claim is gone", claim.Spec.VolumeName)
		return j, j.fits()
	case err != nil:
		return j, fmt.Errorf("get volume of claim %s: %w", s.name(), err)
	}
	j.LiveVolume = pv
	if err := r.judgeVolume(ctx, &j); err != nil {
		return j, err
	}
	return j, r.decide(&j)
}

// judgeVolume finds out whether a claim's volume was written to.
func (r *Rebuild) judgeVolume(ctx context.Context, j *Judged) error {
	if by := j.LiveVolume.Labels[zfssnap.LabelRun]; by != "" {
		j.State, j.Why = Restored, "restored by "+by
		return nil
	}
	j.State = Written
	users, err := r.users(ctx, j.Namespace, j.Volume.Claim)
	if err != nil {
		return err
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(j.LiveVolume)
	if err != nil {
		return err
	}
	on, ours, err := r.Volumes.Locate(ctx, r.Cluster.Client, &unstructured.Unstructured{Object: content})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		j.Why = fmt.Sprintf("nobody can say whether it was written to: %v", err)
		return nil
	case !ours:
		j.Why = "nobody can say whether it was written to: it is on no host with an agent"
	default:
		j.On = on
		ds, err := r.Volumes.Dataset(ctx, on)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			j.Why = fmt.Sprintf("nobody can say whether it was written to: %v", err)
		case ds.GetWritten() > emptyVolume || ds.GetReferenced() > emptyVolume:
			j.Why = report.Bytes(int64(max(ds.GetWritten(), ds.GetReferenced()))) + " were written to it"
		case ds.GetMounted():
			j.Why = "it is mounted"
		default:
			j.State, j.Why = Empty, "no pod has it, and nothing was written to it"
		}
	}
	if len(users) > 0 {
		j.State, j.Why = Written, "in use by "+strings.Join(users, ", ")
	}
	return nil
}

// decide says what to do about a claim that has a volume.
func (r *Rebuild) decide(j *Judged) error {
	spec := r.Run.Spec.Rebuild
	named := slices.Contains(spec.ReplaceClaims, j.name())
	switch {
	case slices.Contains(spec.KeepClaims, j.name()):
		j.Action = Keep
	case j.State == Restored && (!named || j.LiveVolume.Labels[zfssnap.LabelRun] == r.Run.Name):
		j.Action = None
	case named:
		j.Action = Replace
	case j.State == Empty:
		j.Action = Swap
	default:
		j.Action = Refuse
	}
	if j.Action == Replace || j.Action == Swap {
		return j.fits()
	}
	return nil
}

// fits refuses a claim that its volume could never be bound to.
func (j Judged) fits() error {
	size, ok, _ := unstructured.NestedString(j.Origin.Volume.Object, "spec", "capacity", "storage")
	if !ok {
		return nil
	}
	has, err := resource.ParseQuantity(size)
	if err != nil {
		return fmt.Errorf("read the size of the volume of claim %s: %w", j.name(), err)
	}
	if wants := j.Live.Spec.Resources.Requests[corev1api.ResourceStorage]; wants.Cmp(has) > 0 {
		return hint.Add(fmt.Errorf("claim %s asks for %s, and its volume had %s", j.name(), wants.String(), has.String()),
			fmt.Sprintf("have Git ask for %s, and let it grow when it is back", has.String()))
	}
	return nil
}

// users returns the pods that have a claim, or are about to: those that were given
// a node.
func (r *Rebuild) users(ctx context.Context, namespace, claim string) ([]string, error) {
	pods := &corev1api.PodList{}
	if err := r.Cluster.Client.List(ctx, pods, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list pods in namespace %s: %w", namespace, err)
	}
	var users []string
	for _, p := range pods.Items {
		uses := slices.ContainsFunc(p.Spec.Volumes, func(v corev1api.Volume) bool {
			return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim
		})
		if uses && p.Spec.NodeName != "" && p.Status.Phase != corev1api.PodSucceeded && p.Status.Phase != corev1api.PodFailed {
			users = append(users, "pod "+p.Name)
		}
	}
	return users, nil
}

// RefusedError says which claims a rebuild would have to overwrite.
type RefusedError struct{ Claims []Judged }

func (e *RefusedError) Error() string {
	var all []string
	for _, j := range e.Claims {
		all = append(all, fmt.Sprintf("%s (%s)", j.name(), j.Why))
	}
	return "claims that may hold data are not overwritten: " + strings.Join(all, ", ")
}

// Hint says how to go on.
func (e *RefusedError) Hint() string {
	var names []string
	for _, j := range e.Claims {
		names = append(names, j.name())
	}
	list := strings.Join(names, ",")
	return fmt.Sprintf("--replace-claim=%s takes the volumes of the restore point instead, and keeps what the claims hold as a snapshot; --keep-claim=%s leaves them as they are", list, list)
}

// Refused returns a *RefusedError when claims that may hold data are in the way
// and were not named.
func Refused(all []Judged) error {
	e := &RefusedError{}
	for _, j := range all {
		if j.Action == Refuse {
			e.Claims = append(e.Claims, j)
		}
	}
	if len(e.Claims) == 0 {
		return nil
	}
	return e
}
