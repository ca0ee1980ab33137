package kubectldr

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	appsv1api "k8s.io/api/apps/v1"
	authenticationv1api "k8s.io/api/authentication/v1"
	corev1api "k8s.io/api/core/v1"
	storagev1api "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/check"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster/clustertest"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/dns"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/registry"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/traffic"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

var update = flag.Bool("update", false, "write the golden files anew")

// begin is when every test begins.
var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is two sites in memory: a source that Velero backs up, and a recovery
// cluster with Velero and a ZFS host. It behaves as those do as far as kubectl
// dr can see.
type world struct {
	t        *testing.T
	recovery *cluster.Cluster
	source   *cluster.Cluster
	agents   map[string]cluster.Agent     // in the place of those of the two hosts that follow
	host     *host                        // remote, at the recovery site
	old      *host                        // hassio, at the source
	volumes  map[string]map[string]string // the dataset of a claim, by node
	backups  map[string][]zfssnap.SnapshotID
	files    files
	archive  string      // that the location names
	external bool        // another tool replicates
	kept     plan.Method // how Velero keeps volumes at a site without ZFS; "" is ours
	skips    string      // why backups there leave volumes out
	web      *httptest.Server
	answer   func(w http.ResponseWriter, r *http.Request)
	logs     map[string]string // by pod/container
	images   map[string]error  // what registries say
	git      []client.Object   // what Argo CD brings
	holds    []client.Object   // in backups, beside the application
	records  map[string][]dns.Record
	texts    map[string][]dns.Record
	names    traffic.Names // the world itself, or a name server

	guids int
	mu    sync.Mutex
	clock time.Time
	stdin string
	tty   bool
	typed string // in answer to a question for a secret
	user  string // what the API servers call us; "" when they don't say

	// Velero's server.
	serverVersion string
	plugins       []velerov1api.PluginInfo

	// Ways in which things go wrong.
	restorePhase velerov1api.RestorePhase
	backupPhase  velerov1api.BackupPhase
	neverReady   bool
	unsynced     func() // what Velero syncs when a backup it doesn't know is looked for again
	looked       func() // before an agent looks for a snapshot
	noCRDs       bool
	noServer     bool
	before       func(what string) error // before writing to a cluster
	dieAfter     string                  // a step; it is done, and not recorded
	dieAtEnd     bool                    // once it is recorded that a run has ended
	dead         bool
	commands     int
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

const veleroNS = "velero"

var claims = []string{"wordpress-db", "wordpress-html"}

func testPlan() *plan.RecoveryPlan {
	content, err := os.ReadFile("testdata/plan.yaml")
	if err != nil {
		panic(err)
	}
	p, err := plan.Decode(content)
	if err != nil {
		panic(err)
	}
	return p
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, serverVersion: "v1.18.3",
		plugins: []velerov1api.PluginInfo{{Name: "kubectl-dr.io/zfs", Kind: "VolumeSnapshotter"}, {Name: "kubectl-dr.io/rewrite", Kind: "RestoreItemActionV2"}},
		clock:   begin, user: "vegard@example.org", files: files{}, records: map[string][]dns.Record{"vegard.blog.example.org": {{Type: "A", Value: "192.0.2.1", TTL: time.Minute}}}, restorePhase: velerov1api.RestorePhaseCompleted, backupPhase: velerov1api.BackupPhaseCompleted}
	w.answer = func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "<title>Vegard's blog</title>") }
	w.web = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.pass(2 * time.Second)
		w.answer(rw, r)
	}))
	t.Cleanup(w.web.Close)
	w.host, w.old = newHost(w, "remote"), newHost(w, "hassio")
	w.host.skew, w.old.absent = 40*time.Millisecond, true
	w.backups = map[string][]zfssnap.SnapshotID{}
	w.volumes = map[string]map[string]string{"hassio": {}, "remote": {}}
	for _, claim := range claims {
		w.volumes["hassio"][claim] = "znvm/k3s/" + claim
		w.old.datasets["znvm/k3s/"+claim] = map[string]string{}
	}
	w.names = w
	w.recovery = w.cluster("dr", w.recoveryObjects())
	w.source = w.cluster("primary", w.sourceObjects())
	w.addBackup("wordpress-1", 20*time.Minute)
	w.addBackup("wordpress-2", 7*time.Minute+12*time.Second)
	return w
}

func (w *world) cluster(name string, objects []client.Object) *cluster.Cluster {
	scheme := schemes.Get().(*runtime.Scheme)
	w.t.Cleanup(func() { schemes.Put(scheme) })
	base := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithRESTMapper(kinds()).Build()
	c := interceptor.NewClient(base, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			if err := errors.Join(w.killed(), w.missing(obj)); err != nil {
				return err
			}
			err := c.Get(ctx, key, obj, opts...)
			if _, backup := obj.(*velerov1api.Backup); backup && apierrors.IsNotFound(err) && w.unsynced != nil {
				w.unsynced()
			}
			return err
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if err := errors.Join(w.killed(), w.missing(list)); err != nil {
				return err
			}
			return c.List(ctx, list, opts...)
		},
		SubResourceUpdate: func(ctx context.Context, c client.Client, sub string, obj client.Object, opts ...client.SubResourceUpdateOption) error {
			r, run := obj.(*plan.RecoveryRun)
			if run {
				w.recording(r)
			}
			if err := w.killed(); err != nil {
				return err
			}
			if !run {
				return c.SubResource(sub).Update(ctx, obj, opts...)
			}
			// A fake client keeps a status apart by way of JSON, eight times for each
			// write, and a run is written with each step. Nothing else updates runs.
			err := c.Update(ctx, r)
			w.dead = w.dead || w.dieAtEnd && r.Status.EndedAt != nil && r.Labels[zfssnap.LabelCopy] == ""
			return err
		},
		Update: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.UpdateOption) error {
			if err := w.killed(); err != nil {
				return err
			}
			if _, ok := obj.(*plan.RecoveryRun); ok {
				return errors.New("the status of a run is a subresource")
			}
			return c.Update(ctx, obj, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			if review, ok := obj.(*authenticationv1api.SelfSubjectReview); ok {
				return w.review(review)
			}
			if err := w.fault(name, "create", obj); err != nil {
				return err
			}
			if _, ok := obj.(*velerov1api.Restore); ok {
				obj.SetCreationTimestamp(metav1.NewTime(w.now()))
			}
			if err := c.Create(ctx, obj, opts...); err != nil {
				return err
			}
			return w.created(ctx, c, name, obj)
		},
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
			dryRun := slices.Contains(opts, client.PatchOption(client.DryRunAll))
			if err := w.fault(name, "patch", obj); err != nil && !dryRun {
				return err
			}
			applied, err := clustertest.Apply(ctx, c, obj, patch, opts...)
			if !applied {
				err = c.Patch(ctx, obj, patch, opts...)
			}
			if err != nil || dryRun {
				return err
			}
			return w.patched(ctx, c, obj)
		},
		Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
			if err := w.fault(name, "delete", obj); err != nil {
				return err
			}
			if err := c.Delete(ctx, obj, opts...); err != nil {
				return err
			}
			if _, ok := obj.(*corev1api.Namespace); ok {
				return w.emptied(ctx, c, obj.GetName())
			}
			return nil
		},
	})
	return &cluster.Cluster{Client: cluster.Explained(c, name), Namespace: veleroNS, Context: name, Pods: w, Files: w.files}
}

