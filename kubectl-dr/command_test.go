package kubectldr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"", "check", "status", "rpo", "drill", "drill cleanup", "failover", "history", "report", "report verify", "rewrite", "version", "agent", "agent doctor", "agent holds", "agent forget", "agent certs",
		"plan", "plan init", "plan lint", "plan show", "plan diff", "plan apply", "plan schema", "protect", "sync", "rebuild", "exporter", "support-bundle"} {
		t.Run("help of "+command, func(t *testing.T) {
			t.Parallel()
			got := newWorld(t).run(t.Context(), append(strings.Fields(command), "--help")...)
			assert.Zero(t, got.code)
			assert.Contains(t, got.out, "Exit status:")
			assert.NotContains(t, got.out, "kubectl-dr ", "users type kubectl dr")
			golden(t, filepath.Join("help", "dr "+command), got.out)
		})
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		args    string
		arrange func(*world)
	}{
		{"check of a site that is ready, but for a drill", "check", nil},
		{"check as json", "check -o json", nil},
		{"check with problems", "check wordpress", func(w *world) {
			w.host.down, w.noServer = true, false
			delete(w.files, "BackupResourceList/wordpress-2")
			require.NoError(w.t, w.recovery.Client.Delete(w.t.Context(), &corev1api.Node{ObjectMeta: metav1.ObjectMeta{Name: "remote"}}))
		}},
		{"check of a plan that names what is not there", "check -f -", func(w *world) {
			p := testPlan()
			p.Spec.Source.Namespaces = []string{"shop"}
			p.Spec.Profiles.Drill = "nope"
			p.Spec.Start[0].Workloads = []string{"statefulset/gone"}
			w.plan(p)
		}},
		{"check of a Velero that falls into every trap", "check", func(w *world) {
			w.serverVersion, w.plugins = "v1.16.0", w.plugins[1:]
			volumes := w.files["BackupVolumeInfos/wordpress-2"]
			volumes = strings.Replace(volumes, `"pvcName":"wordpress-db"`, `"pvcName":"other"`, 1)
			w.files["BackupVolumeInfos/wordpress-2"] = strings.Replace(volumes, `"backupMethod":"NativeSnapshot"`, `"skipped":true,"skippedReason":"skipped due to resource policy "`, 1)
			w.deploy("velero", "v1.0.0", "--features", "EnableAPIGroupVersions,EnableCSI")
			w.inPlace("pvc-db", corev1api.VolumeReleased)
			w.update(&velerov1api.BackupStorageLocation{}, "default", func(o client.Object) {
				o.(*velerov1api.BackupStorageLocation).Spec.AccessMode = velerov1api.BackupStorageLocationAccessModeReadWrite
			})
			w.update(&velerov1api.Backup{}, "wordpress-2", func(o client.Object) {
				b := o.(*velerov1api.Backup)
				b.Spec.VolumeSnapshotLocations, b.Status.FormatVersion = []string{"zfs-primary"}, "2.0.0"
			})
			w.takenBy("v0.9.3")
		}},
		{"check of a Velero that gives up before the location does", "check", func(w *world) {
			w.update(&velerov1api.Backup{}, "wordpress-2", func(o client.Object) {
				b := o.(*velerov1api.Backup)
				b.Spec.VolumeSnapshotLocations, b.Spec.ItemOperationTimeout.Duration = []string{"zfs"}, time.Hour
			})
		}},
		{"check of a site with a volume of the backup's name", "check", func(w *world) { w.inPlace("pvc-db", corev1api.VolumeBound) }},
		{"check of a backup with CSI snapshots", "check", func(w *world) {
			w.files["BackupVolumeInfos/wordpress-2"] = strings.Replace(w.files["BackupVolumeInfos/wordpress-2"],
				`"backupMethod":"NativeSnapshot"`, `"backupMethod":"CSISnapshot","csiSnapshotInfo":{"driver":"zfs.csi.openebs.io"}`, 1)
		}},
		{"check of a backup without snapshots", "check", func(w *world) {
			w.files["BackupVolumeInfos/wordpress-2"] = "[]"
			w.update(&velerov1api.Backup{}, "wordpress-2", func(o client.Object) { o.(*velerov1api.Backup).Spec.SnapshotVolumes = ptr.To(false) })
		}},
		{"rpo within the objective", "rpo wordpress", nil},
		{"rpo wide", "rpo -o wide", nil},
		{"rpo as json", "rpo -o json", nil},
		{"rpo name", "rpo -o name", nil},
		{"rpo above the objective is a warning", "rpo", func(w *world) { w.pass(10 * time.Minute) }},
		{"rpo above the objective with --strict is not healthy", "rpo --strict", func(w *world) { w.pass(10 * time.Minute) }},
		{"rpo above twice the objective is a problem", "rpo", func(w *world) { w.pass(time.Hour) }},
		{"rpo of a newest backup whose copy is missing", "rpo", func(w *world) { delete(w.host.snapshots, 102) }},
		{"rpo of a copy in the archive alone", "rpo -o wide", func(w *world) {
			delete(w.host.snapshots, 102)
			w.archive, w.host.archived = "offsite", map[uint64]string{102: ""}
		}},
		{"rpo of a copy in the archive that can not be restored", "rpo", func(w *world) {
			delete(w.host.snapshots, 102)
			w.archive, w.host.archived = "offsite", map[uint64]string{102: "chain is broken"}
		}},
		{"rpo with an archive that the agent does not know", "rpo", func(w *world) {
			delete(w.host.snapshots, 102)
			w.archive = "offsite"
		}},
		{"rpo with a clock that is wrong", "rpo --no-headers", func(w *world) { w.host.skew = -time.Minute }},
		{"rpo of a volume that the backup leaves out", "rpo", func(w *world) {
			w.files["BackupVolumeInfos/wordpress-2"] = strings.Replace(w.files["BackupVolumeInfos/wordpress-2"],
				`"backupMethod":"NativeSnapshot"`, `"skipped":true,"skippedReason":"no snapshotter found."`, 1)
		}},
		{"rpo with the agent down", "rpo", func(w *world) { w.host.down = true }},
		{"status before any run", "status", nil},
		{"history before any run", "history", nil},
		{"check with findings of a host's doctor", "check", func(w *world) {
			w.host.findings = []*agentpb.Finding{
				{Group: "pools", Name: "pool backup feature bookmark_v2", State: "warning", Message: "it is not enabled", Remedy: "zpool set feature@bookmark_v2=enabled backup"},
				{Group: "replicas", Name: "replica backup/replica/a", State: "problem", Message: "it is writable", Remedy: "zfs set readonly=on backup/replica/a"},
			}
		}},
		{"check with an agent of an earlier version", "check", func(w *world) { w.host.old = true }},
		{"agent doctor", "agent doctor --node=remote", nil},
		{"agent doctor with problems", "agent doctor", func(w *world) {
			w.host.skew = time.Minute
			w.host.findings = []*agentpb.Finding{
				{Group: "zfs", Name: "defect #15526", State: "problem", Message: "files get chunks of zeros", Remedy: "upgrade OpenZFS"},
				{Group: "host", Name: "clock", State: "warning", Message: "no time server disciplines it", Remedy: "run a time service"},
			}
		}},
		{"agent doctor as json", "agent doctor --node remote -o json", nil},
		{"agent doctor of an earlier version, strict", "agent doctor --node remote --strict", func(w *world) { w.host.old = true }},
		{"agent holds", "agent holds --node=remote", held},
		{"agent holds wide", "agent holds --node=remote -o wide", held},
		{"agent holds as yaml", "agent holds backup/replica/a --node=remote -o yaml", held},
		{"agent holds of all nodes, one of which gives no answer", "agent holds --no-headers", held},
		{"agent holds when there are none", "agent holds --node=remote", nil},
		{"agent holds that are dead", "agent holds --node=remote --reap --dry-run", held},
		{"agent holds reaped", "agent holds --node=remote --reap", held},
		{"agent holds that can not be reaped", "agent holds --node=remote --reap", func(w *world) {
			held(w)
			w.host.refuse = "kubectl-dr:replica"
		}},
		{"version", "version", nil},
		{"version of everything", "version --remote -o yaml", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if tt.arrange != nil {
				tt.arrange(w)
			}
			golden(t, filepath.Join("look", tt.name), w.run(t.Context(), strings.Fields(tt.args)...).String())
		})
	}
}

