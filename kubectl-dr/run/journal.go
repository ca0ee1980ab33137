// Package run executes the steps of a drill or a failover over a journal, a
// RecoveryRun in the recovery cluster: killed at any step, the next execution
// goes on where this one ended. Steps are therefore idempotent. The package
// also holds the steps that drills and failovers share.
package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	authenticationv1api "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// Step is one thing a run does. Do is idempotent and returns what it found or
// did in a sentence.
type Step struct {
	Name string
	// About says what Do would do, for a dry run.
	About string
	Do    func(ctx context.Context) (string, error)
}

// Hooks tell how a run goes on. Nil ones are not called.
type Hooks struct {
	StepStarted func(plan.Step)
	StepEnded   func(plan.Step)
	// StepKept is called for a step that an earlier execution completed.
	StepKept func(plan.Step)
	// Progress says what a step waits for; Warn what someone should look at.
	Progress func(string)
	Warn     func(string)
}

// Progressf reports progress.
func (h Hooks) Progressf(format string, args ...any) {
	if h.Progress != nil {
		h.Progress(fmt.Sprintf(format, args...))
	}
}

// Warnf reports a warning.
func (h Hooks) Warnf(format string, args ...any) {
	if h.Warn != nil {
		h.Warn(fmt.Sprintf(format, args...))
	}
}

// saveTimeout bounds writing the journal, which is done even when the run was
// interrupted.
const saveTimeout = 15 * time.Second

// Journal is a RecoveryRun being executed.
type Journal struct {
	Run    *plan.RecoveryRun
	Client client.Client
	Now    func() time.Time
	Hooks  Hooks
	// Keeper, unless nil, keeps the report of the run elsewhere too, when it is over or
	// has stopped.
	Keeper *Keeper

	attributed bool // who executes the run is in it
}

// NewRun returns a run that has not begun.
func NewRun(name, namespace string, spec plan.RecoveryRunSpec, steps []Step) *plan.RecoveryRun {
	r := &plan.RecoveryRun{
		TypeMeta:   metav1.TypeMeta{APIVersion: plan.GroupVersion.String(), Kind: "RecoveryRun"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{zfssnap.LabelPlan: spec.Plan}},
		Spec:       spec,
	}
	for _, s := range steps {
		r.Status.Steps = append(r.Status.Steps, plan.Step{Name: s.Name, Phase: plan.PhasePending})
	}
	return r
}

// now is the time to the second, as the API keeps it: what is shown during a run
// is what its report says later.
func (j *Journal) now() metav1.Time { return metav1.NewTime(j.Now()).Rfc3339Copy() }

// Begin creates the run in the cluster, or takes up one that is there.
func (j *Journal) Begin(ctx context.Context) error {
	if j.Run.Status.StartedAt == nil {
		now := j.now()
		j.Run.Status.StartedAt = &now
	}
	j.Run.Status.Phase = plan.PhaseRunning
	if j.Run.ResourceVersion == "" {
		status := *j.Run.Status.DeepCopy() // an API server drops it on creation
		if err := j.Client.Create(ctx, j.Run); err != nil {
			return fmt.Errorf("create run %q: %w", j.Run.Name, err)
		}
		j.Run.Status = status
	}
	return j.save(ctx)
}