// known are the types that every world has in common.
var known = cluster.Scheme()

// schemes are lent to one cluster after the other, for making one takes longer than
// most tests. No two have the same, since a fake client adds to it what it meets.
var schemes = sync.Pool{New: func() any { return cluster.Scheme() }}

// kinds are those that the clusters serve: Kubernetes' own, Velero's, ours, and some that
// clusters often have.
var kinds = sync.OnceValue(func() meta.RESTMapper {
	metalLB, flux := schema.GroupVersion{Group: "metallb.io", Version: "v1beta1"}, schema.GroupVersion{Group: "source.toolkit.fluxcd.io", Version: "v1"}
	mapper := meta.NewDefaultRESTMapper(append(known.PrioritizedVersionsAllGroups(), metalLB, flux))
	mapper.Add(metalLB.WithKind("IPAddressPool"), meta.RESTScopeNamespace)
	mapper.Add(flux.WithKind("GitRepository"), meta.RESTScopeNamespace)
	mapper.Add(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}, meta.RESTScopeRoot)
	for gvk := range known.AllKnownTypes() {
		scope := meta.RESTScopeNamespace
		if slices.Contains([]string{"Namespace", "Node", "PersistentVolume", "StorageClass", "PriorityClass", "IngressClass", "RuntimeClass",
			"ValidatingWebhookConfiguration", "MutatingWebhookConfiguration", "ClusterRole", "ClusterRoleBinding"}, gvk.Kind) {
			scope = meta.RESTScopeRoot
		}
		if gvk.Version == "v1" || gvk.Group == zfssnap.Domain {
			mapper.Add(gvk, scope)
		}
	}
	return mapper
})

func (w *world) fault(clusterName, verb string, obj client.Object) error {
	if err := w.killed(); err != nil || w.before == nil {
		return err
	}
	kind := strings.ToLower(fmt.Sprintf("%T", obj))
	if u, ok := obj.(*unstructured.Unstructured); ok {
		kind = strings.ToLower(u.GetKind())
	}
	kind = kind[strings.LastIndex(kind, ".")+1:]
	return w.before(clusterName + " " + verb + " " + kind)
}

// recording dies instead of recording that a step is done.
func (w *world) recording(r *plan.RecoveryRun) {
	for _, s := range r.Status.Steps {
		if s.Name == w.dieAfter && s.EndedAt != nil {
			w.dead, w.host.down, w.old.down = true, true, true
		}
	}
}

// review plays an API server that is asked who asks.
func (w *world) review(r *authenticationv1api.SelfSubjectReview) error {
	if w.user == "" {
		return &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: "authentication.k8s.io", Kind: "SelfSubjectReview"}, SearchedVersions: []string{"v1"}}
	}
	r.Status.UserInfo.Username = w.user
	return w.killed()
}

// killed fails whatever a dead process would do.
func (w *world) killed() error {
	if w.dead {
		return errors.New("killed")
	}
	return nil
}

// refuses runs a command a minute later that is to refuse, with a message and a hint.
func (w *world) refuses(t *testing.T, command, message, hint string) {
	t.Helper()
	w.pass(time.Minute)
	w.before = func(what string) error {
		assert.Contains(t, what, "lease", "a refusal changes nothing")
		return nil
	}
	got := w.run(t.Context(), strings.Fields(command)...)
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, message)
	assert.Contains(t, got.err, hint)
}

// dies runs a command that dies once it has done a step, and has the next one live.
func (w *world) dies(t *testing.T, command, after string) {
	t.Helper()
	w.dieAfter = after
	o := w.run(t.Context(), strings.Fields(command)...)
	require.NotZero(t, o.code, o.err)
	require.True(t, w.dead, "%s has no step %q", command, after)
	w.revive()
}

// steps returns the names of those that a command would take.
func (w *world) steps(t *testing.T, command string) []string {
	t.Helper()
	var r plan.RecoveryRun
	require.NoError(t, json.Unmarshal([]byte(w.do(t, command+" --dry-run -o json").out), &r))
	var names []string
	for _, s := range r.Status.Steps {
		names = append(names, s.Name)
	}
	require.NotEmpty(t, names)
	return names
}

// revive lets the next command live.
func (w *world) revive() {
	w.dead, w.host.down, w.old.down, w.dieAfter, w.dieAtEnd = false, false, false, "", false
	w.pass(time.Minute)
}

// missing plays an API server without our definitions.
func (w *world) missing(obj any) error {
	if strings.HasPrefix(fmt.Sprintf("%T", obj), "*plan.") && w.noCRDs {
		return &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: zfssnap.Domain, Kind: "RecoveryPlan"}, SearchedVersions: []string{"v1alpha1"}}
	}
	return nil
}