// deploy runs Velero's server in the recovery cluster.
func (w *world) deploy(name, pluginVersion string, args ...string) {
	d := &appsv1api.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: name}}
	d.Spec.Template.Spec.InitContainers = []corev1api.Container{{Name: "plugin", Image: "registry.example.org:5000/velero-plugin-zfs-dr:" + pluginVersion}}
	d.Spec.Template.Spec.Containers = []corev1api.Container{{Name: "velero", Command: []string{"/velero"}, Args: append([]string{"server"}, args...)}}
	require.NoError(w.t, w.recovery.Client.Create(w.t.Context(), d))
}

// takenBy has the copies say which version of the plugin took their snapshots.
func (w *world) takenBy(version string) {
	for _, v := range w.host.snapshots {
		v.Properties = map[string]string{zfssnap.PropVersion: version}
	}
}

// update changes an object of Velero's in the recovery cluster.
func (w *world) update(obj client.Object, name string, change func(client.Object)) {
	require.NoError(w.t, w.recovery.Client.Get(w.t.Context(), client.ObjectKey{Namespace: veleroNS, Name: name}, obj))
	change(obj)
	require.NoError(w.t, w.recovery.Client.Update(w.t.Context(), obj))
}

// held puts holds on the host: of backups that Velero knows and doesn't, of a
// run that is over and one that isn't known, and of others.
func held(w *world) {
	run := &plan.RecoveryRun{ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: "wordpress-drill-1"}, Status: plan.RecoveryRunStatus{Phase: plan.PhasePassed}}
	require.NoError(w.t, w.recovery.Client.Create(w.t.Context(), run))
	at := func(age time.Duration) int64 { return begin.Add(-age).Unix() }
	w.host.holds = []*agentpb.SnapshotHold{
		{Snapshot: "backup/replica/a@dr-1", Guid: 1, Tag: "kubectl-dr:replica", CreatedUnix: at(48 * time.Hour), By: "hassio", Owner: "replica of hassio:znvm/a", State: "orphan", Reason: "the replica has the newer @dr-2", Dead: true},
		{Snapshot: "backup/replica/a@dr-2", Guid: 2, Tag: "kubectl-dr:replica", CreatedUnix: at(time.Hour), By: "hassio", Owner: "replica of hassio:znvm/a", Why: "the next increment is received onto it", State: "live"},
		{Snapshot: "backup/replica/a@dr-2", Guid: 2, Tag: "kubectl-dr:run:wordpress-drill-1", CreatedUnix: at(time.Hour), UntilUnix: begin.Add(time.Hour).Unix(), By: "kubectl-dr", Owner: "run/wordpress-drill-1", Why: "rehearsal", State: "live"},
		{Snapshot: "backup/replica/a@dr-2", Guid: 2, Tag: "kubectl-dr:run:other", CreatedUnix: at(time.Hour), UntilUnix: begin.Add(time.Hour).Unix(), By: "kubectl-dr", Owner: "run/other", Why: "rehearsal", State: "live"},
		{Snapshot: "backup/b@dr-1", Guid: 3, Tag: "kubectl-dr:backup", CreatedUnix: at(72 * time.Hour), By: "velero", Owner: "backup/wordpress-1", Why: "restores from this backup", State: "live"},
		{Snapshot: "backup/b@dr-2", Guid: 4, Tag: "kubectl-dr:backup", CreatedUnix: at(72 * time.Hour), By: "velero", Owner: "backup/gone", Why: "restores from this backup", State: "live"},
		{Snapshot: "backup/b@dr-3", Guid: 5, Tag: "kubectl-dr:backup", CreatedUnix: at(time.Hour), By: "velero", Owner: "backup/new", Why: "restores from this backup", State: "live"},
		{Snapshot: "backup/b@dr-3", Guid: 5, Tag: "sanoid", CreatedUnix: at(time.Hour), State: "foreign"},
	}
}

