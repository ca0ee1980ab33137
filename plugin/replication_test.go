package plugin

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"github.com/vmware-tanzu/velero/pkg/plugin/velero"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/yaml"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

const openEBSPV = `
apiVersion: v1
kind: PersistentVolume
metadata: {name: pvc-1}
spec:
  capacity: {storage: 4Gi}
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: wordpress, name: data}
  csi:
    driver: zfs.csi.openebs.io
    volumeHandle: pvc-1
    volumeAttributes: {openebs.io/poolname: znvm/k3s}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: openebs.io/nodeid, operator: In, values: [hassio]}]}]}}
`

const openEBSOperation = "zfs/dr-nightly-0f1e2d3c/zfs1:hassio:znvm/k3s/pvc-1"

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal([]byte(text), &u.Object))
	return u
}

// fakeAgent has one snapshot and one transfer; calls it does not define panic.
type fakeAgent struct {
	zfssnap.Agent
	err       error
	snapshots []*agentpb.Version
	transfer  *agentpb.Transfer
	cancelled []string

	archiving  *agentpb.Transfer
	archiveErr error
}

func (a *fakeAgent) ListVersions(context.Context, *agentpb.ListVersionsRequest, ...grpc.CallOption) (*agentpb.ListVersionsResponse, error) {
	return &agentpb.ListVersionsResponse{Versions: a.snapshots}, a.err
}

func (a *fakeAgent) CreateSnapshots(context.Context, *agentpb.CreateSnapshotsRequest, ...grpc.CallOption) (*agentpb.CreateSnapshotsResponse, error) {
	return nil, a.err
}

func (a *fakeAgent) Replicate(context.Context, *agentpb.ReplicateRequest, ...grpc.CallOption) (*agentpb.Transfer, error) {
	return a.transfer, a.err
}

func (a *fakeAgent) Archive(context.Context, *agentpb.ArchiveRequest, ...grpc.CallOption) (*agentpb.Transfer, error) {
	return a.archiving, a.archiveErr
}

func (a *fakeAgent) CancelTransfer(_ context.Context, req *agentpb.GetTransferRequest, _ ...grpc.CallOption) (*agentpb.Transfer, error) {
	a.cancelled = append(a.cancelled, req.GetId())
	return &agentpb.Transfer{State: agentpb.Transfer_CANCELLED}, a.err
}

func snapshotLocation(config map[string]string) *velerov1api.VolumeSnapshotLocation {
	return &velerov1api.VolumeSnapshotLocation{
		ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "zfs"},
		Spec: velerov1api.VolumeSnapshotLocationSpec{
			Provider:   SnapshotterName,
			Config:     config,
			Credential: &corev1api.SecretKeySelector{LocalObjectReference: corev1api.LocalObjectReference{Name: "zfs-agent-client"}, Key: "tls.pem"},
		},
	}
}

func withTarget() map[string]string {
	return map[string]string{"agents": "hassio=h:1,remote=r:1", "target": "remote", "targetPrefix": "backup/replica"}
}

var start = time.Date(2026, 1, 1, 3, 0, 0, 0, time.UTC)

func nightly() *velerov1api.Backup {
	return &velerov1api.Backup{
		ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "nightly", UID: "0f1e2d3c-4b5a-4697-8879-6a5b4c3d2e1f"},
		Spec:       velerov1api.BackupSpec{VolumeSnapshotLocations: []string{"aws", "zfs"}},
		Status:     velerov1api.BackupStatus{Phase: velerov1api.BackupPhaseInProgress, StartTimestamp: &metav1.Time{Time: start}},
	}
}

