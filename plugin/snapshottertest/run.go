package snapshottertest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware-tanzu/velero/pkg/plugin/framework"
	vsv1 "github.com/vmware-tanzu/velero/pkg/plugin/velero/volumesnapshotter/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Run checks an implementation. Every check has volumes and backups of its own;
// the process is one for all, as it is for a server's many backups.
func Run(t *testing.T, target Target) {
	server := start(t, &target)
	for _, check := range checks {
		t.Run(check.name, func(t *testing.T) {
			check.run(&suite{T: t, Target: &target, server: server, check: strings.ReplaceAll(check.name, " ", "-")})
		})
	}
}

// suite is what one check has to work with.
type suite struct {
	*testing.T
	*Target
	server *server
	check  string
}

// backup makes a Backup and returns the tags that the server hands on for it.
func (s *suite) backup(name string) map[string]string {
	s.Helper()
	s.Backup(s.T, name)
	return map[string]string{
		"velero.io/backup": name, "velero.io/pv": "pv", "velero.io/schedule-name": "nightly",
		"velero.io/storage-location": "default", "Example.com/Team": "blog",
	}
}

// name is one of the check's own.
func (s *suite) name(suffix string) string { return strings.ToLower(s.check) + "-" + suffix }

// id is the identifier of a volume.
func (s *suite) id(vs vsv1.VolumeSnapshotter, pv *unstructured.Unstructured) string {
	s.Helper()
	id, err := vs.GetVolumeID(pv)
	require.NoError(s, err)
	require.NotEmpty(s, id, "the volume is this implementation's")
	return id
}

// snapshot takes one of a volume.
func (s *suite) snapshot(vs vsv1.VolumeSnapshotter, pv *unstructured.Unstructured, backup string) string {
	s.Helper()
	snapshot, err := vs.CreateSnapshot(s.id(vs, pv), "", s.backup(backup))
	require.NoError(s, err)
	require.NotEmpty(s, snapshot)
	return snapshot
}

// restore makes a volume as the server does.
func (s *suite) restore(vs vsv1.VolumeSnapshotter, pv *unstructured.Unstructured, snapshot, volumeType string) *unstructured.Unstructured {
	s.Helper()
	id, err := vs.CreateVolumeFromSnapshot(snapshot, volumeType, "", nil)
	require.NoError(s, err)
	require.NotEmpty(s, id)
	out, err := vs.SetVolumeID(pv.DeepCopy(), id)
	require.NoError(s, err)
	restored, ok := out.(*unstructured.Unstructured)
	require.True(s, ok, "it is an *unstructured.Unstructured, as the server asserts")
	assert.Equal(s, id, s.id(vs, restored), "the object leads to the volume that was made")
	return restored
}

func (s *suite) typeOf(vs vsv1.VolumeSnapshotter, pv *unstructured.Unstructured) string {
	s.Helper()
	volumeType, iops, err := vs.GetVolumeInfo(s.id(vs, pv), "")
	require.NoError(s, err)
	if iops != nil {
		assert.NotZero(s, *iops, "the server can not tell zero from none")
	}
	return volumeType
}