// created plays Velero.
func (w *world) created(ctx context.Context, c client.Client, cluster string, obj client.Object) error {
	switch o := obj.(type) {
	case *velerov1api.ServerStatusRequest:
		if w.noServer {
			return nil
		}
		o.Status = velerov1api.ServerStatusRequestStatus{Phase: velerov1api.ServerStatusRequestPhaseProcessed, ServerVersion: w.serverVersion, Plugins: w.plugins}
		return c.Update(ctx, o)
	case *velerov1api.Restore:
		if only := o.Annotations[zfssnap.AnnotationOnly]; only != "" {
			return w.restoreOnly(ctx, c, o, only)
		}
		return w.restore(ctx, c, cluster, o)
	case *corev1api.PersistentVolumeClaim, *unstructured.Unstructured:
		return w.bind(ctx, c, o)
	case *velerov1api.Backup:
		if o.Status.Phase != "" {
			return nil // it was synced
		}
		o.Status.Phase = w.backupPhase
		o.Status.StartTimestamp = ptr.To(metav1.NewTime(w.now()))
		o.Status.CompletionTimestamp = o.Status.StartTimestamp
		if err := c.Update(ctx, o); err != nil || w.backupPhase != velerov1api.BackupPhaseCompleted {
			return err
		}
		w.backUp(cluster, o)
	}
	return nil
}

func (w *world) restore(ctx context.Context, c client.Client, cluster string, r *velerov1api.Restore) error {
	w.pass(20 * time.Second)
	r.Status.Phase = w.restorePhase
	r.Status.Progress = &velerov1api.RestoreProgress{ItemsRestored: 12, TotalItems: 12}
	if w.restorePhase != velerov1api.RestorePhaseCompleted {
		r.Status.Errors = 1
		w.files["RestoreResults/"+r.Name] = `{"errors":{"namespaces":{"wordpress":["restore volume: no space left"]}}}`
		return c.Update(ctx, r)
	}
	if err := c.Update(ctx, r); err != nil {
		return err
	}
	target := r.Spec.NamespaceMapping["wordpress"]
	if target == "" {
		target = "wordpress"
		_ = c.Create(ctx, &corev1api.Namespace{ObjectMeta: metav1.ObjectMeta{Name: target, CreationTimestamp: metav1.NewTime(w.now())}})
	}
	var pvs []client.Object
	host, parent := w.host, "backup/znvm/k3s/"
	if cluster == "primary" {
		host, parent = w.old, "znvm/k3s/"
	}
	restored := claims
	if slices.Contains(r.Spec.ExcludedResources, "persistentvolumeclaims") {
		restored = nil
	}
	for i, claim := range restored {
		// A volume of the name that it knows it leaves as it is, and so its claim.
		pv, there := &corev1api.PersistentVolume{}, &corev1api.PersistentVolumeClaim{}
		if c.Get(ctx, client.ObjectKey{Name: claim}, pv) == nil && c.Get(ctx, client.ObjectKey{Namespace: target, Name: claim}, there) == nil {
			continue
		}
		if w.kept != "" {
			pvs = append(pvs, w.provisioned(target, claim, r.Name)...)
			continue
		}
		dataset := parent + claim + "-0a1b2c3d-" + r.Name
		copied := host.snapshots[w.backups[r.Spec.BackupName][i].GUID]
		host.datasets[dataset] = map[string]string{zfssnap.PropManaged: "true", zfssnap.PropRestore: r.Name, zfssnap.PropRun: r.Labels[zfssnap.LabelRun]}
		host.origins[dataset] = copied.GetDataset() + "@" + copied.GetName()
		if r.Spec.NamespaceMapping == nil {
			w.volumes[host.node][claim] = dataset
		}
		pvs = append(pvs, &corev1api.PersistentVolume{ObjectMeta: metav1.ObjectMeta{
			Name: claim + "-" + r.Name, Labels: map[string]string{velerov1api.RestoreNameLabel: r.Name},
		}}, &corev1api.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: target, Name: claim},
			Spec: corev1api.PersistentVolumeClaimSpec{VolumeName: claim + "-" + r.Name}})
	}
	if len(r.Spec.IncludedResources) == 0 {
		pvs = append(pvs, application(target, 0)...)
	}
	for _, o := range pvs {
		if err := c.Create(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// application returns what runs in a namespace; with no replicas it is on
// standby.
func application(ns string, replicas int32) []client.Object {
	var objects []client.Object
	for _, name := range []string{"wordpress-db", "wordpress"} {
		labels := map[string]string{"app": name}
		d := &appsv1api.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
			Spec:       appsv1api.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}},
		}
		if replicas == 0 {
			d.Annotations = map[string]string{rules.AnnotationOriginalState: rules.OriginalState{Replicas: ptr.To(int64(1))}.Encode()}
		}
		objects = append(objects, d, &corev1api.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
			Spec:       corev1api.ServiceSpec{Selector: labels, Ports: []corev1api.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
		})
	}
	return objects
}

// patched plays the controller of deployments.
func (w *world) patched(ctx context.Context, c client.Client, obj client.Object) error {
	if _, claim := obj.(*corev1api.PersistentVolumeClaim); claim {
		return w.bind(ctx, c, obj)
	}
	u, ok := obj.(*unstructured.Unstructured)
	if ok && u.GetKind() == "Application" {
		return w.sync(ctx, c, u)
	}
	if !ok || u.GetKind() != "Deployment" {
		return nil
	}
	d := &appsv1api.Deployment{}
	if err := c.Get(ctx, client.ObjectKeyFromObject(u), d); err != nil {
		return err
	}
	w.pass(5 * time.Second)
	n := ptr.Deref(d.Spec.Replicas, 1)
	pod := &corev1api.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Name: d.Name + "-0", Labels: d.Spec.Selector.MatchLabels,
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: d.Name, Controller: ptr.To(true)}}}}
	if n == 0 {
		return client.IgnoreNotFound(c.Delete(ctx, pod))
	}
	if w.neverReady {
		pod.Status.Conditions = []corev1api.PodCondition{{Type: corev1api.PodScheduled, Status: corev1api.ConditionFalse, Message: "0/1 nodes are available"}}
		return c.Create(ctx, pod)
	}
	pod.Status.Phase = corev1api.PodRunning
	pod.Status.Conditions = []corev1api.PodCondition{{Type: corev1api.PodReady, Status: corev1api.ConditionTrue}}
	d.Status.AvailableReplicas, d.Status.UpdatedReplicas, d.Status.ReadyReplicas = n, n, n
	if err := client.IgnoreAlreadyExists(c.Create(ctx, pod)); err != nil {
		return err
	}
	return c.Status().Update(ctx, d)
}