// newAction returns the action, its clock one minute into the backup, over a
// cluster with the given location and a pod that mounts the claim.
func newAction(t *testing.T, agent *fakeAgent, vsl *velerov1api.VolumeSnapshotLocation) *ReplicationAction {
	t.Helper()
	scheme, err := newScheme()
	require.NoError(t, err)
	aws := &velerov1api.VolumeSnapshotLocation{
		ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "aws"},
		Spec:       velerov1api.VolumeSnapshotLocationSpec{Provider: "velero.io/aws"},
	}
	pod := &corev1api.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "db"},
		Spec: corev1api.PodSpec{Volumes: []corev1api.Volume{{Name: "data", VolumeSource: corev1api.VolumeSource{
			PersistentVolumeClaim: &corev1api.PersistentVolumeClaimVolumeSource{ClaimName: "data"},
		}}}},
	}
	claim := &corev1api.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: "data"},
		Spec:       corev1api.PersistentVolumeClaimSpec{VolumeName: "pvc-1"},
		Status:     corev1api.PersistentVolumeClaimStatus{Phase: corev1api.ClaimBound},
	}
	secret := &corev1api.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "zfs-agent-client"}, Data: map[string][]byte{"tls.pem": []byte("pem")}}
	kube := fake.NewClientBuilder().WithScheme(scheme).WithObjects(aws, pod, claim, secret, vsl).Build()
	log := logrus.New()
	log.SetOutput(t.Output())
	action := NewReplicationAction(&zfssnap.Sites{
		Connect: func(_ zfssnap.Location, pem []byte) (zfssnap.Agents, error) {
			assert.Equal(t, "pem", string(pem))
			return theAgent{agent}, nil
		},
		Kube: func() (client.Client, error) { return kube, nil },
	}, log)
	action.Now = func() time.Time { return start.Add(time.Minute) }
	return action
}

// theAgent is on every node.
type theAgent struct{ agent *fakeAgent }

func (a theAgent) Agent(string) (zfssnap.Agent, error) { return a.agent, nil }

func TestReplicationAction_Execute(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		pv      string
		backup  func(*velerov1api.Backup)
		vsl     func(*velerov1api.VolumeSnapshotLocation)
		want    string
		wantErr string
	}{
		{name: "waits for the copy of a volume", want: openEBSOperation},
		{name: "has nothing to do for a foreign volume", pv: "{metadata: {name: pv}, spec: {nfs: {server: s, path: /p}}}"},
		{
			name:    "fails loudly for a volume of ours that can not be resolved",
			pv:      "{metadata: {name: pvc-1}, spec: {csi: {driver: zfs.csi.openebs.io, volumeHandle: pvc-1}}}",
			wantErr: "find the dataset of PersistentVolume pvc-1",
		},
		{
			name: "has nothing to do without a target",
			vsl: func(v *velerov1api.VolumeSnapshotLocation) {
				v.Spec.Config = map[string]string{"agents": "hassio=h:1"}
			},
		},
		{
			name: "waits for the archive alone",
			vsl: func(v *velerov1api.VolumeSnapshotLocation) {
				v.Spec.Config = map[string]string{"agents": "hassio=h:1", "archive": "offsite"}
			},
			want: openEBSOperation,
		},
		{
			name:    "fails loudly for a broken location",
			vsl:     func(v *velerov1api.VolumeSnapshotLocation) { v.Spec.Config["tarket"] = "x" },
			wantErr: `unknown key "tarket"`,
		},
		{
			name:    "fails loudly without its credential",
			vsl:     func(v *velerov1api.VolumeSnapshotLocation) { v.Spec.Credential.Key = "none" },
			wantErr: `secret zfs-agent-client has no key "none"`,
		},
		{
			name: "has nothing to do for volumes of the target itself",
			vsl: func(v *velerov1api.VolumeSnapshotLocation) {
				v.Spec.Config["target"] = "hassio"
			},
		},
		{
			name:   "has nothing to do in a backup without our location",
			backup: func(b *velerov1api.Backup) { b.Spec.VolumeSnapshotLocations = []string{"aws"} },
		},
		{
			name:   "has nothing to do when volumes are not snapshotted",
			backup: func(b *velerov1api.Backup) { no := false; b.Spec.SnapshotVolumes = &no },
		},
		{
			name:   "has nothing to do for a volume that is backed up from its pod",
			backup: func(b *velerov1api.Backup) { yes := true; b.Spec.DefaultVolumesToFsBackup = &yes },
		},
		{
			name:   "starts nothing while Velero finalizes",
			backup: func(b *velerov1api.Backup) { b.Status.Phase = velerov1api.BackupPhaseFinalizing },
		},
		{
			name:   "starts nothing while Velero finalizes a partial failure",
			backup: func(b *velerov1api.Backup) { b.Status.Phase = velerov1api.BackupPhaseFinalizingPartiallyFailed },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			vsl, backup := snapshotLocation(withTarget()), nightly()
			if tt.vsl != nil {
				tt.vsl(vsl)
			}
			if tt.backup != nil {
				tt.backup(backup)
			}
			if tt.pv == "" {
				tt.pv = openEBSPV
			}
			item := object(t, tt.pv)
			out, additional, id, post, err := newAction(t, &fakeAgent{}, vsl).Execute(item, backup)
			if tt.wantErr != "" {
				require.ErrorContains(t, err, tt.wantErr)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, object(t, tt.pv), out)
			assert.Empty(t, additional)
			assert.Empty(t, post)
			assert.Equal(t, tt.want, id)
		})
	}
}

