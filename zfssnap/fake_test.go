package zfssnap

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	storagev1api "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/yaml"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// fakeAgent has just enough of a pool: datasets with ordered versions.
type fakeAgent struct {
	mu       sync.Mutex
	down     bool
	lastGUID uint64
	datasets map[string]*agentpb.Dataset
	versions map[string][]*agentpb.Version
	busy     map[uint64]bool // snapshots that can not be destroyed
	full     bool            // no volume can be made
	replicas bool            // the newest of a dataset goes later
	deferred []string        // those that do
	made     []*agentpb.CreateVolumeRequest
	taken    []*agentpb.CreateSnapshotsRequest
	copied   []*agentpb.ReplicateRequest

	archived    []*agentpb.ArchiveRequest
	archiveDown bool
	based       map[uint64]bool // restore points that others are based on
	expired     [][]uint64      // asked to
}

var _ Agent = (*fakeAgent)(nil)

func newFakeAgent(datasets ...*agentpb.Dataset) *fakeAgent {
	a := &fakeAgent{datasets: map[string]*agentpb.Dataset{}, versions: map[string][]*agentpb.Version{}, busy: map[uint64]bool{}}
	for _, d := range datasets {
		a.datasets[d.GetName()] = d
	}
	return a
}

// enter locks the agent, or says that it is down.
func (a *fakeAgent) enter() (leave func(), err error) {
	a.mu.Lock()
	if a.down {
		a.mu.Unlock()
		return nil, status.Error(codes.Unavailable, "connection refused")
	}
	return a.mu.Unlock, nil
}

func (a *fakeAgent) add(dataset string, guid uint64, name string) {
	bookmark := strings.HasPrefix(name, "#")
	a.versions[dataset] = append(a.versions[dataset], &agentpb.Version{
		Dataset: dataset, Guid: guid, Name: strings.TrimPrefix(name, "#"), Bookmark: bookmark, CreatedUnix: 1700000000,
	})
}

func (a *fakeAgent) names(dataset string) (names []string) {
	for _, v := range a.versions[dataset] {
		if v.GetBookmark() {
			names = append(names, "#"+v.GetName())
		} else {
			names = append(names, v.GetName())
		}
	}
	return names
}

func (a *fakeAgent) ResolveDataset(_ context.Context, req *agentpb.ResolveDatasetRequest, _ ...grpc.CallOption) (*agentpb.Dataset, error) {
	leave, err := a.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	for _, d := range a.datasets {
		if d.GetName() == req.GetName() || (req.GetMountpoint() != "" && d.GetMountpoint() == req.GetMountpoint()) {
			return proto.Clone(d).(*agentpb.Dataset), nil
		}
	}
	return nil, status.Error(codes.NotFound, "no such dataset")
}

func (a *fakeAgent) ListVersions(_ context.Context, req *agentpb.ListVersionsRequest, _ ...grpc.CallOption) (*agentpb.ListVersionsResponse, error) {
	leave, err := a.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if _, ok := a.datasets[req.GetDataset()]; !ok {
		return nil, status.Error(codes.NotFound, "no such dataset")
	}
	return &agentpb.ListVersionsResponse{Versions: slices.Clone(a.versions[req.GetDataset()])}, nil
}

func (a *fakeAgent) FindSnapshot(_ context.Context, req *agentpb.FindSnapshotRequest, _ ...grpc.CallOption) (*agentpb.Version, error) {
	leave, err := a.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	for _, versions := range a.versions {
		for _, v := range versions {
			if v.GetGuid() == req.GetGuid() && !v.GetBookmark() {
				return v, nil
			}
		}
	}
	return nil, status.Error(codes.NotFound, "no such snapshot")
}

func (a *fakeAgent) CreateSnapshots(_ context.Context, req *agentpb.CreateSnapshotsRequest, _ ...grpc.CallOption) (*agentpb.CreateSnapshotsResponse, error) {
	leave, err := a.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	a.taken = append(a.taken, req)
	resp := &agentpb.CreateSnapshotsResponse{}
	for _, dataset := range req.GetDatasets() {
		if _, ok := a.datasets[dataset]; !ok {
			return nil, status.Error(codes.NotFound, "no such dataset")
		}
		i := slices.IndexFunc(a.versions[dataset], func(v *agentpb.Version) bool { return v.GetName() == req.GetName() })
		if i < 0 {
			a.lastGUID++
			a.add(dataset, a.lastGUID, req.GetName())
			i = len(a.versions[dataset]) - 1
		}
		resp.Snapshots = append(resp.Snapshots, a.versions[dataset][i])
	}
	return resp, nil
}