// plan gives a plan on standard input.
// profiles replaces the recovery cluster's rewrite profiles.
func (w *world) profiles(list string) {
	cm := &corev1api.ConfigMap{}
	require.NoError(w.t, w.recovery.Client.Get(w.t.Context(), client.ObjectKey{Namespace: veleroNS, Name: "rewrite"}, cm))
	cm.Data["wordpress.yaml"] = "apiVersion: rewrite.kubectl-dr.io/v1alpha1\nkind: RewriteProfiles\nprofiles:\n" + list
	require.NoError(w.t, w.recovery.Client.Update(w.t.Context(), cm))
}

func (w *world) plan(p *plan.RecoveryPlan) {
	content, err := yaml.Marshal(p)
	require.NoError(w.t, err)
	w.stdin = string(content)
}

func TestWrongInput(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		args    string
		arrange func(*world)
		code    int
		err     string // in standard error
		hint    string
	}{
		{"an unknown plan", "rpo nope", nil, 1, `get plan "nope" in namespace velero`, ""},
		{"an unknown flag", "rpo --fast", nil, 1, "unknown flag: --fast", "kubectl dr rpo --help"},
		{"an unknown command", "fly", nil, 1, `unknown command "fly"`, ""},
		{"a plan by name and by file", "drill wordpress -f plan.yaml", nil, 1, "not both", ""},
		{"a file that is not there", "drill -f nope.yaml", nil, 1, "read plan: open nope.yaml", ""},
		{"a plan with an unknown field", "drill -f -", func(w *world) {
			w.stdin = "apiVersion: kubectl-dr.io/v1alpha1\nkind: RecoveryPlan\nspec: {objectives: {rta: 1m}}\n"
		}, 1, `read plan -: unknown field "spec.objectives.rta"`, ""},
		{"a plan without objectives", "drill -f -", func(w *world) {
			p := testPlan()
			p.Spec.Objectives.RPO.Duration = 0
			w.plan(p)
		}, 1, "spec.objectives.rpo: must be a duration above zero", ""},
		{"a plan for a namespace that is not backed up", "drill -f -", func(w *world) {
			p := testPlan()
			p.Spec.Source.Namespaces, p.Spec.Start, p.Spec.Probes = []string{"shop"}, nil, nil
			w.plan(p)
		}, 1, "it does not include namespace shop", "correct spec.source.namespaces of the plan"},
		{"a schedule without backups", "rpo -f -", func(w *world) {
			p := testPlan()
			p.Spec.Source.Schedule = "nightly"
			w.plan(p)
		}, 1, `schedule "nightly" has no completed backup`, "check spec.source.schedule"},
		{"a schedule whose backups failed", "rpo", func(w *world) {
			for _, name := range []string{"wordpress-1", "wordpress-2"} {
				b := &velerov1api.Backup{}
				require.NoError(w.t, w.recovery.Client.Get(w.t.Context(), client.ObjectKey{Namespace: veleroNS, Name: name}, b))
				b.Status.Phase = velerov1api.BackupPhasePartiallyFailed
				require.NoError(w.t, w.recovery.Client.Update(w.t.Context(), b))
			}
		}, 1, "not completed: wordpress-2 (PartiallyFailed), wordpress-1 (PartiallyFailed)", ""},
		{"an agent that does not answer", "drill", func(w *world) { w.host.down = true }, 1, "agent is unreachable", "kubectl dr check"},
		{"a cluster without the definitions", "rpo", func(w *world) { w.noCRDs = true }, 1, "the custom resource definitions of kubectl dr are missing", "kubectl apply -f examples/crds"},
		{"a cluster without the definitions, for a plan in a file", "drill -f testdata/plan.yaml", func(w *world) { w.noCRDs = true }, 1, "the custom resource definitions of kubectl dr are missing", "kubectl apply -f examples/crds"},
		{"a backup that is not there", "drill --backup nope", nil, 1, `get backup "nope"`, ""},
		{"a restore point by name and by time", "drill --backup=wordpress-1 --before=2026-01-02T03:00:00Z", nil, 1, "[backup before]", ""},
		{"a time that is none", "drill --before=yesterday", nil, 1, `invalid argument "yesterday" for "--before" flag`, ""},
		{"a time before all backups", "drill --before=2026-01-01T00:00:00Z", nil, 1,
			"no completed backup has only data from before 2026-01-01T00:00:00Z; the oldest, wordpress-1, began at 2026-01-02T02:44:05Z", "keep backups for longer"},
		{"an earlier time for a planned failover", "failover --planned --source-context=primary --before=2026-01-02T03:00:00Z", nil, 1, "--backup and --before go with --disaster", ""},
		{"a drill to resume when there is none", "drill --resume", nil, 1, "no run of plan", ""},
		{"a failover of neither kind", "failover", nil, 1, "choose one of --planned and --disaster", "--disaster: the source is gone"},
		{"a failover of both kinds", "failover --planned --disaster", nil, 1, "choose one", ""},
		{"a planned failover without a source", "failover --planned", nil, 1, "needs --source-context", "--disaster"},
		{"a planned failover from the recovery cluster itself", "failover --planned --source-context dr --yes", nil, 1, "source and recovery cluster are the same", ""},
		{"a disaster without accepting the loss", "failover --disaster --yes", nil, 1, "a failover now loses 7m12s in PVC wordpress-db", "--accept-data-loss=8m "},
		{"a disaster that loses more than was accepted", "failover --disaster --yes --accept-data-loss=5m", nil, 1, "accepted is 5m", "--accept-data-loss=8m "},
		{"a failover without a terminal", "failover --disaster --accept-data-loss=10m", nil, 1, "no terminal", "--yes"},
		{"a failover that is not confirmed", "failover --disaster --accept-data-loss=10m", func(w *world) { w.tty, w.stdin = true, "yes\n" }, 1, `"yes" is not the plan's name`, ""},
		{"a failover over data that is there", "failover --disaster --accept-data-loss=10m --yes", func(w *world) {
			require.NoError(w.t, w.recovery.Client.Create(w.t.Context(), &corev1api.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "wordpress-db"}}))
		}, 1, "namespace wordpress, where the application goes, holds claims already: wordpress-db", "delete the namespace first"},
		{"a drill with an unknown field in the profiles", "drill", func(w *world) { w.profiles("- name: drill\n  storageClass: {a: b}\n") }, 1,
			`read rewrite profiles: load ConfigMap rewrite: wordpress.yaml:5: profiles[0].storageClass: unknown field`, "kubectl dr check wordpress"},
		{"a failover with two profiles of one name", "failover --disaster --accept-data-loss=10m --yes", func(w *world) { w.profiles("- name: failover\n- name: failover\n") }, 1,
			`a profile named "failover" is at wordpress.yaml:4 already`, "kubectl dr check wordpress"},
		{"a failover with a profile that is not there", "failover --planned --source-context primary --yes", func(w *world) { w.profiles("- name: drill\n") }, 1,
			`read rewrite profiles: unknown profile "wordpress-failover"; there are: drill`, "kubectl dr check wordpress"},
		{"a report of a run that is not there", "report nope", nil, 1, `there is no run "nope" in namespace velero`, ""},
		{"a lifetime of what is not kept", "drill --ttl=2h", nil, 1, "--ttl goes with --keep", ""},
		{"no lifetime", "drill --keep --ttl=0s", nil, 1, "--ttl=0s: want a time above zero", ""},
		{"cleaning up nothing", "drill cleanup", nil, 1, "want either the name of one drill, --expired or --restore", "kubectl dr drill cleanup --expired"},
		{"cleaning up one and all", "drill cleanup x --expired", nil, 1, "want either the name of one drill, --expired or --restore", ""},
		{"cleaning up a run that is not there", "drill cleanup nope", nil, 1, `there is no run "nope"`, "kubectl dr history"},
		{"an unknown format", "rpo -o xml", nil, 1, "unable to match a printer", ""},
		{"an agent on a node that is not named", "agent doctor --node=nope", nil, 1, `no agent is known on node "nope"`, "add nope=<host:port>"},
		{"a dry run of releasing nothing", "agent holds --dry-run", nil, 1, "--dry-run goes with --reap", ""},
		{"holds of what is no dataset", "agent holds /a", nil, 1, `dataset "/a": invalid name`, ""},
		{"holds of a dataset that is not there", "agent holds backup/nope --node=remote", nil, 1, "dataset backup/nope not found", ""},
		{"holds of an agent that is down", "agent holds --node=remote --reap", func(w *world) { w.host.down = true }, 1, "agent is unreachable", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if tt.arrange != nil {
				tt.arrange(w)
			}
			got := w.run(t.Context(), strings.Fields(tt.args)...)
			assert.Equal(t, tt.code, got.code)
			assert.Empty(t, got.out)
			lines := strings.Split(got.err, "hint: ")
			assert.Contains(t, lines[0], "error: ")
			assert.Contains(t, lines[0], tt.err)
			if tt.hint != "" {
				require.Len(t, lines, 2, got.err)
				assert.Contains(t, lines[1], tt.hint)
			}
			assert.Empty(t, w.clones())
		})
	}
}

