package snapshottertest

import (
	"os"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
	"github.com/vmware-tanzu/velero/pkg/plugin/clientmgmt"
	"github.com/vmware-tanzu/velero/pkg/plugin/clientmgmt/process"
	vsv1 "github.com/vmware-tanzu/velero/pkg/plugin/velero/volumesnapshotter/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Target is an implementation and the storage it works on.
type Target struct {
	// Binary is the path of the built plugin, and Name what it registers its
	// VolumeSnapshotter under.
	Binary, Name string
	// Args are the server's arguments after "server", which a plugin is started
	// with too.
	Args []string
	// Config is a location's spec.config, as the server hands it to Init. Other
	// is a second location of the same provider, which has another view of the
	// same storage.
	Config, Other map[string]string
	// BadConfigs are refused by Init, each with an error that contains its name.
	BadConfigs map[string]map[string]string

	// NewVolume makes a volume of some data and returns the PersistentVolume
	// that describes it.
	NewVolume func(t *testing.T) *unstructured.Unstructured
	// Write and Read reach the data of a volume, also of a restored one.
	Write func(t *testing.T, pv *unstructured.Unstructured, data string)
	Read  func(t *testing.T, pv *unstructured.Unstructured) string
	// Foreign are volumes of other storage, by what they are.
	Foreign map[string]*unstructured.Unstructured
	// Unresolvable, when set, is a volume of this storage that can not be found.
	Unresolvable *unstructured.Unstructured
	// Gone returns the identifier of a volume that was made and is gone.
	Gone func(t *testing.T) string

	// Snapshots lists what snapshots the storage has of a volume, whoever took
	// them; TakeForeign takes one behind the implementation's back.
	Snapshots   func(t *testing.T, pv *unstructured.Unstructured) []string
	TakeForeign func(t *testing.T, pv *unstructured.Unstructured)

	// Tags, when set, lists the values of the tags that the storage keeps with a
	// volume's snapshots.
	Tags func(t *testing.T, pv *unstructured.Unstructured) []string

	// Interrupt, when set, has do called in the midst of what the implementation
	// does next on its storage, after n steps of it. What it returns tells whether
	// it came to that, and do is not called any more.
	Interrupt func(t *testing.T, n int, do func()) (done func() bool)

	// Backup is told of a Backup before each of its snapshots, and DeleteBackup
	// when it has been deleted; Restore of a Restore that begins, which ends the
	// one before. An implementation may look at these objects.
	Backup, DeleteBackup, Restore func(t *testing.T, name string)
}

// server stands for one run of Velero's server: its own plugin process.
type server struct {
	t       *testing.T
	target  *Target
	manager clientmgmt.Manager
}

// start starts a plugin process, which ends with the test.
func start(t *testing.T, target *Target) *server {
	t.Helper()
	args := os.Args
	os.Args = append([]string{target.Binary, "server"}, target.Args...)
	t.Cleanup(func() { os.Args = args })
	log := logrus.New()
	log.SetOutput(t.Output())
	registry := process.NewRegistry(t.TempDir(), log, logrus.DebugLevel)
	require.NoError(t, registry.DiscoverPlugins())
	s := &server{t: t, target: target, manager: clientmgmt.NewManager(log, logrus.DebugLevel, registry)}
	t.Cleanup(s.manager.CleanupClients)
	return s
}

// open dispenses the snapshotter for a location. Velero's side of it is new each
// time; the instance in the plugin is the same.
func (s *server) open(config map[string]string) (vsv1.VolumeSnapshotter, error) {
	s.t.Helper()
	vs, err := s.manager.GetVolumeSnapshotter(s.target.Name)
	require.NoError(s.t, err)
	return vs, vs.Init(config)
}

// snapshotter is open for the target's location.
func (s *server) snapshotter() vsv1.VolumeSnapshotter {
	s.t.Helper()
	vs, err := s.open(s.target.Config)
	require.NoError(s.t, err)
	return vs
}