// provisioned plays Velero and a driver: the volume is made anew for its claim,
// and gets the reclaim policy that it had.
func (w *world) provisioned(namespace, claim, restore string) []client.Object {
	name := "pvc-" + claim + "-" + restore
	return []client.Object{
		&corev1api.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{zfssnap.ProvisionedBy: "csi.example.com"}},
			Spec: corev1api.PersistentVolumeSpec{
				PersistentVolumeReclaimPolicy: corev1api.PersistentVolumeReclaimRetain,
				ClaimRef:                      &corev1api.ObjectReference{Namespace: namespace, Name: claim},
			},
		},
		&corev1api.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: claim}, Spec: corev1api.PersistentVolumeClaimSpec{VolumeName: name}},
	}
}

// emptied plays the controller of namespaces, and drivers.
func (w *world) emptied(ctx context.Context, c client.Client, ns string) error {
	pvs := &corev1api.PersistentVolumeList{}
	if err := c.List(ctx, pvs); err != nil {
		return err
	}
	for _, pv := range pvs.Items {
		claim := pv.Spec.ClaimRef
		if claim != nil && claim.Namespace == ns && pv.Spec.PersistentVolumeReclaimPolicy == corev1api.PersistentVolumeReclaimDelete {
			if err := c.Delete(ctx, &pv); err != nil {
				return err
			}
		} else if claim != nil && claim.Namespace == ns {
			pv.Status.Phase = corev1api.VolumeReleased
			if err := c.Status().Update(ctx, &pv); err != nil {
				return err
			}
		}
	}
	for _, kind := range []client.Object{&corev1api.Pod{}, &appsv1api.Deployment{}, &corev1api.Service{}, &corev1api.PersistentVolumeClaim{}} {
		if err := c.DeleteAllOf(ctx, kind, client.InNamespace(ns)); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) recoveryObjects() []client.Object {
	profiles, err := os.ReadFile("testdata/profiles.yaml")
	require.NoError(w.t, err)
	p := testPlan()
	p.Namespace = veleroNS
	return []client.Object{
		p,
		&corev1api.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "dr"}},
		&velerov1api.BackupStorageLocation{
			ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "default"},
			Spec:       velerov1api.BackupStorageLocationSpec{AccessMode: velerov1api.BackupStorageLocationAccessModeReadOnly},
			Status:     velerov1api.BackupStorageLocationStatus{Phase: velerov1api.BackupStorageLocationPhaseAvailable},
		},
		&velerov1api.BackupStorageLocation{
			ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "dr"},
			Spec:       velerov1api.BackupStorageLocationSpec{AccessMode: velerov1api.BackupStorageLocationAccessModeReadWrite},
			Status:     velerov1api.BackupStorageLocationStatus{Phase: velerov1api.BackupStorageLocationPhaseAvailable},
		},
		&velerov1api.VolumeSnapshotLocation{
			ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "zfs"},
			Spec:       velerov1api.VolumeSnapshotLocationSpec{Provider: zfssnap.Provider},
		},
		&corev1api.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "rewrite", Labels: map[string]string{"velero.io/plugin-config": "", "kubectl-dr.io/rewrite": "RestoreItemAction"}},
			Data:       map[string]string{"wordpress.yaml": string(profiles)},
		},
		&storagev1api.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "zfs-storage-znvm-dr"}},
		publisher("--registry=noop"),
		&corev1api.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "remote", Labels: map[string]string{"kubernetes.io/hostname": "remote"}},
			Spec:       corev1api.NodeSpec{Taints: []corev1api.Taint{{Key: "dedicated", Value: "remote", Effect: corev1api.TaintEffectNoSchedule}}},
			Status:     corev1api.NodeStatus{Conditions: []corev1api.NodeCondition{{Type: corev1api.NodeReady, Status: corev1api.ConditionTrue}}},
		},
	}
}

// publisher is a site's external-dns.
func publisher(args ...string) client.Object {
	return &appsv1api.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "external-dns", Name: "external-dns"},
		Spec: appsv1api.DeploymentSpec{Template: corev1api.PodTemplateSpec{Spec: corev1api.PodSpec{
			Containers: []corev1api.Container{{Name: "external-dns", Image: "registry.example.org/external-dns:v0.20.0", Args: args}}}}},
		Status: appsv1api.DeploymentStatus{ReadyReplicas: 1},
	}
}

func (w *world) sourceObjects() []client.Object {
	objects := application("wordpress", 1)
	for _, claim := range claims {
		objects = append(objects,
			&corev1api.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: claim},
				Spec: corev1api.PersistentVolumeClaimSpec{VolumeName: claim}},
			&corev1api.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: claim},
				Spec: corev1api.PersistentVolumeSpec{PersistentVolumeReclaimPolicy: corev1api.PersistentVolumeReclaimDelete}})
	}
	return append(objects,
		publisher("--registry=noop"),
		&corev1api.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "wordpress"}},
		&corev1api.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "primary"}},
		&velerov1api.Schedule{
			ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "wordpress"},
			Spec:       velerov1api.ScheduleSpec{Template: velerov1api.BackupSpec{IncludedNamespaces: []string{"wordpress"}}},
		})
}

// addCopies takes snapshots of a backup's volumes at one side and adds their
// copies at the other.
func (w *world) addCopies(backup string, at time.Time) []zfssnap.SnapshotID {
	return w.copyFrom(w.old, w.host, "backup/replica/", backup, at)
}