func (a *fakeAgent) DestroySnapshot(_ context.Context, req *agentpb.DestroySnapshotRequest, _ ...grpc.CallOption) (*agentpb.DestroySnapshotResponse, error) {
	leave, err := a.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if a.busy[req.GetGuid()] {
		return nil, status.Error(codes.FailedPrecondition, "snapshot has clones")
	}
	if all := a.versions[req.GetDataset()]; a.replicas && len(all) > 0 && all[len(all)-1].GetGuid() == req.GetGuid() {
		a.deferred = append(a.deferred, req.GetName())
		return &agentpb.DestroySnapshotResponse{}, nil
	}
	a.versions[req.GetDataset()] = slices.DeleteFunc(a.versions[req.GetDataset()], func(v *agentpb.Version) bool {
		return v.GetGuid() == req.GetGuid() && v.GetName() == req.GetName() && !v.GetBookmark()
	})
	return &agentpb.DestroySnapshotResponse{}, nil
}

func (a *fakeAgent) SetProperties(_ context.Context, req *agentpb.SetPropertiesRequest, _ ...grpc.CallOption) (*agentpb.Dataset, error) {
	leave, err := a.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	d, ok := a.datasets[req.GetDataset()]
	if !ok {
		return nil, status.Error(codes.NotFound, "no such dataset")
	}
	if d.Properties == nil {
		d.Properties = map[string]string{}
	}
	for name, value := range req.GetProperties() {
		if d.Properties[name] = value; value == "" {
			delete(d.Properties, name)
		}
	}
	return proto.Clone(d).(*agentpb.Dataset), nil
}

func (a *fakeAgent) CreateVolume(_ context.Context, req *agentpb.CreateVolumeRequest, _ ...grpc.CallOption) (*agentpb.Dataset, error) {
	leave, err := a.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	a.made = append(a.made, req)
	if a.full {
		return nil, status.Error(codes.ResourceExhausted, "out of space")
	}
	if d, ok := a.datasets[req.GetDataset()]; ok {
		return d, nil
	}
	dataset, _, _ := strings.Cut(req.GetSnapshot(), "@")
	if req.GetMode() == modeArchive {
		// What is in the archive is of the type that is here.
		dataset = slices.Collect(maps.Keys(a.datasets))[0]
	}
	d := &agentpb.Dataset{
		Name: req.GetDataset(), Type: a.datasets[dataset].GetType(), Origin: req.GetSnapshot(),
		Mountpoint: "legacy", Properties: req.GetProperties(), Native: req.GetNative(),
	}
	if m := req.GetNative()[propMountpoint]; m != "" {
		d.Mountpoint = m
	}
	a.datasets[req.GetDataset()] = d
	return d, nil
}

func (a *fakeAgent) DestroyVolume(_ context.Context, req *agentpb.DestroyVolumeRequest, _ ...grpc.CallOption) (*agentpb.DestroyVolumeResponse, error) {
	leave, err := a.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	d, existed := a.datasets[req.GetDataset()]
	for prop, want := range req.GetMatch() {
		if existed && d.GetProperties()[prop] != want {
			return nil, status.Error(codes.FailedPrecondition, "not the same")
		}
	}
	delete(a.datasets, req.GetDataset())
	return &agentpb.DestroyVolumeResponse{Existed: existed}, nil
}

func (a *fakeAgent) Replicate(_ context.Context, req *agentpb.ReplicateRequest, _ ...grpc.CallOption) (*agentpb.Transfer, error) {
	leave, err := a.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	a.copied = append(a.copied, req)
	return &agentpb.Transfer{Id: "t1", State: agentpb.Transfer_RUNNING}, nil
}

func (a *fakeAgent) Archive(_ context.Context, req *agentpb.ArchiveRequest, _ ...grpc.CallOption) (*agentpb.Transfer, error) {
	leave, err := a.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	a.archived = append(a.archived, req)
	return &agentpb.Transfer{Id: "t2", State: agentpb.Transfer_RUNNING}, nil
}

func (a *fakeAgent) ExpireArchived(_ context.Context, req *agentpb.ExpireArchivedRequest, _ ...grpc.CallOption) (*agentpb.ExpireArchivedResponse, error) {
	leave, err := a.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if a.archiveDown {
		return nil, status.Error(codes.Unavailable, "archive is unavailable")
	}
	a.expired = append(a.expired, req.GetGuids())
	resp := &agentpb.ExpireArchivedResponse{}
	for _, guid := range req.GetGuids() {
		if a.based[guid] {
			resp.Kept = append(resp.Kept, &agentpb.KeptArchived{Guid: guid, Reason: "base of another"})
		}
	}
	return resp, nil
}

