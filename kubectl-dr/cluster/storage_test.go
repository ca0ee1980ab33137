package cluster

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
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
	_, err = open()
	require.ErrorIs(t, err, ErrNoLocation)
}
