package kubectldr

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	storagev1api "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// newWorldWithout is a world without an agent, a snapshot location or a
// snapshotter of ours, in which Velero keeps volumes by itself.
func newWorldWithout(t *testing.T, method plan.Method) *world {
	t.Helper()
	w := newWorld(t)
	w.kept, w.host.absent = method, true
	w.plugins = w.plugins[1:]
	for name, age := range map[string]time.Duration{"wordpress-1": 20 * time.Minute, "wordpress-2": 7*time.Minute + 12*time.Second} {
		w.keep(name, begin.Add(-age))
		w.update(&velerov1api.Backup{}, name, func(o client.Object) { o.(*velerov1api.Backup).Spec.VolumeSnapshotLocations = nil })
	}
	require.NoError(t, w.recovery.Client.Delete(t.Context(), &velerov1api.VolumeSnapshotLocation{ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "zfs"}}))
	w.deploy("velero", "v1.0.0", "--features=EnableCSI")
	w.runNodeAgent(1)
	w.taint()
	return w
}

// taint gives the recovery site's node these taints and no others.
func (w *world) taint(taints ...corev1api.Taint) {
	w.t.Helper()
	n := &corev1api.Node{}
	require.NoError(w.t, w.recovery.Client.Get(w.t.Context(), client.ObjectKey{Name: "remote"}, n))
	n.Spec.Taints = taints
	require.NoError(w.t, w.recovery.Client.Update(w.t.Context(), n))
}

// runNodeAgent runs Velero's on one node, or tries to.
func (w *world) runNodeAgent(ready int32) {
	d := &appsv1api.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "node-agent"}}
	d.Status.DesiredNumberScheduled, d.Status.NumberReady = 1, ready
	require.NoError(w.t, w.recovery.Client.Create(w.t.Context(), d))
}

func (w *world) stopNodeAgent() {
	require.NoError(w.t, w.recovery.Client.DeleteAllOf(w.t.Context(), &appsv1api.DaemonSet{}, client.InNamespace(veleroNS)))
}

// keep writes Velero's record of a backup's volumes, as v1.18 writes it.
func (w *world) keep(backup string, at time.Time) {
	var infos []map[string]any
	for i, claim := range claims {
		info := map[string]any{"pvcName": claim, "pvcNamespace": "wordpress", "pvName": "pvc-" + claim, "backupMethod": string(w.kept), "result": "succeeded"}
		began := at.Add(time.Duration(10+i) * time.Second)
		switch w.kept {
		case plan.MethodPodVolumeBackup:
			info["startTimestamp"], info["pvbInfo"] = began, map[string]any{"uploaderType": "kopia", "podName": "wordpress-0", "podNamespace": "wordpress"}
		case plan.MethodDataUpload:
			info["backupMethod"], info["snapshotDataMoved"], info["startTimestamp"] = "CSISnapshot", true, began
			info["csiSnapshotInfo"] = map[string]any{"driver": "csi.example.com", "snapshotHandle": "unknown"}
			info["snapshotDataMovementInfo"] = map[string]any{"dataMover": "velero", "Phase": "Completed"}
		case plan.MethodCSISnapshot:
			info["startTimestamp"], info["csiSnapshotInfo"] = began, map[string]any{"driver": "csi.example.com"}
		case plan.MethodNativeSnapshot:
			info["nativeSnapshotInfo"] = map[string]any{"snapshotHandle": "snap-0123456789abcdef0"}
		}
		if w.skips != "" {
			info["backupMethod"], info["skipped"], info["skippedReason"] = "", true, w.skips
		}
		infos = append(infos, info)
	}
	w.files.put(w.t, velerov1api.DownloadTargetKindBackupVolumeInfos, backup, infos)
}

// edit changes what Velero recorded of the volumes of the newest backup.
func (w *world) edit(from, to string) {
	const name = "BackupVolumeInfos/wordpress-2"
	require.Contains(w.t, w.files[name], from)
	w.files[name] = strings.Replace(w.files[name], from, to, 1)
}

func TestWithoutZFS_look(t *testing.T) {
	t.Parallel()
	for _, method := range []plan.Method{plan.MethodPodVolumeBackup, plan.MethodDataUpload, plan.MethodCSISnapshot, plan.MethodNativeSnapshot} {
		for _, args := range []string{"check", "rpo -o wide", "status"} {
			t.Run(string(method)+" "+args, func(t *testing.T) {
				t.Parallel()
				golden(t, filepath.Join("without zfs", string(method)+" "+args), newWorldWithout(t, method).run(t.Context(), strings.Fields(args)...).String())
			})
		}
	}
}