func (w *world) copyFrom(from, to *host, prefix, backup string, at time.Time) []zfssnap.SnapshotID {
	var ids []zfssnap.SnapshotID
	for i, claim := range claims {
		id := zfssnap.SnapshotID{
			Node: from.node, Dataset: w.volumes[from.node][claim], Snapshot: zfssnap.SnapshotName(backup, ""),
			GUID: uint64(w.guids + 100), Created: at.Add(time.Duration(i) * time.Second),
		}
		w.guids++
		from.snapshots[id.GUID] = &agentpb.Version{Dataset: id.Dataset, Name: id.Snapshot, Guid: id.GUID, Written: from.written[id.Dataset]}
		from.written[id.Dataset] = 0
		ids = append(ids, id)
		if strings.HasPrefix(id.Dataset, "metro/") {
			continue // nothing of a stretched pool is replicated
		}
		to.snapshots[id.GUID] = &agentpb.Version{Dataset: prefix + id.Dataset, Name: id.Snapshot, Guid: id.GUID}
		to.datasets[prefix+id.Dataset] = map[string]string{zfssnap.PropSource: from.node + ":" + id.Dataset}
	}
	w.backups[backup] = ids
	return ids
}

// addBackup adds a backup to the recovery cluster whose copies are on the host.
func (w *world) addBackup(name string, age time.Duration) {
	w.t.Helper()
	w.synced(w.recovery, name, "default", age, func(at time.Time) []zfssnap.SnapshotID { return w.addCopies(name, at) })
}

// backUp plays Velero at one side: the other knows the backup soon.
func (w *world) backUp(cluster string, b *velerov1api.Backup) {
	if len(w.old.pools) > 0 {
		w.holdStretched(cluster)
	}
	if cluster == "primary" {
		w.addBackup(b.Name, 0)
		return
	}
	w.synced(w.source, b.Name, b.Spec.StorageLocation, 0, func(at time.Time) []zfssnap.SnapshotID {
		return w.copyFrom(w.host, w.old, "znvm/replica/", b.Name, at)
	})
}

func (w *world) synced(to *cluster.Cluster, name, location string, age time.Duration, copies func(at time.Time) []zfssnap.SnapshotID) {
	w.t.Helper()
	at := metav1.NewTime(w.now().Add(-age))
	b := &velerov1api.Backup{
		ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: name, Labels: map[string]string{velerov1api.ScheduleNameLabel: "wordpress"}},
		Spec:       velerov1api.BackupSpec{IncludedNamespaces: []string{"wordpress"}, StorageLocation: location, VolumeSnapshotLocations: []string{"zfs"}},
		Status: velerov1api.BackupStatus{
			Phase: velerov1api.BackupPhaseCompleted, StartTimestamp: &at, CompletionTimestamp: ptr.To(metav1.NewTime(at.Add(30 * time.Second))),
		},
	}
	require.NoError(w.t, to.Client.Create(context.Background(), b))
	type native struct {
		SnapshotHandle string `json:"snapshotHandle"`
	}
	type volume struct {
		PVCName      string  `json:"pvcName"`
		PVName       string  `json:"pvName"`
		PVCNamespace string  `json:"pvcNamespace"`
		BackupMethod string  `json:"backupMethod"`
		Native       *native `json:"nativeSnapshotInfo"`
	}
	var infos []volume
	for i, id := range copies(at.Time) {
		infos = append(infos, volume{PVCName: claims[i], PVName: claims[i], PVCNamespace: "wordpress", BackupMethod: "NativeSnapshot", Native: &native{id.String()}})
	}
	w.files.put(w.t, velerov1api.DownloadTargetKindBackupVolumeInfos, name, infos)
	if w.kept != "" {
		w.keep(name, at.Time)
	}
	w.files[string(velerov1api.DownloadTargetKindBackupContents)+"/"+name] = backupOf(w.t, append(application("wordpress", 1), w.holds...))
	contents := map[string][]string{
		"apps/v1/Deployment":       {"wordpress/wordpress-db", "wordpress/wordpress"},
		"v1/Service":               {"wordpress/wordpress-db", "wordpress/wordpress"},
		"v1/Namespace":             {"wordpress"},
		"v1/PersistentVolumeClaim": {"wordpress/wordpress-db", "wordpress/wordpress-html"},
	}
	if volumes := w.heldVolumes(); len(volumes) > 0 {
		contents["v1/PersistentVolume"] = volumes
	}
	w.files.put(w.t, velerov1api.DownloadTargetKindBackupResourceList, name, contents)
}

// heldVolumes are the names of the PersistentVolumes in backups.
func (w *world) heldVolumes() []string {
	var names []string
	for _, obj := range w.holds {
		if pv, ok := obj.(*corev1api.PersistentVolume); ok {
			names = append(names, pv.Name)
		}
	}
	return names
}

// backedUp are the objects in the newest backup, as a test changes them.
func (w *world) backedUp(objects ...client.Object) {
	w.t.Helper()
	w.files["BackupContents/wordpress-2"] = backupOf(w.t, append(application("wordpress", 1), objects...))
	contents := map[string][]string{}
	require.NoError(w.t, json.Unmarshal([]byte(w.files["BackupResourceList/wordpress-2"]), &contents))
	for _, obj := range objects {
		gvk := obj.GetObjectKind().GroupVersionKind()
		kind := gvk.GroupVersion().String() + "/" + gvk.Kind
		contents[kind] = append(contents[kind], strings.TrimPrefix(obj.GetNamespace()+"/"+obj.GetName(), "/"))
	}
	w.files.put(w.t, velerov1api.DownloadTargetKindBackupResourceList, "wordpress-2", contents)
}

// backupOf is a backup's, unzipped.
func backupOf(t *testing.T, objects []client.Object) string {
	t.Helper()
	var b bytes.Buffer
	files := tar.NewWriter(&b)
	for _, obj := range objects {
		gvk, err := apiutil.GVKForObject(obj, known)
		require.NoError(t, err)
		obj.GetObjectKind().SetGroupVersionKind(gvk)
		content, err := json.Marshal(obj)
		require.NoError(t, err)
		where := "cluster"
		if obj.GetNamespace() != "" {
			where = "namespaces/" + obj.GetNamespace()
		}
		name := "resources/" + strings.ToLower(gvk.Kind) + "s." + gvk.Group + "/" + where + "/" + obj.GetName() + ".json"
		require.NoError(t, files.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(content))}))
		_, err = files.Write(content)
		require.NoError(t, err)
	}
	require.NoError(t, files.Close())
	return b.String()
}

// files are what Velero keeps in object storage, by kind/name.
type files map[string]string