var checks = []struct {
	name string
	run  func(*suite)
}{
	{"stdout carries the handshake alone", func(s *suite) {
		// The server reads the first line and gives up on anything else.
		cmd := exec.Command(s.Binary, append([]string{"server"}, s.Args...)...)
		cmd.Env = append(os.Environ(), framework.Handshake().MagicCookieKey+"="+framework.Handshake().MagicCookieValue)
		stdout, err := cmd.StdoutPipe()
		require.NoError(s, err)
		require.NoError(s, cmd.Start())
		line, err := bufio.NewReader(stdout).ReadString('\n')
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		require.NoError(s, err)
		assert.Regexp(s, `^1\|2\|(unix|tcp)\|[^|]+\|grpc\|`, line)
	}},
	{"a location is initialised again and again", func(s *suite) {
		// Once for each backup, and for each volume on restore.
		for range 3 {
			vs := s.server.snapshotter()
			assert.NotEmpty(s, s.id(vs, s.NewVolume(s.T)))
		}
	}},
	{"a bad config is refused", func(s *suite) {
		for name, config := range s.BadConfigs {
			_, err := s.server.open(config)
			require.ErrorContains(s, err, name)
		}
		assert.NotEmpty(s, s.id(s.server.snapshotter(), s.NewVolume(s.T)), "a good one works afterwards")
	}},
	{"locations share a process", func(s *suite) {
		// Deleting a backup initialises all its locations before it deletes the
		// first snapshot, and the plugin has one instance for all.
		vs := s.server.snapshotter()
		pv := s.NewVolume(s.T)
		snapshot := s.snapshot(vs, pv, s.name("b"))
		_, err := s.server.open(s.Other)
		require.NoError(s, err)
		require.NoError(s, vs.DeleteSnapshot(snapshot))
		assert.Empty(s, s.Snapshots(s.T, pv))
	}},
	{"locations are initialised while others work", func(s *suite) {
		// With --concurrent-backups and --item-block-worker-count above 1.
		pv := s.NewVolume(s.T)
		var names []map[string]string
		for i := range 8 {
			names = append(names, s.backup(s.name(strconv.Itoa(i))))
		}
		var wg sync.WaitGroup
		for i := range 8 {
			config := s.Config
			if i%2 == 1 {
				config = s.Other
			}
			vs, err := s.server.manager.GetVolumeSnapshotter(s.Name)
			require.NoError(s, err)
			wg.Go(func() {
				if err := vs.Init(config); !assert.NoError(s, err) {
					return
				}
				id, err := vs.GetVolumeID(pv)
				assert.NoError(s, err)
				snapshot, err := vs.CreateSnapshot(id, "", names[i])
				assert.NoError(s, err)
				assert.NoError(s, vs.DeleteSnapshot(snapshot))
			})
		}
		wg.Wait()
		assert.Empty(s, s.Snapshots(s.T, pv))
	}},
	{"a foreign volume is left to others", func(s *suite) {
		// "" without an error lets the server ask the next location.
		vs := s.server.snapshotter()
		for what, pv := range s.Foreign {
			id, err := vs.GetVolumeID(pv)
			require.NoError(s, err, what)
			assert.Empty(s, id, what)
		}
	}},
	{"a volume is known whatever its state", func(s *suite) {
		vs := s.server.snapshotter()
		pv := s.NewVolume(s.T)
		want := s.id(vs, pv)
		for _, phase := range []string{"Available", "Bound", "Released", "Failed"} {
			other := pv.DeepCopy()
			require.NoError(s, unstructured.SetNestedField(other.Object, phase, "status", "phase"))
			assert.Equal(s, want, s.id(vs, other), phase)
		}
		unbound := pv.DeepCopy()
		unstructured.RemoveNestedField(unbound.Object, "spec", "claimRef")
		assert.Equal(s, want, s.id(vs, unbound), "without a claim")
	}},
	{"a volume that can not be found fails its backup", func(s *suite) {
		// An error of GetVolumeID is only logged, and the backup Completed without
		// the volume. Errors of what follows count.
		if s.Unresolvable == nil {
			return
		}
		vs := s.server.snapshotter()
		id, err := vs.GetVolumeID(s.Unresolvable)
		require.NoError(s, err)
		require.NotEmpty(s, id)
		_, _, errInfo := vs.GetVolumeInfo(id, "")
		_, errSnapshot := vs.CreateSnapshot(id, "", s.backup(s.name("b")))
		require.Error(s, errors.Join(errInfo, errSnapshot))
	}},
	{"a snapshot is taken once for a backup", func(s *suite) {
		// The server may visit a volume twice, and a user repeat a backup.
		vs := s.server.snapshotter()
		a, b := s.NewVolume(s.T), s.NewVolume(s.T)
		first := s.snapshot(vs, a, s.name("1"))
		assert.Equal(s, first, s.snapshot(vs, a, s.name("1")))
		assert.NotEqual(s, first, s.snapshot(vs, b, s.name("1")), "of another volume")
		assert.NotEqual(s, first, s.snapshot(vs, a, s.name("2")), "for another backup")
		assert.Len(s, s.Snapshots(s.T, a), 2)
		assert.Len(s, s.Snapshots(s.T, b), 1)
	}},
	{"a snapshot says what it was taken for", func(s *suite) {
		// Whoever looks at the storage has to know whose a snapshot is.
		if s.Tags == nil {
			return
		}
		vs := s.server.snapshotter()
		pv := s.NewVolume(s.T)
		tags := s.backup(s.name("b"))
		_, err := vs.CreateSnapshot(s.id(vs, pv), "", tags)
		require.NoError(s, err)
		assert.Subset(s, s.Tags(s.T, pv), slices.Collect(maps.Values(tags)))
	}},
	{"any name of a backup will do", func(s *suite) {
		// Names of objects have up to 253 characters, and dots.
		vs := s.server.snapshotter()
		pv := s.NewVolume(s.T)
		long := strings.Repeat("a", 252)
		seen := map[string]string{}
		for _, name := range []string{"with.dots.in-it", "with-dots.in.it", long + "x", long + "y", "UPPER_case", "ümläut-и-日本", "with space@and#hash", "-leading.-dash"} {
			snapshot := s.snapshot(vs, pv, name)
			assert.NotContains(s, seen, snapshot, "%s and %s", name, seen[snapshot])
			seen[snapshot] = name
		}
		for snapshot, name := range seen {
			require.NoError(s, vs.DeleteSnapshot(snapshot), name)
		}
		assert.Empty(s, s.Snapshots(s.T, pv))
	}},
	{"a snapshot that fails leaves nothing", func(s *suite) {
		vs := s.server.snapshotter()
		gone := s.Gone(s.T)
		// The server asks for no snapshot after an error of the first.
		_, _, _ = vs.GetVolumeInfo(gone, "")
		_, err := vs.CreateSnapshot(gone, "", s.backup(s.name("b")))
		require.Error(s, err)
	}},
	{"an identifier is enough", func(s *suite) {
		// A snapshot is deleted and restored by a server that was started later,
		// or by one of another cluster.
		pv := s.NewVolume(s.T)
		s.Write(s.T, pv, "data")
		first := start(s.T, s.Target)
		vs := first.snapshotter()
		volumeType := s.typeOf(vs, pv)
		snapshot := s.snapshot(vs, pv, s.name("b"))
		first.manager.CleanupClients()
		later := start(s.T, s.Target).snapshotter()
		s.Restore(s.T, s.name("r"))
		assert.Equal(s, "data", s.Read(s.T, s.restore(later, pv, snapshot, volumeType)))
		require.NoError(s, later.DeleteSnapshot(snapshot))
	}},
	{"a restored volume is what was snapshotted", func(s *suite) {
		vs := s.server.snapshotter()
		pv := s.NewVolume(s.T)
		s.Write(s.T, pv, "then")
		volumeType := s.typeOf(vs, pv)
		snapshot := s.snapshot(vs, pv, s.name("b"))
		s.Write(s.T, pv, "now")
		s.Restore(s.T, s.name("r"))
		restored := s.restore(vs, pv, snapshot, volumeType)
		assert.Equal(s, "then", s.Read(s.T, restored))
		s.Write(s.T, restored, "changed")
		assert.Equal(s, "changed", s.Read(s.T, restored), "it can be written to")
		assert.Equal(s, "now", s.Read(s.T, pv), "and its source is as it was")
	}},
	{"restoring again finds the volume", func(s *suite) {
		vs := s.server.snapshotter()
		pv := s.NewVolume(s.T)
		volumeType := s.typeOf(vs, pv)
		snapshot := s.snapshot(vs, pv, s.name("b"))
		s.Restore(s.T, s.name("1"))
		first := s.id(vs, s.restore(vs, pv, snapshot, volumeType))
		assert.Equal(s, first, s.id(vs, s.restore(vs, pv, snapshot, volumeType)), "within a restore")
		s.Restore(s.T, s.name("2"))
		assert.NotEqual(s, first, s.id(vs, s.restore(vs, pv, snapshot, volumeType)), "another restore has its own")
	}},
	{"what the server does not know of stays", func(s *suite) {
		vs := s.server.snapshotter()
		pv := s.NewVolume(s.T)
		pv.SetLabels(map[string]string{"example.com/kept": "yes"})
		require.NoError(s, unstructured.SetNestedField(pv.Object, "kept", "spec", "fieldOfTheFuture"))
		require.NoError(s, unstructured.SetNestedField(pv.Object, int64(7), "spec", "numberOfTheFuture"))
		text, err := json.Marshal(pv.Object)
		require.NoError(s, err)
		fromBackup := &unstructured.Unstructured{}
		require.NoError(s, fromBackup.UnmarshalJSON(text))
		snapshot := s.snapshot(vs, pv, s.name("b"))
		s.Restore(s.T, s.name("r"))
		restored := s.restore(vs, fromBackup, snapshot, s.typeOf(vs, pv))
		assert.Equal(s, "yes", restored.GetLabels()["example.com/kept"])
		for _, field := range []string{"fieldOfTheFuture", "numberOfTheFuture", "claimRef", "capacity", "accessModes", "storageClassName"} {
			want, _, _ := unstructured.NestedFieldNoCopy(fromBackup.Object, "spec", field)
			got, _, _ := unstructured.NestedFieldNoCopy(restored.Object, "spec", field)
			assert.Equal(s, want, got, field)
		}
	}},
	{"a snapshot that was never taken", func(s *suite) {
		// The server deletes and restores failed snapshots too, which have no
		// identifier.
		vs := s.server.snapshotter()
		require.NoError(s, vs.DeleteSnapshot(""))
		s.Restore(s.T, s.name("r"))
		_, err := vs.CreateVolumeFromSnapshot("", "", "", nil)
		require.Error(s, err)
	}},
	{"an identifier of another is refused", func(s *suite) {
		vs := s.server.snapshotter()
		s.Restore(s.T, s.name("r"))
		for _, id := range []string{"snap-0123456789abcdef0", "garbage", "a:b:c:d", "../../etc"} {
			require.Error(s, vs.DeleteSnapshot(id), id)
			_, err := vs.CreateVolumeFromSnapshot(id, "", "", nil)
			require.Error(s, err, id)
			_, _, err = vs.GetVolumeInfo(id, "")
			require.Error(s, err, id)
		}
	}},
	{"deleting is repeated", func(s *suite) {
		// A deletion that failed in part is tried again in whole.
		vs := s.server.snapshotter()
		pv := s.NewVolume(s.T)
		snapshot := s.snapshot(vs, pv, s.name("b"))
		for range 3 {
			require.NoError(s, vs.DeleteSnapshot(snapshot))
		}
		assert.Empty(s, s.Snapshots(s.T, pv))
	}},
	{"deleting leaves what was restored", func(s *suite) {
		// Backups expire while volumes restored from them are in use.
		vs := s.server.snapshotter()
		pv := s.NewVolume(s.T)
		s.Write(s.T, pv, "data")
		snapshot := s.snapshot(vs, pv, s.name("b"))
		s.Restore(s.T, s.name("r"))
		restored := s.restore(vs, pv, snapshot, s.typeOf(vs, pv))
		require.NoError(s, vs.DeleteSnapshot(snapshot))
		require.NoError(s, vs.DeleteSnapshot(snapshot))
		assert.Equal(s, "data", s.Read(s.T, restored))
		assert.Equal(s, "data", s.Read(s.T, pv))
	}},
	{"a backup may have the name of one that was deleted", func(s *suite) {
		vs := s.server.snapshotter()
		pv := s.NewVolume(s.T)
		s.Write(s.T, pv, "old")
		volumeType := s.typeOf(vs, pv)
		snapshot := s.snapshot(vs, pv, s.name("b"))
		s.Restore(s.T, s.name("1"))
		s.restore(vs, pv, snapshot, volumeType) // which may keep the snapshot
		require.NoError(s, vs.DeleteSnapshot(snapshot))
		s.DeleteBackup(s.T, s.name("b"))
		s.Write(s.T, pv, "new")
		snapshot = s.snapshot(vs, pv, s.name("b"))
		s.Restore(s.T, s.name("2"))
		assert.Equal(s, "new", s.Read(s.T, s.restore(vs, pv, snapshot, volumeType)))
	}},
	{"others' snapshots are never deleted", func(s *suite) {
		vs := s.server.snapshotter()
		pv := s.NewVolume(s.T)
		s.TakeForeign(s.T, pv)
		foreign := s.Snapshots(s.T, pv)
		require.Len(s, foreign, 1)
		snapshot := s.snapshot(vs, pv, s.name("b"))
		require.NoError(s, vs.DeleteSnapshot(snapshot))
		assert.Equal(s, foreign, s.Snapshots(s.T, pv))
	}},
	{"snapshots are deleted in any order", func(s *suite) {
		vs := s.server.snapshotter()
		pv := s.NewVolume(s.T)
		var snapshots []string
		for i := range 4 {
			snapshots = append(snapshots, s.snapshot(vs, pv, s.name(strconv.Itoa(i))))
		}
		for _, i := range []int{2, 0, 3, 1} {
			require.NoError(s, vs.DeleteSnapshot(snapshots[i]))
		}
		assert.Empty(s, s.Snapshots(s.T, pv))
	}},
	{"a process that dies is started again", func(s *suite) {
		vs := s.server.snapshotter()
		pv := s.NewVolume(s.T)
		snapshot := s.snapshot(vs, pv, s.name("b"))
		s.kill(vs, pv)
		assert.Equal(s, snapshot, s.snapshot(vs, pv, s.name("b")), "and what it took is found again")
		s.kill(vs, pv)
		require.NoError(s, vs.DeleteSnapshot(snapshot))
	}},
	{"a process that dies in a call leaves nothing that is in the way", func(s *suite) {
		// The server takes the call for failed. A user repeats what it was for.
		for _, call := range calls {
			s.Run(call.name, func(t *testing.T) {
				c := *s
				c.T = t
				c.interrupted(call.prepare)
			})
		}
	}},
}

