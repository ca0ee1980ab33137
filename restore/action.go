package restore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"github.com/vmware-tanzu/velero/pkg/plugin/velero"
	riav2 "github.com/vmware-tanzu/velero/pkg/plugin/velero/restoreitemaction/v2"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

const (
	// PluginName is the name the action is registered under, and the label key of
	// its ConfigMap.
	PluginName = "kubectl-dr.io/rewrite"
	// ProfileKey is the annotation, or the label, of a Restore that names the
	// profile to use. The annotation goes first.
	ProfileKey = "kubectl-dr.io/profile"
	// OnlyKey is the annotation of a Restore that names the ConfigMap of the
	// objects that it is limited to: a [rules.Selection] in each of its keys. The
	// ConfigMap has a label of this name too, with its own name as the value.
	OnlyKey = "kubectl-dr.io/only"
)

// Action rewrites every object of a restore that names a profile, limits one that
// names a selection to that, and leaves every other restore alone. An object that can't be rewritten is an error of
// its own, and Velero doesn't restore it: production's names must not come up
// elsewhere by mistake.
//
// The configuration is read once for each restore, so that a change to it never
// splits a restore in two.
type Action struct {
	log       logrus.FieldLogger
	cluster   Cluster
	namespace string

	mu     sync.Mutex
	recent []*loaded // the latest last
}

// loaded is the profile of one restore and what it has done so far, and the
// objects that the restore is limited to; either may be nil.
type loaded struct {
	restore string
	profile *rules.Profile
	only    rules.Selection
	tally   tally
}

// keptProfiles is how many restores' profiles are kept. Velero runs one restore
// at a time in a namespace by default.
const keptProfiles = 8

var _ riav2.RestoreItemAction = (*Action)(nil)

// NewAction returns the action of the Velero in a namespace.
func NewAction(log logrus.FieldLogger, cluster Cluster, namespace string) *Action {
	return &Action{log: log, cluster: cluster, namespace: namespace}
}

// Name returns the name the action is registered under.
func (*Action) Name() string { return PluginName }

// nothing is a label selector that no object fits.
const nothing = ProfileKey + ",!" + ProfileKey

// AppliesTo selects every object, since a profile may drop or label any, or
// nothing when the restore names no profile. Velero asks at the start of a
// restore, and an error ends it before anything is created: there is one when the
// profile or the selection that a restore in progress asks for can't be used.
//
// Velero doesn't say which restore it asks for. Where it can't be found out, every
// object is selected and judged by itself.
func (a *Action) AppliesTo() (velero.ResourceSelector, error) {
	running, err := a.restoresInProgress(context.Background())
	if err != nil {
		a.log.WithError(err).Warn("profiles are not looked at before the restore begins")
		return velero.ResourceSelector{}, nil
	}
	var errs []error
	wanted := len(running) == 0
	for _, restore := range running {
		wanted = wanted || profileName(restore) != "" || restore.Annotations[OnlyKey] != ""
		errs = append(errs, a.Admit(restore))
	}
	if wanted {
		return velero.ResourceSelector{}, errors.Join(errs...)
	}
	return velero.ResourceSelector{LabelSelector: nothing}, nil
}

// restoresInProgress are those that Velero works on.
func (a *Action) restoresInProgress(ctx context.Context) ([]*velerov1api.Restore, error) {
	all, err := a.cluster.ListRestores(ctx, a.namespace)
	if err != nil {
		return nil, fmt.Errorf("list restores in namespace %s: %w", a.namespace, err)
	}
	var running []*velerov1api.Restore
	for i := range all {
		if all[i].Status.Phase == velerov1api.RestorePhaseInProgress {
			running = append(running, &all[i])
		}
	}
	return running, nil
}

// Execute rewrites one object. It leaves the namespace to Velero, which maps it
// afterwards.
func (a *Action) Execute(input *velero.RestoreItemActionExecuteInput) (*velero.RestoreItemActionExecuteOutput, error) {
	of, err := a.load(input.Restore)
	if err != nil {
		return nil, err
	}
	if of == nil {
		return velero.NewRestoreItemActionExecuteOutput(input.Item), nil
	}
	obj := &unstructured.Unstructured{Object: input.Item.UnstructuredContent()}
	if of.only != nil && !of.only.Has(obj) {
		return velero.NewRestoreItemActionExecuteOutput(input.Item).WithoutRestore(), nil
	}
	if of.profile == nil {
		return velero.NewRestoreItemActionExecuteOutput(input.Item), nil
	}
	log := a.log.WithFields(logrus.Fields{"restore": input.Restore.Name, "profile": of.profile.Name})
	a.sumUp(log, of, obj.GetKind())
	result, err := of.profile.Apply(asBackedUp(obj, input.ItemFromBackup))
	if err != nil {
		return nil, err
	}
	sums := log
	log = log.WithFields(logrus.Fields{"kind": obj.GetKind(), "namespace": obj.GetNamespace(), "name": obj.GetName()})
	for _, change := range result.Changes {
		log.Info(change.String())
	}
	for _, warning := range result.Warnings {
		log.Warn(warning)
	}
	a.count(sums, of, result)
	if result.Drop {
		return velero.NewRestoreItemActionExecuteOutput(input.Item).WithoutRestore(), nil
	}
	if ns := claimNamespace(obj); ns != "" && obj.GetKind() == "PersistentVolume" && claimNamespace(result.Object) != "" {
		setClaimNamespace(result.Object, ns)
	}
	result.Object.SetOwnerReferences(obj.GetOwnerReferences())
	if _, ok := obj.Object["status"]; !ok {
		delete(result.Object.Object, "status")
	}
	return velero.NewRestoreItemActionExecuteOutput(result.Object), nil
}