func TestBefore(t *testing.T) {
	t.Parallel()
	// wordpress-2 began seven minutes before begin, wordpress-1 twenty.
	at := begin.Add(-15 * time.Minute).Format(time.RFC3339)
	for _, command := range []string{"drill", "failover --disaster --accept-data-loss=1h --yes"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.run(t.Context(), append(strings.Fields(command), "--before="+at)...)
			assert.Equal(t, "wordpress-1", w.lastRun(t).Spec.Backup)
		})
	}
}

func TestDrill(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.host.busy = 2
	before := len(w.host.datasets)
	got := w.run(t.Context(), "drill", "wordpress")
	golden(t, "act/drill", got.String())
	assert.Empty(t, w.clones())
	assert.Len(t, w.host.datasets, before, "replicas are where they were")
	w.assertNothingLeft(t)
	w.pass(time.Hour)
	golden(t, "act/history after a drill", w.run(t.Context(), "history").String())
	golden(t, "act/history after a drill, as json", w.run(t.Context(), "history", "-o", "json").String())
	golden(t, "act/report of a drill", w.run(t.Context(), "report").String())
	golden(t, "act/status after a drill", w.run(t.Context(), "status").String())
}

func (w *world) assertNothingLeft(t *testing.T) {
	t.Helper()
	var namespaces corev1api.NamespaceList
	require.NoError(t, w.recovery.Client.List(context.Background(), &namespaces, client.HasLabels{zfssnap.LabelRun}))
	assert.Empty(t, namespaces.Items)
	var pvs corev1api.PersistentVolumeList
	require.NoError(t, w.recovery.Client.List(context.Background(), &pvs))
	assert.Empty(t, pvs.Items)
	var restores velerov1api.RestoreList
	require.NoError(t, w.recovery.Client.List(context.Background(), &restores))
	assert.Empty(t, restores.Items)
	assert.Empty(t, w.clones())
}