// calls are those that reach the storage. Each is prepared with a volume of its
// own, and returns what has to hold after it has been made.
var calls = []struct {
	name    string
	prepare func(s *suite, vs vsv1.VolumeSnapshotter, name string) (call func() error, holds func())
}{
	{"GetVolumeInfo", func(s *suite, vs vsv1.VolumeSnapshotter, _ string) (func() error, func()) {
		pv := s.NewVolume(s.T)
		id := s.id(vs, pv)
		return func() error {
			_, _, err := vs.GetVolumeInfo(id, "")
			return err
		}, func() { assert.Empty(s, s.Snapshots(s.T, pv)) }
	}},
	{"CreateSnapshot", func(s *suite, vs vsv1.VolumeSnapshotter, name string) (func() error, func()) {
		pv := s.NewVolume(s.T)
		id, tags, snapshot := s.id(vs, pv), s.backup(name), ""
		return func() (err error) {
				snapshot, err = vs.CreateSnapshot(id, "", tags)
				return err
			}, func() {
				assert.Len(s, s.Snapshots(s.T, pv), 1)
				require.NoError(s, vs.DeleteSnapshot(snapshot))
				assert.Empty(s, s.Snapshots(s.T, pv))
			}
	}},
	{"CreateVolumeFromSnapshot", func(s *suite, vs vsv1.VolumeSnapshotter, name string) (func() error, func()) {
		pv := s.NewVolume(s.T)
		s.Write(s.T, pv, "data")
		volumeType, snapshot := s.typeOf(vs, pv), s.snapshot(vs, pv, name)
		s.Restore(s.T, name)
		return func() error {
			_, err := vs.CreateVolumeFromSnapshot(snapshot, volumeType, "", nil)
			return err
		}, func() { assert.Equal(s, "data", s.Read(s.T, s.restore(vs, pv, snapshot, volumeType))) }
	}},
	{"SetVolumeID", func(s *suite, vs vsv1.VolumeSnapshotter, name string) (func() error, func()) {
		pv := s.NewVolume(s.T)
		s.Write(s.T, pv, "data")
		volumeType, snapshot := s.typeOf(vs, pv), s.snapshot(vs, pv, name)
		s.Restore(s.T, name)
		id, err := vs.CreateVolumeFromSnapshot(snapshot, volumeType, "", nil)
		require.NoError(s, err)
		var restored *unstructured.Unstructured
		return func() error {
			described, err := vs.SetVolumeID(pv.DeepCopy(), id)
			if err == nil {
				restored = &unstructured.Unstructured{Object: described.UnstructuredContent()}
			}
			return err
		}, func() { assert.Equal(s, "data", s.Read(s.T, restored)) }
	}},
	{"DeleteSnapshot", func(s *suite, vs vsv1.VolumeSnapshotter, name string) (func() error, func()) {
		pv := s.NewVolume(s.T)
		snapshot := s.snapshot(vs, pv, name)
		return func() error { return vs.DeleteSnapshot(snapshot) }, func() { assert.Empty(s, s.Snapshots(s.T, pv)) }
	}},
}

