package kubectldr

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"google.golang.org/grpc"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	rbacv1api "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rewrite"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// live plays what readCluster reads.
func (w *world) live(ctx context.Context, _ genericclioptions.RESTClientGetter, namespaces []string) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	for _, gvk := range []schema.GroupVersionKind{
		{Version: "v1", Kind: "ConfigMap"}, {Version: "v1", Kind: "Secret"}, {Version: "v1", Kind: "Service"}, {Version: "v1", Kind: "ServiceAccount"},
		{Version: "v1", Kind: "Pod"}, {Version: "v1", Kind: "PersistentVolumeClaim"}, {Group: "apps", Version: "v1", Kind: "Deployment"},
	} {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
		for _, ns := range namespaces {
			if err := w.recovery.Client.List(ctx, list, client.InNamespace(ns)); err != nil && !meta.IsNoMatchError(err) {
				return nil, err
			}
			for i := range list.Items {
				all = append(all, &list.Items[i])
			}
		}
	}
	return all, nil
}

// bind plays the controller of volumes.
func (w *world) bind(ctx context.Context, c client.Client, obj client.Object) error {
	if u, ok := obj.(*unstructured.Unstructured); ok && u.GetKind() != "PersistentVolumeClaim" {
		return nil
	}
	claim := &corev1api.PersistentVolumeClaim{}
	if err := c.Get(ctx, client.ObjectKeyFromObject(obj), claim); err != nil || claim.Spec.VolumeName == "" {
		return err
	}
	pv := &corev1api.PersistentVolume{}
	err := c.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, pv)
	if apierrors.IsNotFound(err) {
		return nil
	}
	claim.Status.Phase = corev1api.ClaimBound
	if err == nil && ptr.Deref(claim.Spec.StorageClassName, "") != pv.Spec.StorageClassName {
		claim.Status.Phase = corev1api.ClaimPending
	}
	if ref := pv.Spec.ClaimRef; ref != nil && (ref.Namespace != claim.Namespace || ref.Name != claim.Name || ref.UID != claim.UID) {
		claim.Status.Phase = corev1api.ClaimPending
	}
	return errors.Join(err, c.Status().Update(ctx, claim))
}

// restoreOnly plays Velero with a plugin that limits a restore.
func (w *world) restoreOnly(ctx context.Context, c client.Client, r *velerov1api.Restore, list string) error {
	cm := &corev1api.ConfigMap{}
	if err := c.Get(ctx, client.ObjectKey{Namespace: veleroNS, Name: list}, cm); err != nil {
		return err
	}
	only, err := rules.ParseSelection(cm.Data["objects"])
	if err != nil {
		return err
	}
	in := &rewrite.Input{}
	if err := in.Backup(r.Spec.BackupName, bytes.NewReader([]byte(w.files["BackupContents/"+r.Spec.BackupName]))); err != nil {
		return err
	}
	restored := 0
	for _, obj := range in.Objects {
		if !only.Has(obj) || slices.Contains(r.Spec.ExcludedResources, strings.ToLower(obj.GetKind())+"s") {
			continue
		}
		fresh := rewrite.Restored(obj)
		fresh.SetLabels(map[string]string{velerov1api.RestoreNameLabel: r.Name})
		if err := client.IgnoreAlreadyExists(c.Create(ctx, fresh)); err != nil {
			return err
		}
		restored++
	}
	r.Status = velerov1api.RestoreStatus{Phase: w.restorePhase, Progress: &velerov1api.RestoreProgress{ItemsRestored: restored, TotalItems: restored}}
	w.pass(10 * time.Second)
	return c.Update(ctx, r)
}

// sync plays Argo CD: an Application that syncs by itself brings what Git has.
func (w *world) sync(ctx context.Context, c client.Client, app *unstructured.Unstructured) error {
	if app.GetAnnotations()["argocd.argoproj.io/refresh"] == "" {
		return nil
	}
	for _, obj := range w.git {
		if err := client.IgnoreAlreadyExists(c.Create(ctx, obj.DeepCopyObject().(client.Object))); err != nil {
			return err
		}
	}
	if len(w.git) > 0 {
		if err := w.deployed(ctx, c); err != nil {
			return err
		}
	}
	w.pass(5 * time.Second)
	annotations := app.GetAnnotations()
	delete(annotations, "argocd.argoproj.io/refresh")
	app.SetAnnotations(annotations)
	app.Object["status"] = map[string]any{"sync": map[string]any{"status": "Synced"}, "health": map[string]any{"status": "Healthy"}}
	return c.Update(ctx, app)
}