func (f files) put(t *testing.T, kind velerov1api.DownloadTargetKind, name string, value any) {
	t.Helper()
	content, err := json.Marshal(value)
	require.NoError(t, err)
	f[string(kind)+"/"+name] = string(content)
}

func (f files) File(_ context.Context, kind velerov1api.DownloadTargetKind, name string) ([]byte, error) {
	if content, ok := f[string(kind)+"/"+name]; ok {
		return []byte(content), nil
	}
	return nil, fmt.Errorf("download %s of %q: %w", kind, name, cluster.ErrNoFile)
}

// Forward and Exec play pods: each is the same web server.
func (w *world) Forward(context.Context, string, string, int32) (cluster.Tunnel, error) {
	return tunnel(w.web.Listener.Addr().String()), nil
}

// Check plays registries.
func (w *world) Check(_ context.Context, image registry.Image, with []registry.Credentials) error {
	err := w.images[image.String()]
	if errors.Is(err, registry.ErrDenied) && len(with) > 0 {
		return nil
	}
	return err
}

// Zone and Records play name servers.
func (w *world) Zone(_ context.Context, host string) (dns.Zone, error) {
	if !strings.HasSuffix(host, "example.org") {
		return dns.Zone{}, dns.ErrNoZone
	}
	return dns.Zone{Name: "example.org", Servers: []string{"ns1.example.org:53"}, Primary: "ns1.example.org:53"}, nil
}

func (w *world) Records(_ context.Context, _ dns.Zone, host string) ([]dns.Record, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.records[host], nil
}

func (w *world) Answer(ctx context.Context, _, host string) ([]dns.Record, error) {
	return w.Records(ctx, dns.Zone{}, host)
}

func (w *world) Texts(_ context.Context, _ dns.Zone, name string) ([]dns.Record, error) {
	return w.texts[name], nil
}

type tunnel string

func (t tunnel) Address() string { return string(t) }
func (tunnel) Close() error      { return nil }

func (w *world) Logs(_ context.Context, _, pod, container string, opts cluster.LogOptions) ([]byte, error) {
	log := pod + "/" + container
	if opts.Previous {
		log += " before"
	}
	return []byte(w.logs[log]), nil
}

func (w *world) Exec(context.Context, string, string, string, []string) (cluster.ExecResult, error) {
	w.pass(time.Second)
	return cluster.ExecResult{Output: "post-1: OK\n"}, nil
}

// host is a ZFS host with its agent.
type host struct {
	zfssnap.Agent // nothing of that is asked for but what follows

	node      string
	looking   sync.Mutex // volumes are looked for side by side
	looked    *func()
	now       func() time.Time
	snapshots map[uint64]*agentpb.Version
	datasets  map[string]map[string]string
	origins   map[string]string // of datasets that are clones
	written   map[string]uint64 // to datasets since their newest snapshot
	mounted   map[string]bool
	skew      time.Duration
	absent    bool // no agent is known there
	down      bool
	busy      int    // how many times a volume is still mounted
	refuse    string // a dataset that can not be fenced
	holds     []*agentpb.SnapshotHold
	findings  []*agentpb.Finding // beside those that are always ok
	old       bool               // the agent knows no Doctor
	pools     map[string]*agentpb.PoolState
	reach     *host             // another host with the same disks, which has pools that this one has not
	archived  map[uint64]string // what the archive has, and why it can't be restored
	reports   cluster.Agent     // that keeps reports, in the place of this one
}

func newHost(w *world, node string) *host {
	return &host{
		node: node, now: w.now, looked: &w.looked, snapshots: map[uint64]*agentpb.Version{}, datasets: map[string]map[string]string{},
		origins: map[string]string{}, written: map[string]uint64{}, mounted: map[string]bool{},
	}
}

// Agent plays the agents of both sides.
func (w *world) Agent(node string) (cluster.Agent, error) {
	if a, ok := w.agents[node]; ok {
		return a, nil
	}
	for _, h := range []*host{w.host, w.old} {
		if h.node == node && !h.absent {
			return h, nil
		}
	}
	return nil, &zfssnap.NoAgentError{Node: node}
}

func (h *host) up() error {
	if h.down {
		return fmt.Errorf("agent on node %s at 127.0.0.1:31002: %w", h.node, agent.ErrUnreachable)
	}
	return nil
}

func (h *host) Info(context.Context, *agentpb.InfoRequest, ...grpc.CallOption) (*agentpb.InfoResponse, error) {
	return &agentpb.InfoResponse{
		Node: "remote", AgentVersion: "v0.1.0", ZfsVersion: "2.1.11", UnixTimeMs: h.now().Add(h.skew).UnixMilli(),
		Pools: []*agentpb.Pool{{Name: "backup", Health: "ONLINE", Size: 100, Free: 42}},
	}, h.up()
}

func (h *host) FindSnapshot(_ context.Context, req *agentpb.FindSnapshotRequest, _ ...grpc.CallOption) (*agentpb.Version, error) {
	h.looking.Lock()
	defer h.looking.Unlock()
	if h.looked != nil && *h.looked != nil {
		(*h.looked)()
	}
	if err := h.up(); err != nil {
		return nil, err
	}
	if v, ok := h.snapshots[req.GetGuid()]; ok {
		return v, nil
	}
	return nil, agent.ErrNotFound
}

func (h *host) ResolveDataset(_ context.Context, req *agentpb.ResolveDatasetRequest, _ ...grpc.CallOption) (*agentpb.Dataset, error) {
	if err := h.up(); err != nil {
		return nil, err
	}
	name := req.GetName()
	if _, ok := h.datasets[name]; !ok {
		return nil, agent.ErrNotFound
	}
	return &agentpb.Dataset{Name: name, Origin: h.origins[name], Written: h.written[name], Mounted: h.mounted[name], Properties: h.datasets[name]}, nil
}

func (h *host) CreateSnapshots(_ context.Context, req *agentpb.CreateSnapshotsRequest, _ ...grpc.CallOption) (*agentpb.CreateSnapshotsResponse, error) {
	if err := h.up(); err != nil {
		return nil, err
	}
	for _, dataset := range req.GetDatasets() {
		guid := uint64(1000 + len(h.snapshots))
		for _, v := range h.snapshots {
			if v.GetDataset() == dataset && v.GetName() == req.GetName() {
				guid = v.GetGuid()
			}
		}
		if _, ok := h.snapshots[guid]; !ok {
			h.snapshots[guid] = &agentpb.Version{Dataset: dataset, Name: req.GetName(), Guid: guid, Written: h.written[dataset]}
			h.written[dataset] = 0
		}
	}
	return &agentpb.CreateSnapshotsResponse{}, nil
}