// interrupted makes a call again and again, each time killed one step later,
// until it is made whole.
func (s *suite) interrupted(prepare func(*suite, vsv1.VolumeSnapshotter, string) (func() error, func())) {
	s.Helper()
	if s.Interrupt == nil {
		return
	}
	vs := s.server.snapshotter()
	for n, whole := 0, false; !whole; n++ {
		call, holds := prepare(s, vs, s.name(strconv.Itoa(n)))
		interrupted := s.Interrupt(s.T, n, s.killProcesses)
		err := call()
		if whole = !interrupted(); !whole {
			s.awaitProcess(vs, s.NewVolume(s.T))
			err = call()
		}
		require.NoError(s, err, "killed after %d steps", n)
		holds()
	}
}

// kill ends the plugin processes of this one, and waits for another.
func (s *suite) kill(vs vsv1.VolumeSnapshotter, pv *unstructured.Unstructured) {
	s.Helper()
	s.killProcesses()
	s.awaitProcess(vs, pv)
}

// awaitProcess waits until the server has started another process: a call that
// comes before it noticed that one has died fails.
func (s *suite) awaitProcess(vs vsv1.VolumeSnapshotter, pv *unstructured.Unstructured) {
	s.Helper()
	require.Eventually(s, func() bool {
		_, err := vs.GetVolumeID(pv)
		return err == nil
	}, 2*time.Minute, 100*time.Millisecond)
}

// killProcesses returns when they are gone. It is called from other goroutines too,
// so it does not end the test.
func (s *suite) killProcesses() {
	s.Helper()
	var killed []string
	parent := regexp.MustCompile(fmt.Sprintf(`\) \S %d `, os.Getpid()))
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	assert.NoError(s, err)
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil || !parent.Match(stat) {
			continue
		}
		exe, err := os.Readlink(filepath.Join(filepath.Dir(file), "exe"))
		if err != nil || exe != s.Binary {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		assert.NoError(s, err)
		if assert.NoError(s, syscall.Kill(pid, syscall.SIGKILL)) {
			killed = append(killed, filepath.Join(filepath.Dir(file), "exe"))
		}
	}
	for _, exe := range killed {
		assert.Eventually(s, func() bool {
			_, err := os.Readlink(exe)
			return err != nil
		}, time.Minute, 10*time.Millisecond)
	}
	assert.NotEmpty(s, killed, "there was a process of %s", s.Binary)
}