// CreateVolume plays the agent.
func (h *host) CreateVolume(_ context.Context, req *agentpb.CreateVolumeRequest, _ ...grpc.CallOption) (*agentpb.Dataset, error) {
	if err := h.up(); err != nil {
		return nil, err
	}
	if h.snapshots[req.GetGuid()] == nil {
		return nil, agent.ErrNotFound
	}
	h.datasets[req.GetDataset()] = req.GetProperties()
	h.origins[req.GetDataset()] = req.GetSnapshot()
	return &agentpb.Dataset{Name: req.GetDataset(), Type: "filesystem", Properties: req.GetProperties()}, nil
}

// ofGit labels objects as Flux does.
func ofGit(objects ...client.Object) []client.Object {
	for _, obj := range objects {
		labels := obj.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels["kustomize.toolkit.fluxcd.io/name"], labels["kustomize.toolkit.fluxcd.io/namespace"] = "apps", "flux-system"
		obj.SetLabels(labels)
	}
	return objects
}

func claimOf(name, volume string) *corev1api.PersistentVolumeClaim {
	return &corev1api.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: name},
		Spec: corev1api.PersistentVolumeClaimSpec{
			VolumeName: volume, StorageClassName: ptr.To("zfs-storage-znvm"), AccessModes: []corev1api.PersistentVolumeAccessMode{corev1api.ReadWriteOnce},
			Resources: corev1api.VolumeResourceRequirements{Requests: corev1api.ResourceList{corev1api.ResourceStorage: resource.MustParse("10Gi")}},
		},
	}
}

// volumeOf is as ZFS-LocalPV provisions it.
func volumeOf(name, claim, node, pool string) *corev1api.PersistentVolume {
	return &corev1api.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1api.PersistentVolumeSpec{
			Capacity:                      corev1api.ResourceList{corev1api.ResourceStorage: resource.MustParse("10Gi")},
			AccessModes:                   []corev1api.PersistentVolumeAccessMode{corev1api.ReadWriteOnce},
			StorageClassName:              "zfs-storage-znvm",
			PersistentVolumeReclaimPolicy: corev1api.PersistentVolumeReclaimDelete,
			ClaimRef:                      &corev1api.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: "wordpress", Name: claim, UID: "old"},
			PersistentVolumeSource: corev1api.PersistentVolumeSource{CSI: &corev1api.CSIPersistentVolumeSource{
				Driver: "zfs.csi.openebs.io", VolumeHandle: name, FSType: "zfs", VolumeAttributes: map[string]string{"openebs.io/poolname": pool},
			}},
			NodeAffinity: &corev1api.VolumeNodeAffinity{Required: &corev1api.NodeSelector{NodeSelectorTerms: []corev1api.NodeSelectorTerm{{
				MatchExpressions: []corev1api.NodeSelectorRequirement{{Key: "openebs.io/nodeid", Operator: corev1api.NodeSelectorOpIn, Values: []string{node}}},
			}}}},
		},
	}
}

// fresh is a world whose recovery cluster comes up from Git: the backup has what
// Git owns, and what it does not.
func fresh(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	backup := ofGit(application("wordpress", 1)...)
	for _, claim := range claims {
		backup = append(backup, ofGit(claimOf(claim, claim))...)
		backup = append(backup, volumeOf(claim, claim, "hassio", "znvm/k3s"))
	}
	backup = append(backup, ofGit(&corev1api.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "settings"}, Data: map[string]string{"theme": "light"}})...)
	backup = append(backup,
		&corev1api.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "wordpress", Labels: map[string]string{"team": "blog"}}},
		&corev1api.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "db-password"}, Data: map[string][]byte{"password": []byte("hunter2")}},
		&corev1api.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "blog-tls", Annotations: map[string]string{"cert-manager.io/certificate-name": "blog"}}, Type: corev1api.SecretTypeTLS},
		&corev1api.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "importer-token"}, Type: corev1api.SecretTypeServiceAccountToken},
		&corev1api.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "importer"}},
		&rbacv1api.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "importer"}, RoleRef: rbacv1api.RoleRef{Kind: "ClusterRole", Name: "view"}},
		&appsv1api.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "wordpress-1", OwnerReferences: []metav1.OwnerReference{{Kind: "Deployment", Name: "wordpress", Controller: ptr.To(true)}}}},
	)
	for _, b := range []string{"wordpress-1", "wordpress-2"} {
		w.files["BackupContents/"+b] = backupOf(t, backup)
	}
	w.git = append(ofGit(application("wordpress", 1)...), ofGit(&corev1api.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "settings"}, Data: map[string]string{"theme": "dark"}})...)
	return w
}