// Velero provisions a volume anew whose data it brings from elsewhere: one that is
// there is not in its way.
func TestWithoutZFS_volumesInPlace(t *testing.T) {
	t.Parallel()
	const inTheWay = "volume pvc-wordpress-db: PersistentVolume pvc-wordpress-db, which the backup has too, is Released"
	for method, want := range map[plan.Method]bool{
		plan.MethodPodVolumeBackup: false, plan.MethodDataUpload: false, plan.MethodCSISnapshot: false, plan.MethodNativeSnapshot: true,
	} {
		t.Run(string(method), func(t *testing.T) {
			t.Parallel()
			w := newWorldWithout(t, method)
			w.inPlace("pvc-wordpress-db", corev1api.VolumeReleased)
			assert.Equal(t, want, strings.Contains(w.run(t.Context(), "check").out, inTheWay))
		})
	}
}

func TestWithoutZFS_whatIsMissing(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		method  plan.Method
		args    string
		arrange func(*world)
		code    int
		says    []string
	}{
		{"no node agent", plan.MethodPodVolumeBackup, "check", func(w *world) {
			w.stopNodeAgent()
		}, 2, []string{"problem  node-agent: there is none of Velero's, which restores wordpress/wordpress-db, wordpress/wordpress-html here", "velero install --use-node-agent"}},
		{"a node agent that is not ready", plan.MethodDataUpload, "check", func(w *world) {
			w.stopNodeAgent()
			w.runNodeAgent(0)
		}, 2, []string{"problem  node-agent: 0 of 1 is ready", "kubectl -n velero describe daemonset node-agent"}},
		{"no EnableCSI", plan.MethodDataUpload, "check", func(w *world) {
			w.update(&appsv1api.Deployment{}, "velero", func(o client.Object) {
				o.(*appsv1api.Deployment).Spec.Template.Spec.Containers[0].Args = []string{"server"}
			})
		}, 2, []string{"problem  server features: EnableCSI is off, and restoring wordpress/wordpress-db, wordpress/wordpress-html needs it"}},
		{"data that was not moved", plan.MethodDataUpload, "rpo", func(w *world) { w.edit(`"result":"succeeded"`, `"result":"failed"`) },
			0, []string{"wordpress-1   the data of its snapshot was not moved"}},
		{"data that is not moved yet", plan.MethodDataUpload, "rpo", func(w *world) { w.edit(`"result":"succeeded",`, ``) },
			0, []string{"wordpress-1   the data of its snapshot was not moved"}},
		{"moved data for pods that a profile holds back", plan.MethodDataUpload, "check", (*world).bindLate,
			2, []string{"problem  profile wordpress-drill data: it holds the pods back that Velero waits for before it brings back the data of wordpress/wordpress-db (storage class local)", "volumeBindingMode: Immediate"}},
		{"a drill of moved data for pods that its profile holds back", plan.MethodDataUpload, "drill", (*world).bindLate,
			2, []string{"wordpress/wordpress-db (storage class local): Velero brings its data back once its pod has a node, and profile wordpress-drill holds the pods back until then"}},
		{"a node whose taint Velero's pods don't tolerate", plan.MethodDataUpload, "check", func(w *world) {
			w.taint(corev1api.Taint{Key: "dedicated", Value: "remote", Effect: corev1api.TaintEffectNoSchedule})
		}, 2, []string{"problem  node for data: Velero's pods that bring back the data of wordpress/wordpress-db, wordpress/wordpress-html tolerate no taint, and no Ready node is without: remote has dedicated=remote:NoSchedule"}},
		{"files that were not read", plan.MethodPodVolumeBackup, "rpo", func(w *world) { w.edit(`"result":"succeeded"`, `"result":"failed"`) },
			0, []string{"wordpress-1   its backup failed"}},
		{"a volume of which there is no record", plan.MethodPodVolumeBackup, "rpo", func(w *world) { w.edit(`"pvcName":"wordpress-db"`, `"pvcName":"other"`) },
			2, []string{"wordpress/wordpress-db", "the backup does not hold its data: Velero recorded nothing of it"}},
		{"a volume of which there is no record, checked", plan.MethodPodVolumeBackup, "check", func(w *world) { w.edit(`"pvcName":"wordpress-db"`, `"pvcName":"other"`) },
			2, []string{"problem  volume wordpress/wordpress-db: the backup does not hold its data", "by CSI snapshots whose data is moved or from its pod"}},
		{"a snapshot that only an agent finds", plan.MethodNativeSnapshot, "rpo", func(w *world) {
			w.edit("snap-0123456789abcdef0", zfssnap.SnapshotID{Node: "hassio", Dataset: "znvm/data", Snapshot: "dr-b", GUID: 1}.String())
		}, 1, []string{"volume wordpress/wordpress-db: look for a copy of znvm/data@dr-b: no VolumeSnapshotLocation of provider kubectl-dr.io/zfs"}},
		{"agents' holds", plan.MethodDataUpload, "agent holds", nil, 1, []string{"no VolumeSnapshotLocation of provider kubectl-dr.io/zfs"}},
		{"agents' snapshots", plan.MethodDataUpload, "agent forget x", nil, 1, []string{"no VolumeSnapshotLocation of provider kubectl-dr.io/zfs"}},
		{"a drill whose profile drops the pods", plan.MethodPodVolumeBackup, "drill", nil, 2, []string{
			"wordpress/wordpress-db, wordpress/wordpress-html would come back empty: its files are restored into its pod, which profile wordpress-drill drops",
		}},
		{"a failover whose profile drops the pods", plan.MethodPodVolumeBackup, "failover --disaster --accept-data-loss=15m --yes", nil, 1, []string{
			"which profile wordpress-failover drops", "remove state: standby from the profile",
		}},
		{"a planned failover of what is read from running pods", plan.MethodPodVolumeBackup, "failover --planned --source-context=primary --yes", nil, 1, []string{
			"is backed up from its running pod, which a planned failover stops first", "use --disaster with what that loses",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorldWithout(t, tt.method)
			if tt.arrange != nil {
				tt.arrange(w)
			}
			got := w.run(t.Context(), strings.Fields(tt.args)...)
			assert.Equal(t, tt.code, got.code, got)
			for _, says := range tt.says {
				assert.Contains(t, got.out+got.err, says)
			}
			var pvs corev1api.PersistentVolumeList
			require.NoError(t, w.recovery.Client.List(t.Context(), &pvs))
			assert.Empty(t, pvs.Items, "nothing is restored")
		})
	}
}