func (w *world) lastRun(t *testing.T) plan.RecoveryRun {
	t.Helper()
	runs, err := run.Runs(t.Context(), w.recovery.Client, veleroNS, "")
	require.NoError(t, err)
	require.NotEmpty(t, runs)
	return runs[0]
}

func TestDrill_dryRunDoesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.before = func(what string) error { return fmt.Errorf("%s in a dry run", what) }
	golden(t, "act/drill --dry-run", w.run(t.Context(), "drill", "--dry-run").String())
	golden(t, "act/failover --disaster --dry-run", w.run(t.Context(), "failover", "--disaster", "--dry-run").String())
	golden(t, "act/failover --planned --dry-run", w.run(t.Context(), "failover", "--planned", "--source-context=primary", "--dry-run").String())
	got := w.run(t.Context(), "drill", "--dry-run", "-o", "json")
	var r plan.RecoveryRun
	require.NoError(t, json.Unmarshal([]byte(got.out), &r), got.out)
	assert.Equal(t, "RecoveryRun", r.Kind)
	assert.Len(t, r.Status.Steps, 10)
}

func TestDrill_cleansUpWhenItFails(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		arrange func(*world)
		err     string
	}{
		{"the restore fails", func(w *world) { w.restorePhase = velerov1api.RestorePhasePartiallyFailed },
			"is PartiallyFailed: 1 errors; wordpress: restore volume: no space left"},
		{"pods do not become ready", func(w *world) { w.neverReady = true }, "pod wordpress-db-0: 0/1 nodes are available"},
		{"a probe does not pass", func(w *world) {
			w.answer = func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "no database", http.StatusBadGateway) }
		}, "answered 502 bad gateway, want 200"},
		{"a namespace can not be made", func(w *world) {
			w.before = func(what string) error {
				if what == "dr create networkpolicy" {
					return errors.New("quota exceeded")
				}
				return nil
			}
		}, "create NetworkPolicy"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			tt.arrange(w)
			p := testPlan()
			p.Spec.Start[0].Timeout.Duration, p.Spec.Probes[0].Timeout.Duration = 500*time.Millisecond, 500*time.Millisecond
			w.plan(p)
			got := w.run(t.Context(), "drill", "-f", "-")
			assert.Equal(t, 2, got.code)
			assert.Contains(t, got.err, "error: drill wordpress-drill-20260102-030405 failed: ")
			assert.Contains(t, got.err, tt.err)
			w.assertNothingLeft(t)
			assert.Equal(t, plan.PhaseFailed, w.lastRun(t).Status.Phase)
			assert.Contains(t, got.out, "Pending", "steps that were not executed are listed")
		})
	}
}