func (a *fakeAgent) CancelTransfer(context.Context, *agentpb.GetTransferRequest, ...grpc.CallOption) (*agentpb.Transfer, error) {
	return &agentpb.Transfer{State: agentpb.Transfer_CANCELLED}, nil
}

type fakeAgents map[string]*fakeAgent

func (f fakeAgents) Agent(node string) (Agent, error) {
	a, ok := f[node]
	if !ok {
		return nil, &NoAgentError{Node: node}
	}
	return a, nil
}

func filesystem(name string) *agentpb.Dataset {
	return &agentpb.Dataset{Name: name, Type: typeFilesystem, Mountpoint: "legacy"}
}

// world is a primary node, a DR node and a cluster with one restore in progress.
type world struct {
	agents fakeAgents
	kube   client.Client
	snap   *Snapshotter
}

const volDataset = "znvm/k3s/pvc-1"

func newWorld(t *testing.T, config map[string]string, objs ...client.Object) *world {
	t.Helper()
	scheme := runtime.NewScheme()
	require.NoError(t, velerov1api.AddToScheme(scheme))
	require.NoError(t, storagev1api.AddToScheme(scheme))
	require.NoError(t, corev1api.AddToScheme(scheme))
	scheme.AddKnownTypeWithName(zfsVolumeKind, &unstructured.Unstructured{})
	scheme.AddKnownTypeWithName(schema.GroupVersionKind{Group: zfsVolumeKind.Group, Version: "v1", Kind: "ZFSVolumeList"}, &unstructured.UnstructuredList{})
	w := &world{
		agents: fakeAgents{"hassio": newFakeAgent(filesystem(volDataset)), "remote": newFakeAgent()},
		kube:   fake.NewClientBuilder().WithScheme(scheme).WithObjects(append(objs, backupObject("nightly"))...).Build(),
	}
	log := logrus.New()
	log.SetOutput(t.Output())
	w.snap = &Snapshotter{
		Sites: &Sites{
			Connect: func(Location, []byte) (Agents, error) { return w.agents, nil },
			Kube:    func() (client.Client, error) { return w.kube, nil },
		},
		Namespace: "velero",
		Log:       log,
		Groups:    &Groups{},
	}
	require.NoError(t, w.snap.Init(config))
	return w
}

func (w *world) site(t *testing.T) *Site {
	t.Helper()
	site, err := w.snap.site()
	require.NoError(t, err)
	return site
}

// primaryConfig and drConfig are the two sides' locations.
func primaryConfig() map[string]string {
	return map[string]string{KeyAgents: "hassio=127.0.0.1:31001,remote=127.0.0.1:31002", KeyTarget: "remote", KeyTargetPrefix: "backup/replica"}
}

func drConfig() map[string]string {
	return map[string]string{
		KeyAgents: "remote=127.0.0.1:31002", KeyTargetPrefix: "backup/replica", KeyRestoreNode: "remote",
		KeyRestoreParents: "znvm/k3s=backup/znvm/k3s",
	}
}

const backupUID = "0f1e2d3c-4b5a-4697-8879-6a5b4c3d2e1f"

func backupObject(name string) *velerov1api.Backup {
	return &velerov1api.Backup{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: name, UID: backupUID}}
}

func restoreObject(name string, phase velerov1api.RestorePhase) *velerov1api.Restore {
	return &velerov1api.Restore{
		ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{LabelRun: "run-" + name}},
		Status:     velerov1api.RestoreStatus{Phase: phase},
	}
}

func pvFrom(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	pv := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal([]byte(text), &pv.Object))
	return pv
}

// openEBSPV is a volume as ZFS-LocalPV provisions it.
func openEBSPV(t *testing.T) *unstructured.Unstructured {
	return pvFrom(t, fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata:
  name: %[2]s
  annotations: {pv.kubernetes.io/provisioned-by: zfs.csi.openebs.io}
  finalizers: [kubernetes.io/pv-protection]
spec:
  accessModes: [ReadWriteOnce]
  capacity: {storage: 4Gi}
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: wordpress, name: data}
  csi:
    driver: zfs.csi.openebs.io
    fsType: zfs
    futureField: kept
    volumeAttributes: {openebs.io/cas-type: localpv-zfs, openebs.io/poolname: %[1]s}
    volumeHandle: %[2]s
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions:
        - {key: openebs.io/nodeid, operator: In, values: [hassio]}
  persistentVolumeReclaimPolicy: Delete
  storageClassName: zfs-storage-znvm
  volumeMode: Filesystem
`, path.Dir(volDataset), path.Base(volDataset)))
}