// applied has what Git has in the cluster already.
func (w *world) applied(more ...client.Object) {
	w.t.Helper()
	more = append(more, &corev1api.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "wordpress", Labels: map[string]string{"team": "blog"}}})
	for _, obj := range append(w.git, more...) {
		require.NoError(w.t, client.IgnoreAlreadyExists(w.recovery.Client.Create(w.t.Context(), obj.DeepCopyObject().(client.Object))))
	}
	require.NoError(w.t, w.deployed(w.t.Context(), w.recovery.Client))
}

// deployed has the Deployments run.
func (w *world) deployed(ctx context.Context, c client.Client) error {
	for _, name := range []string{"wordpress-db", "wordpress"} {
		u := &unstructured.Unstructured{}
		u.SetAPIVersion("apps/v1")
		u.SetKind("Deployment")
		u.SetNamespace("wordpress")
		u.SetName(name)
		if err := w.patched(ctx, c, u); err != nil {
			return err
		}
	}
	return nil
}

// filled gives a claim of Git a volume of its own.
func (w *world) filled(claim string, written uint64) []client.Object {
	w.host.datasets["backup/znvm/k3s/pvc-"+claim] = map[string]string{}
	w.host.written["backup/znvm/k3s/pvc-"+claim] = written
	live := ofGit(claimOf(claim, "pvc-"+claim))[0]
	live.SetUID("live")
	return []client.Object{volumeOf("pvc-"+claim, claim, "remote", "backup/znvm/k3s"), live}
}

func (w *world) claim(name string) (*corev1api.PersistentVolumeClaim, *corev1api.PersistentVolume) {
	w.t.Helper()
	claim, pv := &corev1api.PersistentVolumeClaim{}, &corev1api.PersistentVolume{}
	require.NoError(w.t, w.recovery.Client.Get(w.t.Context(), client.ObjectKey{Namespace: "wordpress", Name: name}, claim))
	require.NoError(w.t, w.recovery.Client.Get(w.t.Context(), client.ObjectKey{Name: claim.Spec.VolumeName}, pv))
	return claim, pv
}

// argo is an Argo CD that reconciles the application.
func (w *world) argo() {
	w.t.Helper()
	content := map[string]any{}
	require.NoError(w.t, json.Unmarshal([]byte(`{"apiVersion":"argoproj.io/v1alpha1","kind":"Application","metadata":{"namespace":"argocd","name":"wordpress"},
		"spec":{"destination":{"namespace":"wordpress"},"syncPolicy":{"automated":{"selfHeal":true}}},"status":{"resources":[{"kind":"ConfigMap","namespace":"wordpress","name":"settings"}]}}`), &content))
	require.NoError(w.t, w.recovery.Client.Create(w.t.Context(), &unstructured.Unstructured{Object: content}))
}

const doRebuild = "rebuild wordpress --yes --bind-timeout=10s --git-timeout=10s"

func TestRebuild_plan(t *testing.T) {
	t.Parallel()
	w := fresh(t)
	w.argo()
	w.applied(append(w.filled("wordpress-db", 5<<20), ofGit(claimOf("wordpress-html", ""))...)...)
	require.NoError(t, w.recovery.Client.Create(t.Context(), &corev1api.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "by-hand"}}))
	got := w.run(t.Context(), "rebuild", "wordpress", "--plan")
	assert.Equal(t, 1, got.code)
	assert.NotContains(t, got.out, "hunter2", "values are not told")
	golden(t, "rebuild/plan with a claim that was written to", got.String())

	got = w.run(t.Context(), "rebuild", "wordpress", "--dry-run", "--replace-claim=wordpress/wordpress-db")
	golden(t, "rebuild/plan", got.String())
	got = w.run(t.Context(), "rebuild", "wordpress", "--plan", "--replace-claim=wordpress/wordpress-db", "-o", "yaml")
	golden(t, "rebuild/plan as yaml", got.out)
	runs, err := run.Runs(t.Context(), w.recovery.Client, veleroNS, "")
	require.NoError(t, err)
	assert.Empty(t, runs)
}

