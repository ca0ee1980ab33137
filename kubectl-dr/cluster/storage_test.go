package cluster

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"google.golang.org/grpc"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

func TestOpenStorage_goesOnWithoutALocationThatIsBroken(t *testing.T) {
	t.Parallel()
	ca, err := agent.NewAuthority(time.Now())
	require.NoError(t, err)
	bundle, err := ca.Client("kubectl-dr", time.Now())
	require.NoError(t, err)
	scheme := runtime.NewScheme()
	require.NoError(t, corev1api.AddToScheme(scheme))
	require.NoError(t, velerov1api.AddToScheme(scheme))
	location := func(name, agents string) client.Object {
		return &velerov1api.VolumeSnapshotLocation{
			ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: name},
			Spec: velerov1api.VolumeSnapshotLocationSpec{
				Provider:   zfssnap.Provider,
				Config:     map[string]string{"agents": agents},
				Credential: &corev1api.SecretKeySelector{LocalObjectReference: corev1api.LocalObjectReference{Name: "zfs-agent-client"}, Key: "tls.pem"},
			},
		}
	}
	secret := &corev1api.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "zfs-agent-client"}, Data: map[string][]byte{"tls.pem": bundle}}
	open := func(objects ...client.Object) (*Storage, error) {
		c := &Cluster{Client: fake.NewClientBuilder().WithScheme(scheme).WithObjects(append(objects, secret)...).Build(), Namespace: "velero"}
		return c.OpenStorage(t.Context(), AgentOptions{})
	}

	s, err := open(location("good", "remote=remote:7443"), location("bad", "nonsense"))
	require.NoError(t, err)
	require.Len(t, s.Locations, 1)
	assert.Equal(t, "good", s.Locations[0].Name)
	assert.ErrorContains(t, s.Broken["bad"], "open VolumeSnapshotLocation bad: read snapshot location config: agents: ")
	assert.Equal(t, s.Broken, s.Back().Broken)

	_, err = open(location("bad", "nonsense"))
	require.ErrorContains(t, err, "open VolumeSnapshotLocation bad")

	s, err = open()
	require.NoError(t, err, "what needs no agent needs no location")
	assert.False(t, s.Used())
	for _, s := range []*Storage{s, s.Back()} {
		_, err = s.Find(t.Context(), zfssnap.SnapshotID{Node: "hassio", Dataset: "pool/data", Snapshot: "dr-b1", GUID: 1})
		require.ErrorIs(t, err, ErrNoLocation)
		var hint interface{ Hint() string }
		require.ErrorAs(t, err, &hint)
		assert.Contains(t, hint.Hint(), "examples/velero/volumesnapshotlocation.yaml")
	}
	_, err = Examine(t.Context(), s, nil, time.Now)
	require.ErrorIs(t, err, ErrNoLocation)
}

// Where nothing is left, the location is given by hand.
func TestOpenStorage_ofAConfigThatIsGiven(t *testing.T) {
	t.Parallel()
	ca, err := agent.NewAuthority(time.Now())
	require.NoError(t, err)
	bundle, err := ca.Client("kubectl-dr", time.Now())
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "kubectl-dr.pem")
	require.NoError(t, os.WriteFile(file, bundle, 0o600))
	c := &Cluster{Client: fake.NewClientBuilder().WithScheme(runtime.NewScheme()).Build(), Namespace: "velero"}
	config := map[string]string{"agents": "remote=remote:7443", "restoreNode": "remote"}

	s, err := c.OpenStorage(t.Context(), AgentOptions{Config: config, Credentials: file})
	require.NoError(t, err, "Velero need not be installed")
	require.Len(t, s.Locations, 1)
	assert.Equal(t, []string{"remote"}, s.Locations[0].RecoveryNodes())

	_, err = c.OpenStorage(t.Context(), AgentOptions{Config: config})
	var hint interface{ Hint() string }
	require.ErrorAs(t, err, &hint)
	assert.Contains(t, hint.Hint(), "--agent-credentials")
}

// having answers for the agents of nodes that have a snapshot.
type having []string

type finder struct {
	Agent
	has bool
}

func (h having) Agent(node string) (Agent, error) {
	return finder{has: slices.Contains(h, node)}, nil
}

func (f finder) FindSnapshot(context.Context, *agentpb.FindSnapshotRequest, ...grpc.CallOption) (*agentpb.Version, error) {
	if !f.has {
		return nil, agent.ErrNotFound
	}
	return &agentpb.Version{Dataset: "pool/data", Name: "dr-b1"}, nil
}

func TestFind_isNotContentWithTheOriginal(t *testing.T) {
	t.Parallel()
	location := func(config map[string]string, nodes ...string) Location {
		config["agents"] = "hassio=hassio:7443,remote=remote:7443"
		l, err := zfssnap.ParseLocation(config)
		require.NoError(t, err)
		return Location{Location: l, Agents: having(nodes)}
	}
	alone := location(map[string]string{}, "hassio", "remote")
	forth := func(nodes ...string) Location {
		return location(map[string]string{"target": "remote", "targetPrefix": "backup/replica"}, nodes...)
	}
	both := func(nodes ...string) Location {
		return location(map[string]string{
			"target": "remote", "targetPrefix": "backup/replica", "failbackTarget": "hassio", "failbackPrefix": "replica",
			"restoreParents": "znvm=backup/znvm",
		}, nodes...)
	}
	tests := []struct {
		name      string
		locations []Location
		back      bool
		taken     string // on this node
		want      string
	}{
		{"on the target", []Location{alone, forth("hassio", "remote")}, false, "hassio", "remote"},
		{"not on the target yet", []Location{alone, forth("hassio")}, false, "hassio", ""},
		{"where there is one place only", []Location{alone}, false, "hassio", "hassio"},
		{"where copies go", []Location{forth("hassio", "remote")}, false, "remote", ""},
		{"on the way back", []Location{alone, both("hassio", "remote")}, true, "remote", "hassio"},
		{"on the way back, not there yet", []Location{alone, both("remote")}, true, "remote", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &Storage{Locations: tt.locations, back: tt.back}
			found, err := s.Find(t.Context(), zfssnap.SnapshotID{Node: tt.taken, Dataset: "pool/data", Snapshot: "dr-b1", GUID: 1})
			if tt.want == "" {
				require.ErrorIs(t, err, ErrNoCopy)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, found.Node)
		})
	}
}