func TestReplicationAction_Progress(t *testing.T) {
	t.Parallel()
	taken := []*agentpb.Version{{Name: "dr-nightly-0f1e2d3c", Guid: 42}}
	down := status.Error(codes.Unavailable, "connection refused")
	began, seen := start.Add(10*time.Second), start.Add(50*time.Second)
	transfer := func(state agentpb.Transfer_State, sent uint64) *agentpb.Transfer {
		return &agentpb.Transfer{Id: "t1", State: state, BytesSent: sent, BytesTotal: 100, StartedUnixMs: began.UnixMilli(), UpdatedUnixMs: seen.UnixMilli()}
	}
	running := transfer(agentpb.Transfer_RUNNING, 40)
	running.Base, running.Resumed = "dr-before", true
	fast := transfer(agentpb.Transfer_RUNNING, 40)
	fast.RateBytesPerSecond, fast.EtaSeconds = 12_900_000, 200
	stalled := transfer(agentpb.Transfer_RUNNING, 40)
	stalled.Stalled = true
	retrying := transfer(agentpb.Transfer_RUNNING, 40)
	retrying.Error = "connection reset"
	failed := transfer(agentpb.Transfer_FAILED, 40)
	failed.Error = "target has diverged"
	what := "znvm/k3s/pvc-1@dr-nightly-0f1e2d3c to remote:backup/replica/znvm/k3s/pvc-1"
	now := start.Add(time.Minute)

	tests := []struct {
		name  string
		agent fakeAgent
		now   time.Time
		vsl   func(*velerov1api.VolumeSnapshotLocation)
		want  velero.OperationProgress
	}{
		{
			name:  "reports a running transfer",
			agent: fakeAgent{snapshots: taken, transfer: running},
			want:  velero.OperationProgress{NCompleted: 40, NTotal: 100, Description: "copying " + what + ", incremental from dr-before, resumed", Started: began.Local(), Updated: seen.Local()},
		},
		{
			name:  "reports how fast it is and what is left",
			agent: fakeAgent{snapshots: taken, transfer: fast},
			want:  velero.OperationProgress{NCompleted: 40, NTotal: 100, Description: "copying " + what + ", 12 MiB/s, 3m20s left", Started: began.Local(), Updated: seen.Local()},
		},
		{
			name:  "reports a transfer that stalls",
			agent: fakeAgent{snapshots: taken, transfer: stalled},
			want:  velero.OperationProgress{NCompleted: 40, NTotal: 100, Description: "copying " + what + "; no data has moved for some time", Started: began.Local(), Updated: seen.Local()},
		},
		{
			name:  "reports a transfer that waits to go on",
			agent: fakeAgent{snapshots: taken, transfer: retrying},
			want:  velero.OperationProgress{NCompleted: 40, NTotal: 100, Description: "copying " + what + "; waiting to try again: connection reset", Started: began.Local(), Updated: seen.Local()},
		},
		{
			name:  "completes when the target holds the copy",
			agent: fakeAgent{snapshots: taken, transfer: transfer(agentpb.Transfer_DONE, 98)},
			want:  velero.OperationProgress{Completed: true, NCompleted: 100, NTotal: 100, Description: "copied " + what, Started: began.Local(), Updated: seen.Local()},
		},
		{
			name:  "fails with the agent's reason",
			agent: fakeAgent{snapshots: taken, transfer: failed},
			want:  velero.OperationProgress{Completed: true, Err: "copy " + what + ": target has diverged", NCompleted: 40, NTotal: 100, Started: began.Local(), Updated: seen.Local()},
		},
		{
			name:  "fails when the snapshot was never taken",
			agent: fakeAgent{},
			want:  velero.OperationProgress{Completed: true, Err: "replicate znvm/k3s/pvc-1@dr-nightly-0f1e2d3c from node hassio: snapshot does not exist", Updated: now},
		},
		{
			name:  "waits for an agent that does not answer",
			agent: fakeAgent{err: down},
			want:  velero.OperationProgress{Description: "waiting: list snapshots of znvm/k3s/pvc-1 on node hassio: rpc error: code = Unavailable desc = connection refused", Updated: now},
		},
		{
			name:  "gives up on it in the end",
			agent: fakeAgent{err: down},
			now:   start.Add(4*time.Hour + time.Second),
			want:  velero.OperationProgress{Completed: true, Err: "gave up after 4h0m0s: list snapshots of znvm/k3s/pvc-1 on node hassio: rpc error: code = Unavailable desc = connection refused", Updated: start.Add(4*time.Hour + time.Second)},
		},
		{
			name:  "gives up when the location says so",
			agent: fakeAgent{err: down},
			vsl:   func(v *velerov1api.VolumeSnapshotLocation) { v.Spec.Config["replicationTimeout"] = "30s" },
			want:  velero.OperationProgress{Completed: true, Err: "gave up after 30s: list snapshots of znvm/k3s/pvc-1 on node hassio: rpc error: code = Unavailable desc = connection refused", Updated: now},
		},
		{
			name:  "fails when the agent refuses",
			agent: fakeAgent{err: status.Error(codes.PermissionDenied, "not yours")},
			want:  velero.OperationProgress{Completed: true, Err: "list snapshots of znvm/k3s/pvc-1 on node hassio: rpc error: code = PermissionDenied desc = not yours", Updated: now},
		},
		{
			name:  "fails when the agent cannot be verified",
			agent: fakeAgent{err: status.Error(codes.Unauthenticated, "unknown authority")},
			want:  velero.OperationProgress{Completed: true, Err: "list snapshots of znvm/k3s/pvc-1 on node hassio: rpc error: code = Unauthenticated desc = unknown authority", Updated: now},
		},
		{
			name: "fails when the location is gone",
			vsl:  func(v *velerov1api.VolumeSnapshotLocation) { v.Name = "renamed" },
			want: velero.OperationProgress{Completed: true, Err: `get snapshot location zfs: volumesnapshotlocations.velero.io "zfs" not found`, Updated: now},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			vsl := snapshotLocation(withTarget())
			if tt.vsl != nil {
				tt.vsl(vsl)
			}
			agent := tt.agent
			action := newAction(t, &agent, vsl)
			if !tt.now.IsZero() {
				action.Now = func() time.Time { return tt.now }
			}
			got, err := action.Progress(openEBSOperation, nightly())
			require.NoError(t, err)
			tt.want.OperationUnits = "Bytes"
			assert.Equal(t, tt.want, got)
		})
	}
}