// TestProbe_asksByTheNameThatTheProfileGives has a page that links to whom it is asked
// as.
func TestProbe_asksByTheNameThatTheProfileGives(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, command, host string
	}{
		{"a drill by its own", "drill -f -", "vegard-drill.blog.example.org"},
		{"a failover by production's, which is kept beside another", "failover -f - --disaster --accept-data-loss=10m --yes", "vegard.blog.example.org"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.profiles(`
- {name: wordpress-drill, hosts: [{from: vegard.blog.example.org, to: vegard-drill.blog.example.org}]}
- {name: wordpress-failover, hosts: [{from: vegard.blog.example.org, to: vegard-dr.blog.example.org, mode: add}]}
`)
			w.answer = func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintf(rw, `<a href="https://%s/">`, r.Host) }
			p := testPlan()
			p.Spec.Probes[0].HTTP.Host = "vegard.blog.example.org"
			p.Spec.Probes[0].HTTP.Expect.Contains = `href="https://$(HOST)/"`
			w.plan(p)
			got := w.run(t.Context(), strings.Fields(tt.command)...)
			assert.Zero(t, got.code, got)
			assert.Contains(t, got.out, "answered 200 ok as "+tt.host)
		})
	}
}

func TestDrill_keepsWhatItMadeWhenAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got := w.run(t.Context(), "drill", "--keep")
	require.Zero(t, got.code, got.err)
	assert.Len(t, w.clones(), 2)
	restore := &velerov1api.Restore{}
	require.NoError(t, w.recovery.Client.Get(t.Context(), client.ObjectKey{Namespace: veleroNS, Name: w.lastRun(t).Name}, restore))
	assert.Equal(t, "true", restore.Annotations[zfssnap.AnnotationThin], "a rehearsal reserves no space")
	got = w.run(t.Context(), "drill", "cleanup", "wordpress-drill-20260102-030405")
	require.Zero(t, got.code, got.err)
	w.assertNothingLeft(t)
	assert.Equal(t, plan.PhasePassed, w.lastRun(t).Status.Phase)
}

func TestDrill_isKeptForSoLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got := w.do(t, "drill --keep --ttl=2h")
	assert.Contains(t, got.out, "kept for 120m: kubectl dr drill cleanup --expired, or wordpress-drill-20260102-030505")
	golden(t, "act/status of a kept drill", w.do(t, "status").String())
	assert.Contains(t, w.do(t, "drill cleanup --expired").err, "no kept drill has outlived its --ttl")
	assert.Len(t, w.clones(), 2)
	w.pass(time.Hour)
	w.addBackup("wordpress-3", 0)
	w.do(t, "drill --keep")
	forGood := w.lastRun(t).Name
	w.pass(time.Hour)
	w.addBackup("wordpress-4", 0)
	golden(t, "act/status of a kept drill that is expired", w.do(t, "status").String())
	golden(t, "act/drill cleanup --expired", w.do(t, "drill cleanup --expired").String())
	assert.Len(t, w.clones(), 2, "the other was kept without a limit")
	assert.NotContains(t, w.run(t.Context(), "status").out, "wordpress-drill-20260102-030505")
	w.do(t, "drill cleanup "+forGood)
	w.assertNothingLeft(t)
}

func TestDrill_saysWhatIsLeftWhenCleaningUpFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.before = func(what string) error {
		if what == "dr delete persistentvolume" {
			return errors.New("the API server is gone")
		}
		return nil
	}
	got := w.run(t.Context(), "drill")
	assert.Equal(t, 2, got.code)
	assert.Contains(t, got.err, "something is left: clean up: delete volume")
	assert.Contains(t, got.err, "hint: try again with: kubectl dr drill cleanup wordpress-drill-20260102-030405")
	assert.Empty(t, w.clones(), "what could be removed was")
	w.before = nil
	assert.Zero(t, w.run(t.Context(), "drill", "cleanup", "wordpress-drill-20260102-030405").code)
	w.assertNothingLeft(t)
}

func TestDrill_cleansUpWhenInterrupted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, interrupt := context.WithCancel(t.Context())
	w.answer = func(rw http.ResponseWriter, _ *http.Request) { interrupt() }
	got := w.run(ctx, "drill")
	assert.Equal(t, 130, got.code)
	w.assertNothingLeft(t)
	assert.Equal(t, plan.PhaseAborted, w.lastRun(t).Status.Phase)
}

func TestDrill_endsWithItsTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.neverReady = true
	got := w.run(t.Context(), "drill", "--timeout=300ms")
	assert.Equal(t, 124, got.code, got.err)
	w.assertNothingLeft(t)
}

func TestDrill_missedObjectiveIsNotHealthy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pass(time.Hour)
	got := w.run(t.Context(), "drill")
	assert.Equal(t, 2, got.code)
	assert.Contains(t, got.err, "passed, and missed an objective")
	assert.Equal(t, plan.PhasePassed, w.lastRun(t).Status.Phase)
}

// TestRunsGoOnFromEachStep kills a run after each of its steps, before that is
// recorded: the step is done twice, and must not mind.
func TestRunsGoOnFromEachStep(t *testing.T) {
	t.Parallel()
	for name, args := range map[string]string{
		"a drill":            "drill",
		"a disaster":         doDisaster,
		"a planned failover": doPlanned,
	} {
		for _, step := range newWorld(t).steps(t, args) {
			t.Run(name+" killed after "+step, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.dies(t, args, step)
				done := 0
				for _, s := range w.lastRun(t).Status.Steps {
					if s.Phase == plan.PhasePassed {
						done++
					}
				}
				got := w.run(t.Context(), strings.Fields(args+" --resume")...)
				require.Zero(t, got.code, got.err)
				r := w.lastRun(t)
				assert.Equal(t, len(r.Status.Steps)-done, strings.Count(got.err, "running  "), "what was recorded is not done again")
				assert.Equal(t, plan.PhasePassed, r.Status.Phase)
				for _, s := range r.Status.Steps {
					assert.Equal(t, plan.PhasePassed, s.Phase, s.Name)
				}
				if args == "drill" {
					w.assertNothingLeft(t)
				} else {
					assert.Len(t, w.clones(), 2)
				}
			})
		}
	}
}