// Git is not there yet: its claims find the volumes when it is.
func TestRebuild_beforeGit(t *testing.T) {
	t.Parallel()
	w := fresh(t)
	w.argo()
	got := w.do(t, doRebuild)
	golden(t, "rebuild/before Git", got.String())
	for _, name := range claims {
		claim, pv := w.claim(name)
		assert.Equal(t, "apps", claim.Labels["kustomize.toolkit.fluxcd.io/name"], "Git knows it again")
		assert.Equal(t, "wordpress", pv.Spec.ClaimRef.Namespace)
		assert.Empty(t, pv.Spec.ClaimRef.UID, "of the claim that was")
		dataset := "backup/znvm/k3s/" + pv.Spec.CSI.VolumeHandle
		assert.Contains(t, w.host.origins[dataset], "backup/replica/znvm/k3s/"+name+"@dr-wordpress-2")
	}
	secret := &corev1api.Secret{}
	require.NoError(t, w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: "wordpress", Name: "db-password"}, secret))
	require.NoError(t, w.recovery.Client.Get(t.Context(), client.ObjectKey{Name: "importer"}, &rbacv1api.ClusterRoleBinding{}))
	settings := &corev1api.ConfigMap{}
	require.NoError(t, w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: "wordpress", Name: "settings"}, settings))
	assert.Equal(t, "dark", settings.Data["theme"], "Git's, not the backup's")
	assert.True(t, apierrors.IsNotFound(w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: "wordpress", Name: "importer-token"}, secret)))
	assert.True(t, w.syncs(t, w.recovery))

	before := w.host.clones()
	got = w.run(t.Context(), strings.Fields(doRebuild)...)
	require.Zero(t, got.code, got.err)
	golden(t, "rebuild/again", got.String())
	assert.Equal(t, before, w.host.clones())
	runs, err := run.Runs(t.Context(), w.recovery.Client, veleroNS, "")
	require.NoError(t, err)
	assert.Len(t, runs, 1, "what is done is done")
	golden(t, "rebuild/history", w.run(t.Context(), "history").out)
}

// A control plane that was restored knows the backups that its etcd knew.
func TestRebuild_takesABackupThatVeleroSyncsInTime(t *testing.T) {
	t.Parallel()
	const late = "wordpress-20260102030200"
	w := fresh(t)
	w.applied()
	w.addCopies(late, begin.Add(-2*time.Minute))
	got := w.run(t.Context(), strings.Fields("rebuild wordpress --plan")...)
	require.Zero(t, got.code, got.err)
	assert.Contains(t, got.err, "the copies of backup "+late+" have arrived, and Velero of this cluster does not know it yet")

	looks := 0
	w.unsynced = func() {
		if looks++; looks == 3 {
			w.addBackup(late, 2*time.Minute)
			w.files["BackupContents/"+late] = w.files["BackupContents/wordpress-2"]
		}
	}
	got = w.do(t, doRebuild+" --volumes-only")
	assert.Contains(t, got.err, "waiting up to 90s for Velero of this cluster to know it")
	assert.Equal(t, late, w.lastRun(t).Spec.Backup)
}