// The two run in processes of their own: the backup tells one what the other saw.
func TestReplicationAction_Progress_ofASnapshotThatFailed(t *testing.T) {
	t.Parallel()
	action := newAction(t, &fakeAgent{err: status.Error(codes.Unavailable, "connection refused")}, snapshotLocation(withTarget()))
	kube, err := action.Sites.Kube()
	require.NoError(t, err)
	backup := nightly()
	require.NoError(t, kube.Create(t.Context(), backup))
	snapshotter := &zfssnap.Snapshotter{Sites: action.Sites, Namespace: "velero", Log: action.Log}
	credential := filepath.Join(t.TempDir(), "tls.pem")
	require.NoError(t, os.WriteFile(credential, []byte("pem"), 0o600))
	config := withTarget()
	config[zfssnap.KeyCredentialsFile] = credential
	require.NoError(t, snapshotter.Init(config))

	_, err = snapshotter.CreateSnapshot("zfs1:hassio:znvm/k3s/pvc-1", "", map[string]string{"velero.io/backup": "nightly"})
	require.ErrorContains(t, err, "connection refused")
	require.NoError(t, kube.Get(t.Context(), client.ObjectKeyFromObject(backup), backup))

	got, err := action.Progress(openEBSOperation, backup)
	require.NoError(t, err)
	assert.True(t, got.Completed, "there is no copy to wait for")
	assert.Equal(t, "znvm/k3s/pvc-1 of node hassio is not in the backup: its snapshot failed", got.Err)

	got, err = action.Progress("zfs/dr-nightly-0f1e2d3c/zfs1:hassio:znvm/k3s/pvc-2", backup)
	require.NoError(t, err)
	assert.False(t, got.Completed, "another volume's copy is still waited for")
}