// bindLate has the backup's claims of a storage class whose volumes are bound once a
// pod of theirs has a node.
func (w *world) bindLate() {
	require.NoError(w.t, w.recovery.Client.Create(w.t.Context(), &storagev1api.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "local"}, VolumeBindingMode: ptr.To(storagev1api.VolumeBindingWaitForFirstConsumer),
	}))
	w.backedUp(&corev1api.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "wordpress-db"},
		Spec:       corev1api.PersistentVolumeClaimSpec{StorageClassName: ptr.To("local")},
	})
}

// Velero's node-agent can be told to wait for no pod.
func TestWithoutZFS_boundEarly(t *testing.T) {
	t.Parallel()
	w := newWorldWithout(t, plan.MethodDataUpload)
	w.bindLate()
	require.NoError(t, w.recovery.Client.Create(t.Context(), &corev1api.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "movers"},
		Data:       map[string]string{"config.json": `{"restorePVC": {"ignoreDelayBinding": true}}`},
	}))
	w.update(&appsv1api.DaemonSet{}, "node-agent", func(o client.Object) {
		o.(*appsv1api.DaemonSet).Spec.Template.Spec.Containers = []corev1api.Container{{Name: "node-agent", Args: []string{"node-agent", "server", "--node-agent-configmap=movers"}}}
	})
	assert.NotContains(t, w.run(t.Context(), "check").out, "holds the pods back")
	assert.Zero(t, w.run(t.Context(), "drill").code)
}

func TestWithoutZFS_drill(t *testing.T) {
	t.Parallel()
	for _, method := range []plan.Method{plan.MethodPodVolumeBackup, plan.MethodDataUpload} {
		t.Run(string(method), func(t *testing.T) {
			t.Parallel()
			w := newWorldWithout(t, method)
			p := testPlan()
			if method == plan.MethodPodVolumeBackup {
				p.Spec.Profiles = plan.Profiles{}
			}
			w.plan(p)
			got := w.run(t.Context(), "drill", "-f", "-")
			golden(t, filepath.Join("without zfs", string(method)+" drill"), got.String())
			w.assertNothingLeft(t)
		})
	}
}

func TestWithoutZFS_disaster(t *testing.T) {
	t.Parallel()
	w := newWorldWithout(t, plan.MethodDataUpload)
	golden(t, filepath.Join("without zfs", "failover --disaster"), w.run(t.Context(), "failover", "--disaster", "--accept-data-loss=15m", "--yes").String())
	var pvs corev1api.PersistentVolumeList
	require.NoError(t, w.recovery.Client.List(t.Context(), &pvs))
	require.Len(t, pvs.Items, len(claims))
	for _, pv := range pvs.Items {
		assert.Equal(t, corev1api.PersistentVolumeReclaimRetain, pv.Spec.PersistentVolumeReclaimPolicy, "what a failover restores is there to stay")
	}
	golden(t, filepath.Join("without zfs", "status after a failover"), w.run(t.Context(), "status").String())

	got := w.run(t.Context(), "reprotect", "--source-context=primary", "--yes")
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, "volume wordpress/wordpress-db is backed up by Velero alone (DataUpload): what diverged at the source can't be kept")
}

// A planned failover promises that nothing is lost.
func TestFailover_plannedRefusesAVolumeThatTheLastBackupLeavesOut(t *testing.T) {
	t.Parallel()
	w := newWorldWithout(t, plan.MethodDataUpload)
	w.skips = "no applicable volumesnapshotter found"
	got := w.run(t.Context(), "failover", "--planned", "--source-context=primary", "--yes")
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, "volume wordpress/wordpress-db would come back empty: the backup does not hold its data: no applicable volumesnapshotter found")
	assert.Equal(t, ptr.To(int32(1)), w.deployment(t, "wordpress-db").Spec.Replicas, "the source runs again")
}