func (h *host) clones() (all []string) {
	for name, props := range h.datasets {
		if props[zfssnap.PropManaged] == "true" && props[zfssnap.PropRun] != "" {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// Argo CD was faster: workloads run, on a claim that is empty and on one without
// a volume.
func TestRebuild_afterGit(t *testing.T) {
	t.Parallel()
	w := fresh(t)
	w.argo()
	w.applied(append(w.filled("wordpress-db", 96<<10), ofGit(claimOf("wordpress-html", ""))...)...)
	got := w.do(t, doRebuild)
	golden(t, "rebuild/after Git", got.String())
	claim, pv := w.claim("wordpress-db")
	assert.NotEqual(t, "pvc-wordpress-db", claim.Spec.VolumeName)
	assert.NotEmpty(t, pv.Labels[zfssnap.LabelRun])
	left := &corev1api.PersistentVolume{}
	require.NoError(t, w.recovery.Client.Get(t.Context(), client.ObjectKey{Name: "pvc-wordpress-db"}, left))
	assert.Equal(t, corev1api.PersistentVolumeReclaimRetain, left.Spec.PersistentVolumeReclaimPolicy, "even an empty volume is not destroyed")
	assert.Contains(t, w.host.datasets, "backup/znvm/k3s/pvc-wordpress-db")
	for _, name := range []string{"wordpress", "wordpress-db"} {
		d := &appsv1api.Deployment{}
		require.NoError(t, w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: "wordpress", Name: name}, d))
		assert.Equal(t, int32(1), *d.Spec.Replicas)
		assert.Empty(t, d.Annotations, "nothing is left that Git does not know")
	}
}

func TestRebuild_neverOverwrites(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		arrange func(*world) []client.Object
		want    string
	}{
		{"what was written to", func(w *world) []client.Object { return w.filled("wordpress-db", 5<<20) }, "5.0 MiB were written to it"},
		{"what a pod has", func(w *world) []client.Object {
			pod := &corev1api.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "psql"}, Spec: corev1api.PodSpec{NodeName: "remote", Volumes: []corev1api.Volume{{
				Name: "data", VolumeSource: corev1api.VolumeSource{PersistentVolumeClaim: &corev1api.PersistentVolumeClaimVolumeSource{ClaimName: "wordpress-db"}}}}}}
			return append(w.filled("wordpress-db", 0), pod)
		}, "in use by pod psql"},
		{"what is mounted", func(w *world) []client.Object {
			w.host.mounted["backup/znvm/k3s/pvc-wordpress-db"] = true
			return w.filled("wordpress-db", 0)
		}, "it is mounted"},
		{"what nobody can look into", func(*world) []client.Object {
			pv := volumeOf("pvc-wordpress-db", "wordpress-db", "remote", "x")
			pv.Spec.PersistentVolumeSource = corev1api.PersistentVolumeSource{CSI: &corev1api.CSIPersistentVolumeSource{Driver: "ebs.csi.aws.com", VolumeHandle: "vol-1"}}
			return []client.Object{pv, claimOf("wordpress-db", pv.Name)}
		}, "nobody can say whether it was written to: it is on no host with an agent"},
		{"what an agent does not know", func(w *world) []client.Object {
			objects := w.filled("wordpress-db", 0)
			delete(w.host.datasets, "backup/znvm/k3s/pvc-wordpress-db")
			return objects
		}, "nobody can say whether it was written to: look at"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := fresh(t)
			w.argo()
			w.applied(tt.arrange(w)...)
			got := w.run(t.Context(), strings.Fields(doRebuild)...)
			assert.Equal(t, 1, got.code)
			assert.Contains(t, got.err, "claims that may hold data are not overwritten: wordpress/wordpress-db ("+tt.want)
			assert.Contains(t, got.err, "hint: --replace-claim=wordpress/wordpress-db takes")
			claim, pv := w.claim("wordpress-db")
			assert.Equal(t, "pvc-wordpress-db", claim.Spec.VolumeName)
			assert.Equal(t, corev1api.PersistentVolumeReclaimDelete, pv.Spec.PersistentVolumeReclaimPolicy)
			assert.Empty(t, w.host.clones())
			assert.True(t, w.syncs(t, w.recovery), "nothing has begun")
		})
	}
}

