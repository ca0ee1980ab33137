package build

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

func quiet(string, string) {}

func TestRecipe_Key_DiffersWithEveryInput(t *testing.T) {
	t.Parallel()
	keys := map[string]bool{}
	for _, r := range []recipe{
		{name: "a", inputs: []string{"x", "y"}},
		{name: "a", inputs: []string{"xy"}},
		{name: "a", inputs: []string{"x", "", "y"}},
		{name: "a", inputs: []string{"y", "x"}},
		{name: "a"},
		{name: "b"},
	} {
		keys[r.key()] = true
		assert.Equal(t, r.key(), r.key())
		assert.Regexp(t, `^[ab]-[0-9a-f]{12}$`, r.key())
	}
	assert.Len(t, keys, 6)
}

func TestCache_Ensure_MakesOnceHoweverManyAsk(t *testing.T) {
	t.Parallel()
	c := cache{dir: t.TempDir(), tell: quiet}
	var made atomic.Int32
	r := recipe{name: "thing", make: func(_ context.Context, dir string, _ *os.File) error {
		made.Add(1)
		return os.WriteFile(filepath.Join(dir, "content"), []byte("done"), 0o600)
	}}
	var askers errgroup.Group
	for range 8 {
		askers.Go(func() error {
			dir, err := c.ensure(t.Context(), r)
			if err != nil {
				return err
			}
			_, err = os.Stat(filepath.Join(dir, "content"))
			return err
		})
	}
	require.NoError(t, askers.Wait())
	assert.Equal(t, int32(1), made.Load())
}

func TestCache_Ensure_LeavesNothingOfAFailureButItsLog(t *testing.T) {
	t.Parallel()
	c := cache{dir: t.TempDir(), tell: quiet}
	cause := errors.New("compiler says no")
	r := recipe{name: "thing", make: func(_ context.Context, dir string, log *os.File) error {
		_, err := log.WriteString("undefined: x\n")
		return errors.Join(err, os.WriteFile(filepath.Join(dir, "half"), nil, 0o600), cause)
	}}
	_, err := c.ensure(t.Context(), r)
	require.ErrorIs(t, err, cause)
	assert.ErrorContains(t, err, "undefined: x")
	left, err := filepath.Glob(filepath.Join(c.dir, "*"))
	require.NoError(t, err)
	assert.Equal(t, []string{filepath.Join(c.dir, ".thing.lock"), filepath.Join(c.dir, r.key()+".log")}, left)
}

func TestCache_Ensure_CleansUpAfterKilledBuildersAndOldArtefacts(t *testing.T) {
	t.Parallel()
	c := cache{dir: t.TempDir(), tell: quiet}
	long := time.Now().Add(-2 * unusedFor)
	for name, used := range map[string]time.Time{
		".making-thing-123": long, "thing-000000000000": long, "thing-111111111111": time.Now(),
		"thing-else-000000000000": long,
	} {
		require.NoError(t, os.Mkdir(filepath.Join(c.dir, name), 0o755))
		require.NoError(t, os.Chtimes(filepath.Join(c.dir, name), used, used))
	}
	r := recipe{name: "thing", make: func(context.Context, string, *os.File) error { return nil }}
	_, err := c.ensure(t.Context(), r)
	require.NoError(t, err)
	entries, err := os.ReadDir(c.dir)
	require.NoError(t, err)
	var dirs []string
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, e.Name())
		}
	}
	assert.ElementsMatch(t, []string{r.key(), "thing-111111111111", "thing-else-000000000000"}, dirs)
}

func TestRequired(t *testing.T) {
	t.Parallel()
	const mod = "module m\n\nrequire (\n\tk8s.io/kubernetes v1.36.3 // indirect\n\tk8s.io/kubelet v0.36.3 // indirect\n)\n" +
		"require go.etcd.io/etcd/server/v3 v3.6.1\n"
	version, minor, err := required(mod, "k8s.io/kubernetes")
	require.NoError(t, err)
	assert.Equal(t, []string{"v1.36.3", "36"}, []string{version, minor})
	version, _, err = required(mod, "go.etcd.io/etcd/server/v3")
	require.NoError(t, err)
	assert.Equal(t, "v3.6.1", version)
	_, _, err = required(mod, "k8s.io/kube")
	require.Error(t, err)
}

func TestParts_NameAModuleThatRequiresThem(t *testing.T) {
	t.Parallel()
	for _, p := range slices.Concat(parts, others) {
		mod, err := os.ReadFile(filepath.Join("..", "parts", p.name, "go.mod"))
		require.NoError(t, err)
		_, _, err = required(string(mod), p.module)
		assert.NoError(t, err)
	}
}

func TestPrograms_RefusesUnknownOnes(t *testing.T) {
	t.Parallel()
	_, err := Programs(t.Context(), Options{Cache: t.TempDir()}, "kube-apisrver")
	assert.EqualError(t, err, `no part of the rig has a program "kube-apisrver"`)
}

func TestLoadOrder(t *testing.T) {
	t.Parallel()
	const dep = `kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/char/hw_random/virtio-rng.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/net/other.ko:
`
	order, err := loadOrder(dep, "kernel/fs/ext4/ext4.ko\n", []string{"virtio_rng", "virtio_pci", "ext4"})
	require.NoError(t, err)
	assert.Equal(t, []string{
		"kernel/drivers/virtio/virtio_ring.ko", "kernel/drivers/virtio/virtio.ko",
		"kernel/drivers/char/hw_random/virtio-rng.ko", "kernel/drivers/virtio/virtio_pci.ko",
	}, order)
	_, err = loadOrder(dep, "", []string{"ext4"})
	require.ErrorContains(t, err, "ext4")
}

func TestWriteCPIO(t *testing.T) {
	t.Parallel()
	var archive bytes.Buffer
	require.NoError(t, writeCPIO(&archive, []file{{"modules/a.ko", []byte("12345")}, {"modules/b.ko", nil}, {"init", []byte("x")}}))
	assert.Zero(t, archive.Len()%4)
	assert.Equal(t, 5, strings.Count(archive.String(), "070701"), "the folder, three files, the end")
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		return
	}
	cmd := exec.Command(cpio, "--list", "--quiet")
	cmd.Stdin = &archive
	list, err := cmd.Output()
	require.NoError(t, err)
	assert.Equal(t, "modules\nmodules/a.ko\nmodules/b.ko\ninit\n", string(list))
}

func TestDefaultCache(t *testing.T) {
	t.Setenv(CacheVariable, "")
	t.Setenv("XDG_CACHE_HOME", "/caches")
	dir, err := DefaultCache()
	require.NoError(t, err)
	assert.Equal(t, "/caches/kubectl-dr", dir)
	t.Setenv(CacheVariable, "/elsewhere")
	dir, err = DefaultCache()
	require.NoError(t, err)
	assert.Equal(t, "/elsewhere", dir)
}