func TestFailover_disaster(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.tty, w.stdin = true, "wordpress\n"
	got := w.run(t.Context(), "failover", "--disaster", "--accept-data-loss=15m")
	golden(t, "act/failover --disaster", got.String())
	for _, claim := range []string{"wordpress-db", "wordpress-html"} {
		assert.Equal(t, "wordpress-failover-20260102-030405", w.host.datasets["backup/replica/znvm/k3s/"+claim][zfssnap.PropFenced])
	}
	assert.Len(t, w.clones(), 2)
	golden(t, "act/status after a failover", w.run(t.Context(), "status").String())
	again := w.run(t.Context(), "failover", "--disaster", "--accept-data-loss=15m", "--yes")
	assert.Equal(t, 1, again.code)
	assert.Contains(t, again.err, "holds claims already")
}

func TestFailover_takesABackupThatVeleroSyncsInTime(t *testing.T) {
	t.Parallel()
	const late = "wordpress-20260102030200"
	disaster := []string{"failover", "--disaster", "--accept-data-loss=15m", "--yes"}

	w := newWorld(t)
	w.addCopies(late, begin.Add(-2*time.Minute))
	assert.Contains(t, w.run(t.Context(), "rpo").out, "the copies of backup "+late+" have arrived; Velero of this cluster does not know it yet")
	looks := 0
	w.unsynced = func() {
		if looks++; looks == 3 {
			w.addBackup(late, 2*time.Minute)
		}
	}
	got := w.run(t.Context(), disaster...)
	require.Zero(t, got.code, got.err)
	assert.Contains(t, got.err, "waiting up to 90s for Velero of this cluster to know it")
	assert.Equal(t, late, w.lastRun(t).Spec.Backup)

	w = newWorld(t)
	w.addCopies(late, begin.Add(-2*time.Minute))
	got = w.run(t.Context(), append(disaster, "--sync-timeout=20ms")...)
	require.Zero(t, got.code, got.err)
	assert.Contains(t, got.err, "does not know backup "+late)
	assert.Equal(t, "wordpress-2", w.lastRun(t).Spec.Backup, "a failover does not wait for ever")

	w = newWorld(t)
	w.addCopies("wordpress-before-upgrade", begin.Add(-2*time.Minute))
	assert.NotContains(t, w.run(t.Context(), disaster...).err, "have arrived", "a backup that is not of the schedule")
}

func TestFailover_planned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got := w.run(t.Context(), "failover", "--planned", "--source-context=primary", "--yes")
	golden(t, "act/failover --planned", got.String())
	r := w.lastRun(t)
	assert.Zero(t, r.Status.RPO.Duration)
	var s velerov1api.Schedule
	require.NoError(t, w.source.Client.Get(t.Context(), client.ObjectKey{Namespace: veleroNS, Name: "wordpress"}, &s))
	assert.True(t, s.Spec.Paused)
	assert.Equal(t, int32(0), *w.deployment(t, "wordpress-db").Spec.Replicas)
}

func (w *world) deployment(t *testing.T, name string) *appsv1api.Deployment {
	t.Helper()
	d := &appsv1api.Deployment{}
	require.NoError(t, w.source.Client.Get(t.Context(), client.ObjectKey{Namespace: "wordpress", Name: name}, d))
	return d
}

func TestFailover_plannedGivesTheSourceBackWhatItHad(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		arrange func(*world)
		err     string
	}{
		{"the last backup fails", func(w *world) { w.backupPhase = velerov1api.BackupPhasePartiallyFailed }, "it is PartiallyFailed"},
		{"a copy can not be fenced", func(w *world) { w.host.refuse = "backup/replica/znvm/k3s/wordpress-html" },
			"fence backup/replica/znvm/k3s/wordpress-html on node remote: not allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			tt.arrange(w)
			got := w.run(t.Context(), "failover", "--planned", "--source-context=primary", "--yes")
			assert.Equal(t, 1, got.code)
			assert.Contains(t, got.err, tt.err)
			for _, name := range []string{"wordpress-db", "wordpress"} {
				d := w.deployment(t, name)
				assert.Equal(t, int32(1), *d.Spec.Replicas)
				assert.NotContains(t, d.Annotations, rules.AnnotationOriginalState)
				assert.NotContains(t, d.Annotations, "kubectl-dr.io/stopped-by")
			}
			var s velerov1api.Schedule
			require.NoError(t, w.source.Client.Get(t.Context(), client.ObjectKey{Namespace: veleroNS, Name: "wordpress"}, &s))
			assert.False(t, s.Spec.Paused)
			for name, props := range w.host.datasets {
				assert.NotContains(t, props, zfssnap.PropFenced, name)
			}
			assert.Empty(t, w.clones())
		})
	}
}