func TestRebuild_replacesByName(t *testing.T) {
	t.Parallel()
	w := fresh(t)
	w.argo()
	w.applied(w.filled("wordpress-db", 5<<20)...)
	got := w.do(t, doRebuild+" --replace-claim=wordpress/wordpress-db")
	golden(t, "rebuild/of a claim that was written to", got.String())
	claim, _ := w.claim("wordpress-db")
	assert.NotEqual(t, "pvc-wordpress-db", claim.Spec.VolumeName)
	var kept []string
	for _, v := range w.host.snapshots {
		if strings.HasPrefix(v.GetName(), "dr-kept-") {
			kept = append(kept, v.GetDataset()+"@"+v.GetName())
		}
	}
	require.Len(t, kept, 1)
	assert.Contains(t, kept[0], "backup/znvm/k3s/pvc-wordpress-db@dr-kept-wordpress-rebuild-")
	assert.Contains(t, w.host.datasets, "backup/znvm/k3s/pvc-wordpress-db")

	got = w.run(t.Context(), strings.Fields(doRebuild+" --replace-claim=wordpress/wordpress-db --plan")...)
	assert.Contains(t, got.out, "wordpress/wordpress-db     restored   replace", "by name it is what the user wants")
	got = w.run(t.Context(), strings.Fields(doRebuild)...)
	assert.Contains(t, got.out, "nothing to do")
}

func TestRebuild_keepsByName(t *testing.T) {
	t.Parallel()
	w := fresh(t)
	w.argo()
	w.applied(w.filled("wordpress-db", 5<<20)...)
	w.do(t, doRebuild+" --keep-claim=wordpress/wordpress-db")
	claim, _ := w.claim("wordpress-db")
	assert.Equal(t, "pvc-wordpress-db", claim.Spec.VolumeName)
	other, _ := w.claim("wordpress-html")
	assert.Contains(t, other.Spec.VolumeName, "wordpress-html-")
}

func TestRebuild_volumesOnly(t *testing.T) {
	t.Parallel()
	w := fresh(t)
	got := w.do(t, doRebuild+" --volumes-only")
	golden(t, "rebuild/volumes only", got.String())
	w.claim("wordpress-db")
	assert.True(t, apierrors.IsNotFound(w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: "wordpress", Name: "db-password"}, &corev1api.Secret{})))
	w.do(t, doRebuild+" --volumes-only")
	assert.Len(t, w.host.clones(), 2)
}

// Killed after any step, it goes on, and every volume is there once.
func TestRebuild_goesOn(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"look at the volumes", "pause GitOps at the cluster", "stop what runs", "keep what claims hold", "restore volumes",
		"restore what Git does not own", "resume GitOps", "wait for what Git brings", "start database", "probe front page", "measure"} {
		t.Run("killed after "+step, func(t *testing.T) {
			t.Parallel()
			w := fresh(t)
			w.argo()
			w.applied(append(w.filled("wordpress-db", 5<<20), ofGit(claimOf("wordpress-html", ""))...)...)
			const command = doRebuild + " --replace-claim=wordpress/wordpress-db"
			w.dies(t, command, step)
			got := w.do(t, command)
			assert.Contains(t, got.err, "goes on")
			claim, pv := w.claim("wordpress-db")
			assert.NotEqual(t, "pvc-wordpress-db", claim.Spec.VolumeName)
			assert.Contains(t, pv.Labels[zfssnap.LabelRun], "wordpress-rebuild-")
			assert.Len(t, w.host.clones(), 2)
			assert.True(t, w.syncs(t, w.recovery))
		})
	}
}

// Killed between the deeds of one step, it goes on too.
func TestRebuild_goesOnWithinAStep(t *testing.T) {
	t.Parallel()
	for _, deed := range []string{"dr create persistentvolume", "dr delete persistentvolumeclaim", "dr create persistentvolumeclaim", "dr patch persistentvolumeclaim", "dr create restore", "dr create configmap"} {
		t.Run("fails at "+deed, func(t *testing.T) {
			t.Parallel()
			w := fresh(t)
			w.argo()
			w.applied(append(w.filled("wordpress-db", 5<<20), ofGit(claimOf("wordpress-html", ""))...)...)
			failed := false
			w.before = func(what string) error {
				if what == deed && !failed {
					failed = true
					return errors.New("the connection is lost")
				}
				return nil
			}
			const command = doRebuild + " --replace-claim=wordpress/wordpress-db"
			got := w.run(t.Context(), strings.Fields(command)...)
			require.Equal(t, 1, got.code, got.err)
			require.True(t, failed)
			w.do(t, command)
			claim, _ := w.claim("wordpress-db")
			assert.NotEqual(t, "pvc-wordpress-db", claim.Spec.VolumeName)
			w.claim("wordpress-html")
			assert.Len(t, w.host.clones(), 2)
		})
	}
}