// claimNamespace is the namespace of the claim that a PersistentVolume is bound to.
func claimNamespace(obj *unstructured.Unstructured) string {
	ns, _, _ := unstructured.NestedString(obj.Object, "spec", "claimRef", "namespace")
	return ns
}

func setClaimNamespace(obj *unstructured.Unstructured, ns string) {
	obj.Object["spec"].(map[string]any)["claimRef"].(map[string]any)["namespace"] = ns
}

// asBackedUp puts the owners and the status back that Velero has taken out of an
// item, and the namespace of a volume's claim that it has mapped already: the
// engine looks at them.
func asBackedUp(item *unstructured.Unstructured, fromBackup runtime.Unstructured) *unstructured.Unstructured {
	if fromBackup == nil {
		return item
	}
	from := &unstructured.Unstructured{Object: fromBackup.UnstructuredContent()}
	full := &unstructured.Unstructured{Object: maps.Clone(item.Object)}
	if metadata, ok := item.Object["metadata"].(map[string]any); ok {
		full.Object["metadata"] = maps.Clone(metadata)
	}
	full.SetOwnerReferences(from.GetOwnerReferences())
	if status, ok := from.Object["status"]; ok {
		full.Object["status"] = status
	}
	if ns := claimNamespace(from); ns != "" && item.GetKind() == "PersistentVolume" && claimNamespace(item) != "" {
		full = full.DeepCopy()
		setClaimNamespace(full, ns)
	}
	return full
}

// Admit returns why the profile or the selection that a restore asks for can't be
// used.
func (a *Action) Admit(restore *velerov1api.Restore) error {
	_, err := a.load(restore)
	return err
}

// profileName is the profile a restore asks for, empty when it asks for none.
func profileName(restore *velerov1api.Restore) string {
	if name := restore.Annotations[ProfileKey]; name != "" {
		return name
	}
	return restore.Labels[ProfileKey]
}

// load returns what a restore asks for, nil when it asks for nothing.
func (a *Action) load(restore *velerov1api.Restore) (*loaded, error) {
	name, only := profileName(restore), restore.Annotations[OnlyKey]
	if name == "" && only == "" {
		return nil, nil
	}
	id := string(restore.UID) + " " + restore.Namespace + "/" + restore.Name + " " + name
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.IndexFunc(a.recent, func(l *loaded) bool { return l.restore == id }); i >= 0 {
		hit := a.recent[i]
		a.recent = append(slices.Delete(a.recent, i, i+1), hit)
		return hit, nil
	}
	of := &loaded{restore: id}
	if err := a.loadProfile(of, restore, name); err != nil {
		return nil, err
	}
	if err := a.loadSelection(of, restore, only); err != nil {
		return nil, err
	}
	a.recent = append(a.recent, of)
	if len(a.recent) > keptProfiles {
		a.recent = slices.Delete(a.recent, 0, 1)
	}
	return of, nil
}

func (a *Action) loadProfile(of *loaded, restore *velerov1api.Restore, name string) error {
	if name == "" {
		return nil
	}
	set, configMap, err := LoadProfiles(context.Background(), a.cluster, restore.Namespace)
	if err != nil {
		return fmt.Errorf("find profile %q of restore %s: %w", name, restore.Name, err)
	}
	profile, err := set.Profile(name)
	if err != nil {
		return fmt.Errorf("find profile of restore %s in ConfigMap %s/%s: %w", restore.Name, restore.Namespace, configMap, err)
	}
	of.profile = profile.InNamespaces(restore.Spec.NamespaceMapping)
	a.log.WithFields(logrus.Fields{"restore": restore.Name, "profile": name, "configMap": configMap}).Info("rewriting by profile")
	return nil
}

// loadSelection reads the objects that a restore is limited to. Without the list
// nothing is restored: more than was asked for would be.
func (a *Action) loadSelection(of *loaded, restore *velerov1api.Restore, name string) error {
	if name == "" {
		return nil
	}
	found, err := a.cluster.ListConfigMaps(context.Background(), restore.Namespace, OnlyKey+"="+name)
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("namespace %s has %d with the label %s=%s, not one", restore.Namespace, len(found), OnlyKey, name)
	}
	if err != nil {
		return fmt.Errorf("find the ConfigMap of the objects that restore %s is limited to: %w", restore.Name, err)
	}
	of.only = rules.Selection{}
	for key, text := range found[0].Data {
		only, err := rules.ParseSelection(text)
		if err != nil {
			return fmt.Errorf("read %s of ConfigMap %s/%s: %w", key, restore.Namespace, found[0].Name, err)
		}
		maps.Copy(of.only, only)
	}
	a.log.WithFields(logrus.Fields{"restore": restore.Name, "configMap": found[0].Name, "objects": len(of.only)}).Info("restoring these objects alone")
	return nil
}

// Progress errs: the action starts no operations.
func (*Action) Progress(string, *velerov1api.Restore) (velero.OperationProgress, error) {
	return velero.OperationProgress{}, riav2.AsyncOperationsNotSupportedError()
}

// Cancel has nothing to cancel.
func (*Action) Cancel(string, *velerov1api.Restore) error { return nil }

// AreAdditionalItemsReady returns true: the action asks for no further items.
func (*Action) AreAdditionalItemsReady([]velero.ResourceIdentifier, *velerov1api.Restore) (bool, error) {
	return true, nil
}