func TestFailover_oneRunAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dies(t, doDisaster, "restore")
	got := w.run(t.Context(), "drill")
	assert.Equal(t, 1, got.code)
	assert.Contains(t, got.err, "failover wordpress-failover-20260102-030405 of plan \"wordpress\" is in progress")
	golden(t, "act/status while failing over", w.run(t.Context(), "status").String())
	got = w.run(t.Context(), "failover", "--abandon")
	require.Zero(t, got.code, got.err)
	assert.Equal(t, plan.PhaseAborted, w.lastRun(t).Status.Phase)
}

func TestExamples(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../examples/*/plan.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		content, err := os.ReadFile(f)
		require.NoError(t, err)
		_, err = plan.Decode(content)
		assert.NoError(t, err, f)
	}
}

// What a restore of Velero's own made stays when it fails, and keeps a snapshot.
func TestDrillCleanup_ofARestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.recovery.Client
	restore := func(name string, phase velerov1api.RestorePhase) {
		w.restorePhase = phase
		require.NoError(t, c.Create(t.Context(), &velerov1api.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: veleroNS, Name: name}}))
	}
	made := func(name, restore string) {
		w.host.datasets["backup/znvm/k3s/"+name] = map[string]string{zfssnap.PropManaged: "true", zfssnap.PropRestore: restore, zfssnap.PropVolume: name}
	}
	restore("failed", velerov1api.RestorePhasePartiallyFailed)
	restore("running", velerov1api.RestorePhaseInProgress)
	made("left-1", "failed")
	made("left-2", "gone")
	made("yet-to-come", "running")
	made("in-use", "failed")
	made("of-a-run", "gone")
	w.host.datasets["backup/znvm/k3s/of-a-run"][zfssnap.PropRun] = "wordpress-failover-1"
	require.NoError(t, c.Create(t.Context(), &corev1api.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "in-use"}}))

	got := w.run(t.Context(), "check")
	assert.Contains(t, got.out, "volume backup/znvm/k3s/left-1 on remote")
	assert.Contains(t, got.out, "it was made for restore failed, which is PartiallyFailed, and no PersistentVolume leads to it")
	assert.Contains(t, got.out, "it was made for restore gone, which is gone")
	assert.Contains(t, got.out, "kubectl dr drill cleanup --restore=gone")
	for _, other := range []string{"yet-to-come", "in-use", "of-a-run"} {
		assert.NotContains(t, got.out, other)
	}
	for _, name := range []string{"failed", "gone"} {
		got = w.run(t.Context(), "drill", "cleanup", "--restore="+name)
		require.Zero(t, got.code, got.err)
		assert.Contains(t, got.err, "destroyed 1 volume")
		got = w.run(t.Context(), "drill", "cleanup", "--restore="+name)
		assert.NotZero(t, got.code)
		assert.Contains(t, got.err, "left no volume that nothing uses")
	}
	got = w.run(t.Context(), "drill", "cleanup", "--restore=running")
	assert.NotZero(t, got.code)
	assert.Equal(t, []string{"backup/znvm/k3s/in-use", "backup/znvm/k3s/of-a-run", "backup/znvm/k3s/yet-to-come"}, w.clones())
	assert.NotZero(t, w.run(t.Context(), "drill", "cleanup", "some-run", "--restore=gone").code)
}

// inPlace has the newest backup hold a PersistentVolume, and the recovery cluster
// one of its name.
func (w *world) inPlace(name string, phase corev1api.PersistentVolumePhase) {
	w.t.Helper()
	contents := strings.Replace(w.files["BackupResourceList/wordpress-2"], "{", `{"v1/PersistentVolume": ["`+name+`", "pvc-html"],`, 1)
	w.files["BackupResourceList/wordpress-2"] = contents
	pv := &corev1api.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1api.PersistentVolumeStatus{Phase: phase}}
	require.NoError(w.t, w.recovery.Client.Create(w.t.Context(), pv))
}

// Velero waits ten minutes for a volume that is Released to go, and then fails.
func TestFailover_volumesInPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.inPlace("pvc-db", corev1api.VolumeReleased)
	got := w.run(t.Context(), strings.Fields(doDisaster)...)
	assert.NotZero(t, got.code)
	assert.Contains(t, got.err, "PersistentVolume pvc-db, which the backup has too, is Released: Velero waits for it to go")
	assert.Contains(t, got.err, "kubectl delete persistentvolume pvc-db")
	restores := &velerov1api.RestoreList{}
	require.NoError(t, w.recovery.Client.List(t.Context(), restores))
	assert.Empty(t, restores.Items, "Velero was not asked yet")

	require.NoError(t, w.recovery.Client.Delete(t.Context(), &corev1api.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-db"}}))
	got = w.run(t.Context(), strings.Fields(doDisaster)...)
	require.Zero(t, got.code, got.err)
}

func TestFailover_volumesThatStay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.inPlace("pvc-db", corev1api.VolumeAvailable)
	got := w.run(t.Context(), strings.Fields(doDisaster)...)
	require.Zero(t, got.code, got.err)
	assert.Contains(t, got.err, "PersistentVolume pvc-db, which the backup has too, is Available: Velero leaves it as it is, and restores no data")

	drilled := newWorld(t)
	drilled.inPlace("pvc-db", corev1api.VolumeReleased)
	got = drilled.run(t.Context(), "drill")
	require.Zero(t, got.code, got.err)
	assert.NotContains(t, got.err, "pvc-db", "volumes of other namespaces get other names")
}