func (h *host) ListVersions(_ context.Context, req *agentpb.ListVersionsRequest, _ ...grpc.CallOption) (*agentpb.ListVersionsResponse, error) {
	resp := &agentpb.ListVersionsResponse{}
	for _, guid := range slices.Sorted(maps.Keys(h.snapshots)) {
		if v := h.snapshots[guid]; v.GetDataset() == req.GetDataset() {
			resp.Versions = append(resp.Versions, v)
		}
	}
	return resp, h.up()
}

func (h *host) ListArchived(_ context.Context, req *agentpb.ListArchivedRequest, _ ...grpc.CallOption) (*agentpb.ListArchivedResponse, error) {
	h.looking.Lock()
	defer h.looking.Unlock()
	if err := h.up(); err != nil {
		return nil, err
	}
	if h.archived == nil {
		return nil, agent.ErrNoArchive
	}
	resp := &agentpb.ListArchivedResponse{}
	if problem, ok := h.archived[req.GetGuid()]; ok {
		resp.Snapshots = append(resp.Snapshots, &agentpb.ArchivedSnapshot{Guid: req.GetGuid(), Problem: problem})
	}
	return resp, nil
}

func (h *host) KeepReport(ctx context.Context, req *agentpb.KeepReportRequest, _ ...grpc.CallOption) (*agentpb.KeepReportResponse, error) {
	return reporting(h, func(a cluster.Agent) (*agentpb.KeepReportResponse, error) { return a.KeepReport(ctx, req) })
}

func (h *host) ListReports(ctx context.Context, req *agentpb.ListReportsRequest, _ ...grpc.CallOption) (*agentpb.ListReportsResponse, error) {
	return reporting(h, func(a cluster.Agent) (*agentpb.ListReportsResponse, error) { return a.ListReports(ctx, req) })
}

func (h *host) GetReport(ctx context.Context, req *agentpb.GetReportRequest, _ ...grpc.CallOption) (*agentpb.GetReportResponse, error) {
	return reporting(h, func(a cluster.Agent) (*agentpb.GetReportResponse, error) { return a.GetReport(ctx, req) })
}

func reporting[T any](h *host, do func(cluster.Agent) (T, error)) (T, error) {
	var none T
	switch err := h.up(); {
	case err != nil:
		return none, err
	case h.old:
		return none, status.Error(codes.Unimplemented, "unknown method")
	case h.reports == nil:
		return none, agent.ErrNoArchive
	}
	return do(h.reports)
}

func (h *host) ListDatasets(_ context.Context, req *agentpb.ListDatasetsRequest, _ ...grpc.CallOption) (*agentpb.ListDatasetsResponse, error) {
	resp := &agentpb.ListDatasetsResponse{}
	for _, name := range slices.Sorted(maps.Keys(h.datasets)) {
		all := true
		for k, v := range req.GetMatch() {
			all = all && h.datasets[name][k] == v
		}
		if all {
			resp.Datasets = append(resp.Datasets, &agentpb.Dataset{Name: name, Origin: h.origins[name], Properties: h.datasets[name]})
		}
	}
	return resp, h.up()
}

func (h *host) DestroyVolume(_ context.Context, req *agentpb.DestroyVolumeRequest, _ ...grpc.CallOption) (*agentpb.DestroyVolumeResponse, error) {
	if err := h.up(); err != nil {
		return nil, err
	}
	if h.busy > 0 {
		h.busy--
		return nil, agent.ErrBusy
	}
	delete(h.datasets, req.GetDataset())
	return &agentpb.DestroyVolumeResponse{Existed: true}, nil
}

func (h *host) SetProperties(_ context.Context, req *agentpb.SetPropertiesRequest, _ ...grpc.CallOption) (*agentpb.Dataset, error) {
	if err := h.up(); err != nil {
		return nil, err
	}
	d := h.datasets[req.GetDataset()]
	if d == nil {
		return nil, agent.ErrNotFound
	}
	if req.GetDataset() == h.refuse && req.GetProperties()[zfssnap.PropFenced] != "" {
		return nil, agent.ErrDenied
	}
	for k, v := range req.GetProperties() {
		if v == "" {
			delete(d, k)
			continue
		}
		d[k] = v
	}
	return &agentpb.Dataset{Name: req.GetDataset()}, nil
}

func (h *host) GetPool(_ context.Context, req *agentpb.GetPoolRequest, _ ...grpc.CallOption) (*agentpb.PoolState, error) {
	if err := h.up(); err != nil {
		return nil, err
	}
	p := h.pools[req.GetName()]
	if p == nil {
		return nil, agent.ErrNotFound
	}
	return p, nil
}

func (h *host) ImportPool(ctx context.Context, req *agentpb.ImportPoolRequest, _ ...grpc.CallOption) (*agentpb.PoolState, error) {
	p, err := h.GetPool(ctx, &agentpb.GetPoolRequest{Name: req.GetName()})
	switch {
	case err != nil || p.GetImported():
		return p, err
	case p.GetActive():
		return nil, hint.Add(fmt.Errorf("import pool %s: %w: %s has it imported", req.GetName(), agent.ErrInUse, p.GetHost()), "switch that host off")
	case len(p.GetUnseen()) > 0 && !req.GetFenced():
		return nil, hint.Add(fmt.Errorf("import pool %s: %w: this host does not see site-a", req.GetName(), agent.ErrUnprotected), "switch it off first")
	}
	// It comes with all that is on it.
	for name, props := range h.reach.datasets {
		if strings.HasPrefix(name, req.GetName()+"/") {
			h.datasets[name] = props
			delete(h.reach.datasets, name)
		}
	}
	p.Imported, p.Exported, p.TakenBy, p.Host, p.Hostid = true, false, h.node+":"+req.GetBy(), h.node, p.GetOwnHostid()
	far := h.reach.pools[req.GetName()]
	far.Imported, far.Exported, far.Active, far.Host, far.Hostid = false, false, true, h.node, p.GetOwnHostid()
	return p, nil
}