func TestReplicationAction_Cancel(t *testing.T) {
	t.Parallel()
	agent := &fakeAgent{snapshots: []*agentpb.Version{{Name: "dr-nightly-0f1e2d3c", Guid: 42}}, transfer: &agentpb.Transfer{Id: "t1", State: agentpb.Transfer_RUNNING}}
	action := newAction(t, agent, snapshotLocation(withTarget()))
	require.NoError(t, action.Cancel(openEBSOperation, nightly()))
	assert.Equal(t, []string{"t1"}, agent.cancelled, "a process that never polled finds the transfer")

	agent.transfer.State = agentpb.Transfer_DONE
	require.NoError(t, newAction(t, agent, snapshotLocation(withTarget())).Cancel(openEBSOperation, nightly()))
	assert.Len(t, agent.cancelled, 1, "what is done is left alone")

	agent.snapshots = nil
	require.NoError(t, newAction(t, agent, snapshotLocation(withTarget())).Cancel(openEBSOperation, nightly()))
}

func TestOperation_roundTrip(t *testing.T) {
	t.Parallel()
	op, err := parseOperation(openEBSOperation)
	require.NoError(t, err)
	assert.Equal(t, operation{location: "zfs", snapshot: "dr-nightly-0f1e2d3c", volume: zfssnap.VolumeID{Node: "hassio", Dataset: "znvm/k3s/pvc-1"}}, op)
	assert.Equal(t, openEBSOperation, op.String())
	for _, bad := range []string{"", "zfs", "zfs/x", "zfs//zfs1:a:b", "zfs/x/vol-1"} {
		_, err := parseOperation(bad)
		require.Error(t, err, bad)
	}
}

// withBoth is a location whose backups go to the target and to the archive.
func withBoth() map[string]string {
	config := withTarget()
	config["archive"] = "offsite"
	return config
}