func TestRebuild_withoutAnEngine(t *testing.T) {
	t.Parallel()
	w := fresh(t)
	got := w.run(t.Context(), strings.Fields(doRebuild+" --git-timeout=10ms")...)
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, "not there yet: deployment/wordpress-db, deployment/wordpress")
	assert.Contains(t, got.err, "what nothing brings from Git by itself has to be applied")
	w.applied()
	w.do(t, doRebuild)
}

func TestRebuild_makesLocations(t *testing.T) {
	t.Parallel()
	w := fresh(t)
	for _, kind := range []client.Object{&velerov1api.BackupStorageLocation{}, &velerov1api.VolumeSnapshotLocation{}} {
		require.NoError(t, w.recovery.Client.DeleteAllOf(t.Context(), kind, client.InNamespace(veleroNS)))
	}
	got := w.run(t.Context(), strings.Fields(doRebuild)...)
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, "namespace velero has no BackupStorageLocation")
	assert.Contains(t, got.err, "namespace velero has no VolumeSnapshotLocation of provider kubectl-dr.io/zfs")

	with := strings.Fields(doRebuild + " --bucket=backups/cluster-1 --bucket-config=region=eu-central-1 --bucket-config=s3Url=https://s3.example.org --bucket-secret=bucket/cloud" +
		" --snapshot-config=agents=hassio=127.0.0.1:31001,remote=127.0.0.1:31002 --snapshot-config=restoreNode=remote --snapshot-config=restoreParents=znvm/k3s=backup/znvm/k3s --snapshot-secret=zfs-agent-client/tls.pem")
	got = w.run(t.Context(), with...)
	assert.Equal(t, 1, got.code)
	golden(t, "rebuild/locations that are missing", got.String())

	w.argo()
	got = w.run(t.Context(), append(with, "--make-locations")...)
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, "hint: create Secret bucket in namespace velero with the key cloud first")
	for _, name := range []string{"bucket", "zfs-agent-client"} {
		require.NoError(t, w.recovery.Client.Create(t.Context(), &corev1api.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: name}}))
	}
	got = w.run(t.Context(), append(with, "--make-locations")...)
	require.Zero(t, got.code, got.err)
	assert.Contains(t, got.err, "made BackupStorageLocation default")
	storage := &velerov1api.BackupStorageLocation{}
	require.NoError(t, w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: veleroNS, Name: "default"}, storage))
	assert.Equal(t, velerov1api.BackupStorageLocationAccessModeReadOnly, storage.Spec.AccessMode)
	snapshots := &velerov1api.VolumeSnapshotLocation{}
	require.NoError(t, w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: veleroNS, Name: "zfs"}, snapshots))
	assert.Equal(t, "hassio=127.0.0.1:31001,remote=127.0.0.1:31002", snapshots.Spec.Config["agents"])
}

func TestRebuild_refuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, args, want string
		arrange          func(*world)
	}{
		{"a claim without a namespace", "rebuild --replace-claim=wordpress-db", `--replace-claim: "wordpress-db" is not of the form namespace/name`, nil},
		{"a claim that is kept and replaced", "rebuild --replace-claim=a/b --keep-claim=a/b", "claim a/b is to be replaced and to be kept", nil},
		{"a backup and pools", "rebuild --from-pool=remote --backup=x", "--from-pool excludes --backup and --before", nil},
		{"config that is none", "rebuild --bucket-config=region", `--bucket-config: "region" is not of the form key=value`, nil},
		{"a schedule without backups", doRebuild + " --sync-timeout=10ms", `schedule "wordpress" has no completed backup`, func(w *world) {
			require.NoError(w.t, w.recovery.Client.DeleteAllOf(w.t.Context(), &velerov1api.Backup{}, client.InNamespace(veleroNS)))
		}},
		{"a claim that is larger than its volume was", doRebuild, "claim wordpress/wordpress-db asks for 20Gi, and its volume had 10Gi", func(w *world) {
			claim := claimOf("wordpress-db", "")
			claim.Spec.Resources.Requests[corev1api.ResourceStorage] = resource.MustParse("20Gi")
			w.applied(claim)
		}},
		{"a volume that is not on ZFS", doRebuild, "is kept by Velero (DataUpload), and only volumes on ZFS hosts are rebuilt", func(w *world) {
			w.files["BackupVolumeInfos/wordpress-2"] = strings.Replace(w.files["BackupVolumeInfos/wordpress-2"],
				`"backupMethod":"NativeSnapshot"`, `"backupMethod":"CSISnapshot","snapshotDataMoved":true,"result":"succeeded"`, 1)
		}},
		{"a terminal that is none", "rebuild wordpress", "there is no terminal to ask on", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := fresh(t)
			if tt.arrange != nil {
				tt.arrange(w)
			}
			got := w.run(t.Context(), strings.Fields(tt.args)...)
			assert.Equal(t, 1, got.code, got.out)
			assert.Contains(t, got.err, tt.want)
			assert.Empty(t, w.host.clones())
		})
	}
}