func (h *host) ExportPool(ctx context.Context, req *agentpb.GetPoolRequest, _ ...grpc.CallOption) (*agentpb.PoolState, error) {
	p, err := h.GetPool(ctx, req)
	if err != nil || !p.GetImported() {
		return p, err
	}
	if h.busy > 0 {
		h.busy--
		return nil, agent.ErrBusy
	}
	p.Imported, p.Exported = false, true
	if far := h.reach.pools[req.GetName()]; far != nil {
		far.Active, far.Exported = false, true
	}
	return p, nil
}

func (h *host) ListBackup(context.Context, *agentpb.ListBackupRequest, ...grpc.CallOption) (*agentpb.ListBackupResponse, error) {
	if h.old {
		return nil, status.Error(codes.Unimplemented, "unknown method ListBackup")
	}
	return &agentpb.ListBackupResponse{}, h.up()
}

func (h *host) ListHolds(_ context.Context, req *agentpb.ListHoldsRequest, _ ...grpc.CallOption) (*agentpb.ListHoldsResponse, error) {
	if err := h.up(); err != nil {
		return nil, err
	}
	resp := &agentpb.ListHoldsResponse{}
	for _, given := range h.holds {
		hold := proto.Clone(given).(*agentpb.SnapshotHold)
		if !strings.HasPrefix(hold.GetSnapshot(), req.GetDataset()) {
			continue
		}
		if slices.Contains(req.GetOver(), hold.GetOwner()) {
			hold.State, hold.Reason, hold.Dead = "orphan", hold.GetOwner()+" is over", true
		}
		resp.Holds = append(resp.Holds, hold)
	}
	if len(resp.GetHolds()) == 0 && req.GetDataset() != "" {
		return nil, fmt.Errorf("node remote: dataset %s %w", req.GetDataset(), agent.ErrNotFound)
	}
	return resp, nil
}

func (h *host) ReapHolds(ctx context.Context, req *agentpb.ListHoldsRequest, _ ...grpc.CallOption) (*agentpb.ListHoldsResponse, error) {
	resp, err := h.ListHolds(ctx, req)
	for _, hold := range resp.GetHolds() {
		if !hold.GetDead() {
			continue
		}
		if hold.GetTag() == h.refuse {
			hold.Error = "zfs release: permission denied"
			continue
		}
		hold.Released = true
		h.holds = slices.DeleteFunc(h.holds, func(o *agentpb.SnapshotHold) bool {
			return o.GetSnapshot() == hold.GetSnapshot() && o.GetTag() == hold.GetTag()
		})
	}
	return resp, err
}

func (h *host) Doctor(context.Context, *agentpb.DoctorRequest, ...grpc.CallOption) (*agentpb.DoctorResponse, error) {
	if err := h.up(); err != nil {
		return nil, err
	}
	if h.old {
		return nil, status.Error(codes.Unimplemented, "unknown method Doctor")
	}
	return &agentpb.DoctorResponse{Node: "remote", UnixTimeMs: h.now().Add(h.skew).UnixMilli(), Findings: append([]*agentpb.Finding{
		{Group: "pools", Name: "pool backup", State: "ok", Message: "ONLINE"},
		{Group: "pools", Name: "pool backup space", State: "ok", Message: "58% used"},
		{Group: "zfs", Name: "release", State: "ok", Message: "OpenZFS 2.1.11"},
	}, h.findings...)}, nil
}

// clones returns the volumes on the host that were made by a restore.
func (w *world) clones() []string {
	var names []string
	for name, props := range w.host.datasets {
		if props[zfssnap.PropManaged] == "true" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// outcome is what a command did that a user sees.
type outcome struct {
	out, err string
	code     int
}

func (o outcome) String() string {
	return fmt.Sprintf("--- stdout\n%s--- stderr\n%s--- exit status %d\n", o.out, o.err, o.code)
}

// run runs kubectl dr in the world.
func (w *world) run(ctx context.Context, args ...string) outcome {
	var out, errOut bytes.Buffer
	e := newEnv(genericiooptions.IOStreams{In: strings.NewReader(w.stdin), Out: &out, ErrOut: &errOut})
	w.commands++
	e.now, e.interval, e.holder = w.now, time.Millisecond, fmt.Sprintf("test:%d", w.commands)
	e.interactive, e.terminal = func() bool { return w.tty }, func() bool { return false }
	e.readSecret, e.sshAgent = func(context.Context) ([]byte, error) { return []byte(w.typed), nil }, ""
	e.open = func(getter cluster.RESTClientGetter, ns string) (*cluster.Cluster, error) {
		c := *w.recovery
		if f, ok := getter.(*genericclioptions.ConfigFlags); ok && *f.Context == "primary" {
			c = *w.source
		}
		c.Namespace = ns
		return &c, nil
	}
	e.storage = func(ctx context.Context, c *cluster.Cluster, _ cluster.AgentOptions) (*cluster.Storage, error) {
		loc := zfssnap.Location{
			Agents: map[string]string{"hassio": "127.0.0.1:31001", "remote": "127.0.0.1:31002"}, Target: "remote", TargetPrefix: "backup/replica", RestoreNode: "remote",
			RestoreParents: map[string]string{"znvm/k3s": "backup/znvm/k3s"}, FailbackTarget: "hassio", FailbackPrefix: "replica",
			Archive: w.archive, ReplicationTimeout: zfssnap.DefaultReplicationTimeout,
		}
		if w.external {
			loc.Replication, loc.FailbackTarget, loc.FailbackPrefix = zfssnap.ReplicationExternal, "", ""
		}
		if w.kept != "" {
			return &cluster.Storage{}, nil
		}
		return &cluster.Storage{Locations: []cluster.Location{{Name: "zfs", Location: loc, Agents: w}}}, nil
	}
	e.objects = w.live
	e.images = func() check.Images { return w }
	e.services = func() check.Services { return services{} }
	e.names = func(string) traffic.Names { return w.names }
	code := execute(ctx, args, e)
	return outcome{out: out.String(), err: errOut.String(), code: code}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}