func TestReplicationAction_Progress_targetAndArchive(t *testing.T) {
	t.Parallel()
	const copied = "znvm/k3s/pvc-1@dr-nightly-0f1e2d3c to remote:backup/replica/znvm/k3s/pvc-1"
	const archived = "znvm/k3s/pvc-1@dr-nightly-0f1e2d3c to archive offsite"
	taken := []*agentpb.Version{{Name: "dr-nightly-0f1e2d3c", Guid: 42}}
	began, seen := start.Add(10*time.Second), start.Add(50*time.Second)
	transfer := func(state agentpb.Transfer_State, sent, total uint64) *agentpb.Transfer {
		return &agentpb.Transfer{Id: "t1", State: state, BytesSent: sent, BytesTotal: total, StartedUnixMs: began.UnixMilli(), UpdatedUnixMs: seen.UnixMilli()}
	}
	done, half := transfer(agentpb.Transfer_DONE, 100, 100), transfer(agentpb.Transfer_RUNNING, 40, 80)
	failed := transfer(agentpb.Transfer_FAILED, 40, 80)
	failed.Error = "the store refuses"
	late := transfer(agentpb.Transfer_DONE, 80, 80)
	late.StartedUnixMs, late.UpdatedUnixMs = began.Add(time.Second).UnixMilli(), seen.Add(time.Second).UnixMilli()
	tests := []struct {
		name  string
		agent fakeAgent
		want  velero.OperationProgress
	}{
		{
			name:  "says which waits for what, and sums the bytes",
			agent: fakeAgent{transfer: done, archiving: half},
			want:  velero.OperationProgress{NCompleted: 140, NTotal: 180, Description: "copied " + copied + "; copying " + archived, Updated: seen.Local()},
		},
		{
			name:  "is not complete with the archive alone",
			agent: fakeAgent{transfer: half, archiving: done},
			want:  velero.OperationProgress{NCompleted: 140, NTotal: 180, Description: "copying " + copied + "; copied " + archived, Updated: seen.Local()},
		},
		{
			name:  "completes with both",
			agent: fakeAgent{transfer: done, archiving: late},
			want:  velero.OperationProgress{Completed: true, NCompleted: 180, NTotal: 180, Description: "copied " + copied + "; copied " + archived, Updated: seen.Add(time.Second).Local()},
		},
		{
			name:  "fails with one, and says how far the other is",
			agent: fakeAgent{transfer: half, archiving: failed},
			want:  velero.OperationProgress{Completed: true, NCompleted: 80, NTotal: 160, Description: "copying " + copied, Err: "copy " + archived + ": the store refuses", Updated: seen.Local()},
		},
		{
			name:  "fails for an archive that the agent does not know",
			agent: fakeAgent{transfer: done, archiveErr: status.Error(codes.FailedPrecondition, `no such archive: "offsite"; this node's are: nearby`)},
			want: velero.OperationProgress{
				Completed: true, NCompleted: 100, NTotal: 100, Description: "copied " + copied, Updated: start.Add(time.Minute),
				Err: `archive znvm/k3s/pvc-1@dr-nightly-0f1e2d3c in offsite on node hassio: rpc error: code = FailedPrecondition desc = no such archive: "offsite"; this node's are: nearby`,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.agent.snapshots = taken
			got, err := newAction(t, &tt.agent, snapshotLocation(withBoth())).Progress(openEBSOperation, nightly())
			require.NoError(t, err)
			tt.want.OperationUnits, tt.want.Started = "Bytes", began.Local()
			assert.Equal(t, tt.want, got)
		})
	}

	config := snapshotLocation(map[string]string{"agents": "hassio=h:1"})
	got, err := newAction(t, &fakeAgent{snapshots: taken}, config).Progress(openEBSOperation, nightly())
	require.NoError(t, err)
	assert.True(t, got.Completed)
	assert.Equal(t, "snapshot location zfs has neither target nor archive any more", got.Err)

	both := &fakeAgent{snapshots: taken, transfer: half, archiving: transfer(agentpb.Transfer_RUNNING, 1, 2)}
	both.archiving.Id = "t2"
	require.NoError(t, newAction(t, both, snapshotLocation(withBoth())).Cancel(openEBSOperation, nightly()))
	assert.Equal(t, []string{"t1", "t2"}, both.cancelled)
}