// Do executes steps in turn, leaving out those completed before, and stops at
// the first that fails.
func (j *Journal) Do(ctx context.Context, steps ...Step) error {
	for _, s := range steps {
		if err := j.step(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// Done reports whether a step is completed.
func (j *Journal) Done(name string) bool {
	i := j.index(name)
	return i >= 0 && done(j.Run.Status.Steps[i])
}

// Failed returns the error of the first step that failed or was interrupted, nil for
// none.
func (j *Journal) Failed() error {
	for _, s := range j.Run.Status.Steps {
		if s.Phase == plan.PhaseFailed || s.Phase == plan.PhaseAborted {
			return &StepError{Run: j.Run.Name, Step: s.Name, Err: errors.New(s.Message)}
		}
	}
	return nil
}

// Begun reports whether a step was ever started.
func (j *Journal) Begun(name string) bool {
	i := j.index(name)
	return i >= 0 && j.Run.Status.Steps[i].StartedAt != nil
}

func done(s plan.Step) bool { return s.Phase == plan.PhasePassed || s.Phase == plan.PhaseSkipped }

func (j *Journal) index(name string) int {
	return slices.IndexFunc(j.Run.Status.Steps, func(s plan.Step) bool { return s.Name == name })
}

// StepError is the error of a step.
type StepError struct {
	Run, Step string
	Err       error
}

func (e *StepError) Error() string { return fmt.Sprintf("%s: %s", e.Step, e.Err) }
func (e *StepError) Unwrap() error { return e.Err }

func (j *Journal) step(ctx context.Context, s Step) error {
	i := j.index(s.Name)
	if i < 0 {
		j.Run.Status.Steps = append(j.Run.Status.Steps, plan.Step{Name: s.Name, Phase: plan.PhasePending})
		i = len(j.Run.Status.Steps) - 1
	}
	entry := &j.Run.Status.Steps[i]
	if done(*entry) {
		if j.Hooks.StepKept != nil {
			j.Hooks.StepKept(*entry)
		}
		return nil
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	started := j.now()
	*entry = plan.Step{Name: s.Name, Phase: plan.PhaseRunning, StartedAt: &started}
	if j.Hooks.StepStarted != nil {
		j.Hooks.StepStarted(*entry)
	}
	if err := j.save(ctx); err != nil {
		return err
	}
	message, err := s.Do(ctx)
	ended := j.now()
	entry.EndedAt, entry.Message, entry.Phase = &ended, message, plan.PhasePassed
	if err != nil {
		entry.Phase, entry.Message = plan.PhaseFailed, err.Error()
		if ctx.Err() != nil {
			entry.Phase = plan.PhaseAborted
			if errors.Is(err, ctx.Err()) {
				err = context.Cause(ctx)
			}
		}
		err = &StepError{Run: j.Run.Name, Step: s.Name, Err: err}
	}
	if j.Hooks.StepEnded != nil {
		j.Hooks.StepEnded(*entry)
	}
	return errors.Join(err, j.save(ctx))
}

// Skip marks a step as one that is not done, and says why.
func (j *Journal) Skip(ctx context.Context, name, why string) error {
	i := j.index(name)
	if i < 0 || done(j.Run.Status.Steps[i]) {
		return nil
	}
	j.Run.Status.Steps[i].Phase, j.Run.Status.Steps[i].Message = plan.PhaseSkipped, why
	return j.save(ctx)
}

// Note keeps a message for whoever looks at a run that has stopped and goes on later.
func (j *Journal) Note(ctx context.Context, message string) error {
	j.Run.Status.Message = message
	return j.keepAndSave(ctx)
}

// Finish ends the run.
func (j *Journal) Finish(ctx context.Context, phase plan.Phase, message string) error {
	ended := j.now()
	j.Run.Status.Phase, j.Run.Status.Message, j.Run.Status.EndedAt = phase, message, &ended
	return j.keepAndSave(ctx)
}

// Amend does a step to a run that was over.
func (j *Journal) Amend(ctx context.Context, s Step) error {
	err := j.step(ctx, s)
	j.keep(ctx)
	return err
}

// keepAndSave keeps the report before the cluster knows: killed in between, the run
// goes on and keeps it again. Where the cluster can't be written to it is the only one.
func (j *Journal) keepAndSave(ctx context.Context) error {
	j.keep(ctx)
	return j.save(ctx)
}

func (j *Journal) keep(ctx context.Context) {
	if j.Keeper != nil {
		j.Keeper.Keep(ctx, j.Run)
	}
}

// save writes the journal, also after ctx was cancelled: what was done has been
// done.
func (j *Journal) save(ctx context.Context) error {
	j.attribute(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	err := retry.OnError(retry.DefaultBackoff, retryable, func() error {
		latest := &plan.RecoveryRun{}
		if err := j.Client.Get(ctx, client.ObjectKeyFromObject(j.Run), latest); err != nil {
			return err
		}
		latest.Status = *j.Run.Status.DeepCopy()
		if err := j.Client.Status().Update(ctx, latest); err != nil {
			return err
		}
		j.Run.ResourceVersion = latest.ResourceVersion
		return nil
	})
	if err != nil {
		return fmt.Errorf("write the journal of run %q: %w", j.Run.Name, err)
	}
	return nil
}

// attribute puts down who executes the run, once. It never keeps a run from going on.
func (j *Journal) attribute(ctx context.Context) {
	if j.attributed {
		return
	}
	j.attributed = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	by := &j.Run.Status.ExecutedBy
	me := plan.Executor{User: whoAmI(ctx, j.Client), Version: zfssnap.Version, Since: j.now()}
	if n := len(*by); n > 0 && (*by)[n-1].User == me.User && (*by)[n-1].Version == me.Version {
		return
	}
	*by = append(*by, me)
}

// whoAmI is what the API server calls whoever asks it; "" where it does not say, as
// before Kubernetes 1.28. With --as it is who is impersonated.
// https://kubernetes.io/docs/reference/access-authn-authz/authentication/#self-subject-review
func whoAmI(ctx context.Context, c client.Client) string {
	review := &authenticationv1api.SelfSubjectReview{}
	if err := c.Create(ctx, review); err != nil {
		return ""
	}
	return review.Status.UserInfo.Username
}

func retryable(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsInternalError(err)
}

// Runs returns the runs of a plan, of all plans when it is "", newest first. What is
// but a copy of another site's run is left out.
func Runs(ctx context.Context, c client.Reader, namespace, planName string) ([]plan.RecoveryRun, error) {
	all, err := WithCopies(ctx, c, namespace, planName)
	return slices.DeleteFunc(all, func(r plan.RecoveryRun) bool { return isCopy(&r) }), err
}

// WithCopies is Runs for who only reads: it has the copies of other sites' runs too.
func WithCopies(ctx context.Context, c client.Reader, namespace, planName string) ([]plan.RecoveryRun, error) {
	list := &plan.RecoveryRunList{}
	if err := c.List(ctx, list, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list runs in namespace %s: %w", namespace, err)
	}
	runs := slices.DeleteFunc(list.Items, func(r plan.RecoveryRun) bool { return planName != "" && r.Spec.Plan != planName })
	sortRuns(runs)
	return runs, nil
}

// sortRuns puts the newest first.
func sortRuns(runs []plan.RecoveryRun) {
	slices.SortStableFunc(runs, func(a, b plan.RecoveryRun) int { return began(b).Compare(began(a)) })
}

func began(r plan.RecoveryRun) time.Time {
	if r.Status.StartedAt != nil {
		return r.Status.StartedAt.Time
	}
	return r.CreationTimestamp.Time
}

// InProgress returns the run of a plan that goes on, nil when there is none.
func InProgress(runs []plan.RecoveryRun) *plan.RecoveryRun {
	for i := range runs {
		if runs[i].InProgress() {
			return &runs[i]
		}
	}
	return nil
}

// Named returns the run of a name, nil when there is none.
func Named(runs []plan.RecoveryRun, name string) *plan.RecoveryRun {
	for i := range runs {
		if runs[i].Name == name {
			return &runs[i]
		}
	}
	return nil
}

// LastMove returns the newest run that moved the application to the other site,
// nil when it never left where it was installed.
func LastMove(runs []plan.RecoveryRun) *plan.RecoveryRun { return lastPassed(runs, plan.RunKind.Moves) }

// LastReprotect returns the newest reprotection that is done, nil for none.
func LastReprotect(runs []plan.RecoveryRun) *plan.RecoveryRun {
	return lastPassed(runs, func(k plan.RunKind) bool { return k == plan.RunReprotect })
}

func lastPassed(runs []plan.RecoveryRun, is func(plan.RunKind) bool) *plan.RecoveryRun {
	for i := range runs {
		if runs[i].Status.Phase == plan.PhasePassed && is(runs[i].Spec.Kind) {
			return &runs[i]
		}
	}
	return nil
}

// Epoch is the highest of all runs. It counts those that change roles.
func Epoch(runs []plan.RecoveryRun) int64 {
	var highest int64
	for _, r := range runs {
		highest = max(highest, r.Spec.Epoch)
	}
	return highest
}