func TestRebuild_abandon(t *testing.T) {
	t.Parallel()
	w := fresh(t)
	w.dies(t, doRebuild, "restore volumes")
	got := w.run(t.Context(), "drill")
	assert.Contains(t, got.err, "rebuild wordpress-rebuild-20260102-030405 of plan \"wordpress\" is in progress")
	assert.Contains(t, got.err, "hint: end it first: kubectl dr rebuild wordpress --resume")
	w.do(t, "rebuild wordpress --abandon")
	got = w.run(t.Context(), "rebuild", "--resume", "--yes")
	assert.Contains(t, got.err, `there is no run of plan "wordpress" in progress`)
}

// pooled gives the newest copies on the recovery host what snapshots tell.
func (w *world) pooled() {
	w.t.Helper()
	for i, claim := range claims {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(volumeOf("pvc-"+claim, claim, "hassio", "znvm/k3s"))
		require.NoError(w.t, err)
		id := w.backups["wordpress-2"][i]
		record := zfssnap.RecordClaim(&unstructured.Unstructured{Object: content}, id.Volume())
		v := w.host.snapshots[id.GUID]
		v.CreatedUnix = id.Created.Unix()
		v.Properties = map[string]string{zfssnap.PropManaged: "true", zfssnap.PropClaimPrefix + fmt.Sprint(i): record}
	}
}

// Neither cluster nor bucket is left.
func TestRebuild_fromPool(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pooled()
	for _, kind := range []client.Object{&velerov1api.BackupStorageLocation{}, &velerov1api.Backup{}, &plan.RecoveryPlan{}} {
		require.NoError(t, w.recovery.Client.DeleteAllOf(t.Context(), kind, client.InNamespace(veleroNS)))
	}
	w.host.snapshots[900] = &agentpb.Version{Dataset: "backup/replica/znvm/k3s/older", Name: "dr-x", Guid: 900, Properties: map[string]string{zfssnap.PropManaged: "true"}}
	w.host.datasets["backup/replica/znvm/k3s/older"] = map[string]string{}
	got := w.run(t.Context(), "rebuild", "--from-pool=remote", "--plan")
	require.Zero(t, got.code, got.err)
	golden(t, "rebuild/plan from a pool", got.String())
	got = w.do(t, "rebuild --from-pool=remote --yes")
	golden(t, "rebuild/from a pool", got.String())
	for _, name := range claims {
		claim, pv := w.claim(name)
		assert.Equal(t, "zfs-storage-znvm", *claim.Spec.StorageClassName)
		assert.Equal(t, "10Gi", claim.Spec.Resources.Requests.Storage().String())
		assert.Equal(t, "zfs.csi.openebs.io", pv.Spec.CSI.Driver)
		assert.Equal(t, "backup/znvm/k3s", pv.Spec.CSI.VolumeAttributes["openebs.io/poolname"])
		assert.Contains(t, w.host.origins["backup/znvm/k3s/"+pv.Spec.CSI.VolumeHandle], "backup/replica/znvm/k3s/"+name)
	}
	got = w.run(t.Context(), "rebuild", "--from-pool=remote", "--yes")
	require.Zero(t, got.code, got.err)
	assert.Contains(t, got.out, "nothing to do")
	assert.Len(t, w.host.clones(), 2)
}

func TestRebuild_fromPool_thatSaysNothing(t *testing.T) {
	t.Parallel()
	got := newWorld(t).run(t.Context(), "rebuild", "--from-pool=remote", "--yes")
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, "the pools of remote: no snapshot says which claim it belongs to")
}
