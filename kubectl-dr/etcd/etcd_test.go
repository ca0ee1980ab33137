package etcd

import (
	"context"
	"encoding/base64"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
)

var now = time.Date(2026, 3, 4, 3, 0, 0, 0, time.UTC)

// member is a real etcd over a folder, which is made when it is not there.
type member struct {
	*clientv3.Client
	Server
	server *embed.Etcd
}

func start(t *testing.T, dir string) *member {
	t.Helper()
	config := embed.NewConfig()
	config.Dir, config.LogLevel, config.Logger = dir, "panic", "zap"
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	local, err := url.Parse("http://127.0.0.1:0")
	require.NoError(t, err)
	config.ListenClientUrls, config.ListenPeerUrls = []url.URL{*local}, []url.URL{*local}
	server, err := embed.StartEtcd(config)
	require.NoError(t, err)
	t.Cleanup(server.Close)
	select {
	case <-server.Server.ReadyNotify():
	case <-t.Context().Done():
		require.Fail(t, "etcd is not ready")
	}
	endpoint := "http://" + server.Clients[0].Addr().String()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return &member{client, Server{Endpoint: endpoint}, server}
}

func (m *member) put(t *testing.T, keysAndValues ...string) {
	t.Helper()
	for i := 0; i < len(keysAndValues); i += 2 {
		_, err := m.Put(t.Context(), keysAndValues[i], keysAndValues[i+1])
		require.NoError(t, err)
	}
}

func (m *member) all(t *testing.T) map[string]string {
	t.Helper()
	got, err := m.Get(t.Context(), "/", clientv3.WithPrefix())
	require.NoError(t, err)
	all := map[string]string{}
	for _, kv := range got.Kvs {
		all[string(kv.Key)] = string(kv.Value)
	}
	return all
}

const (
	web    = "/registry/deployments/web/web"
	gone   = "/registry/configmaps/web/gone"
	secret = "/registry/secrets/web/db"
	event  = "/registry/events/web/e1"
)

func filled(t *testing.T) *member {
	m := start(t, t.TempDir())
	m.put(t, web, "v1", gone, "x", web, "v2", secret, "k8s:enc:aescbc:v1:key1:\x01\x02\x03", event, "noise")
	_, err := m.Delete(t.Context(), gone)
	require.NoError(t, err)
	return m
}

func take(t *testing.T, m *member, config *EncryptionConfig) (string, *report.EtcdSnapshot) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "etcd-monday.db")
	s, err := Take(t.Context(), m.Server, file, config, now)
	require.NoError(t, err)
	return file, s
}

func TestTake(t *testing.T) {
	t.Parallel()
	m := filled(t)
	file, s := take(t, m, nil)
	assert.Equal(t, "etcd-monday", s.Name)
	assert.Equal(t, 3, s.Keys, "a deleted key and earlier values do not count")
	assert.Equal(t, []report.EtcdEncryption{{Provider: "aescbc", Name: "key1", Values: 1}}, s.Encryption)
	assert.True(t, strings.HasPrefix(s.ServerVersion, "3."), s.ServerVersion)
	assert.Equal(t, now, s.TakenAt.Time)
	for _, name := range []string{file, ManifestFile(file)} {
		info, err := os.Stat(name)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it holds every Secret")
	}
	_, err := Take(t.Context(), m.Server, file, nil, now)
	require.ErrorContains(t, err, "is there already", "a snapshot is never overwritten")
}

func TestTake_fromNobody(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "s.db")
	_, err := Take(t.Context(), Server{Endpoint: "http://127.0.0.1:1", DialTimeout: 200 * time.Millisecond}, file, nil, now)
	require.ErrorContains(t, err, "snapshot etcd at http://127.0.0.1:1")
	assert.NoFileExists(t, file)
	_, err = Take(t.Context(), Server{Endpoint: "https://127.0.0.1:1", CA: "nope.pem"}, file, nil, now)
	require.ErrorContains(t, err, "read certificates")
}

func TestRestore(t *testing.T) {
	t.Parallel()
	m := filled(t)
	file, s := take(t, m, nil)
	want := m.all(t)
	m.put(t, web, "after")

	dir := filepath.Join(t.TempDir(), "etcd")
	member := Member{Name: "default", DataDir: dir, PeerURL: "http://localhost:2380", Token: "new", BumpRevision: 1000}
	restored, err := Restore(file, member, nil)
	require.NoError(t, err)
	assert.Equal(t, s.SHA256, restored.SHA256)

	again := start(t, dir)
	assert.Equal(t, want, again.all(t))
	got, err := again.Get(t.Context(), web)
	require.NoError(t, err)
	assert.Greater(t, got.Header.Revision, s.Revision+999, "nobody takes it for the past")

	_, err = Restore(file, member, nil)
	require.ErrorContains(t, err, dir+" is not empty", "data are never overwritten")

	second, _ := take(t, again, nil)
	r, err := Diff(file, second, "/registry/", Volatile)
	require.NoError(t, err)
	assert.Empty(t, r.Objects)
	assert.Equal(t, 2, r.Compared)
}

func TestDiff(t *testing.T) {
	t.Parallel()
	m := filled(t)
	before, _ := take(t, m, nil)
	m.put(t, web, "v3", "/registry/configmaps/web/new", "x", event, "other noise", "/elsewhere", "x")
	_, err := m.Delete(t.Context(), secret)
	require.NoError(t, err)
	after, _ := take(t, m, nil)

	r, err := Diff(before, after, "/registry/", Volatile)
	require.NoError(t, err)
	assert.Equal(t, []report.ObjectDifference{
		{Kind: "Key", Name: "/registry/configmaps/web/new", Difference: report.Surplus},
		{Kind: "Key", Name: web, Difference: report.Drifted},
		{Kind: "Key", Name: secret, Difference: report.Missing},
	}, r.Objects)
	assert.Equal(t, [4]int{2, 1, 1, 1}, [4]int{r.Compared, r.Missing, r.Surplus, r.Drifted})
	assert.Equal(t, report.Problem, r.State)

	all, err := Diff(before, after, "/", nil)
	require.NoError(t, err)
	assert.Len(t, all.Objects, 5)
}

func TestVerify(t *testing.T) {
	t.Parallel()
	m := filled(t)
	key := func(name, secret string) string {
		return "    - aescbc: {keys: [{name: " + name + ", secret: " + base64.StdEncoding.EncodeToString([]byte(secret)) + "}]}\n    - identity: {}\n"
	}
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n"
	config := func(t *testing.T, text string) *EncryptionConfig {
		file := filepath.Join(t.TempDir(), "encryption.yaml")
		require.NoError(t, os.WriteFile(file, []byte(head+text), 0o600))
		c, err := ReadEncryptionConfig(file)
		require.NoError(t, err)
		return c
	}
	right := config(t, key("key1", "right"))
	tests := []struct {
		name   string
		spoil  func(t *testing.T, file string)
		config *EncryptionConfig
		want   report.State
		says   string
	}{
		{"that is whole, with the right key", nil, right, report.OK, "needed by 1 value, and the configuration has it"},
		{"without a configuration", nil, nil, report.Warning, "no configuration was given"},
		{"without the key", nil, config(t, key("key2", "right")), report.Problem, "the configuration lacks it"},
		{"with another key of that name", nil, config(t, key("key1", "wrong")), report.Problem, "another key of that name"},
		{"without a manifest", func(t *testing.T, file string) {
			require.NoError(t, os.Remove(ManifestFile(file)))
		}, right, report.Warning, "whether this is what was taken is not known"},
		{"of another manifest", func(t *testing.T, file string) {
			data, err := os.ReadFile(ManifestFile(file))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(ManifestFile(file), []byte(strings.Replace(string(data), `"sha256": "`, `"sha256": "0`, 1)), 0o600))
		}, right, report.Problem, "was taken with 0"},
		{"that was cut off", func(t *testing.T, file string) { require.NoError(t, os.Truncate(file, 9000)) }, right, report.Problem, "read "},
		{"that is something else", func(t *testing.T, file string) {
			require.NoError(t, os.WriteFile(file, []byte("hello"), 0o600))
		}, right, report.Problem, "as a snapshot of etcd"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file, _ := take(t, m, right)
			if tt.spoil != nil {
				tt.spoil(t, file)
			}
			_, group, err := Verify(file, tt.config)
			require.NoError(t, err)
			worst, said := report.OK, ""
			for _, item := range group.Items {
				worst = report.Worse(worst, item.State)
				said += item.Message + "\n"
			}
			assert.Equal(t, tt.want, worst)
			assert.Contains(t, said, tt.says)
			assert.NotContains(t, said, base64.StdEncoding.EncodeToString([]byte("right")))
			if tt.want == report.Problem {
				_, err := Restore(file, Member{Name: "m", DataDir: filepath.Join(t.TempDir(), "d"), PeerURL: "http://localhost:2380", Token: "t"}, tt.config)
				var bad *BadSnapshotError
				require.ErrorAs(t, err, &bad)
				assert.NotEmpty(t, bad.Hint())
			}
		})
	}
	_, _, err := Verify("nope.db", nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestReadEncryptionConfig_refuses(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "c.yaml")
	for text, want := range map[string]string{
		"kind: Pod\n":            `kind is "Pod"`,
		"a: [secret, hunter2\n:": "it is no YAML",
	} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		_, err := ReadEncryptionConfig(file)
		require.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), "hunter2")
	}
}

func TestArchive(t *testing.T) {
	t.Parallel()
	m := filled(t)
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	for name, a := range map[string]*Archive{
		"as it is":  {},
		"encrypted": {Recipients: []age.Recipient{identity.Recipient()}, Identities: []age.Identity{identity}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			bucket, err := archive.NewDir(dir)
			require.NoError(t, err)
			a := *a
			a.Bucket = bucket
			file, s := take(t, m, nil)
			require.NoError(t, a.Put(t.Context(), file, s))
			require.ErrorIs(t, a.Put(t.Context(), file, s), ErrExists, "a snapshot is never overwritten")
			list, err := a.List(t.Context())
			require.NoError(t, err)
			require.Len(t, list.Items, 1)
			assert.Equal(t, len(a.Recipients) > 0, list.Items[0].Sealed)

			back := filepath.Join(t.TempDir(), "back.db")
			_, err = a.Get(t.Context(), "etcd-monday", back)
			require.NoError(t, err)
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			got, err := os.ReadFile(back)
			require.NoError(t, err)
			assert.Equal(t, want, got)
			_, err = a.Get(t.Context(), "etcd-monday", back)
			require.ErrorContains(t, err, "is there already")

			part := filepath.Join(dir, filepath.FromSlash(partKey("etcd-monday", 0)))
			stored, err := os.ReadFile(part)
			require.NoError(t, err)
			assert.Equal(t, len(a.Recipients) == 0, strings.Contains(string(stored), secret))
			stored[len(stored)/2] ^= 1
			require.NoError(t, os.WriteFile(part, stored, 0o600))
			damaged := filepath.Join(t.TempDir(), "damaged.db")
			_, err = a.Get(t.Context(), "etcd-monday", damaged)
			require.Error(t, err)
			assert.NoFileExists(t, damaged)
			assert.NoFileExists(t, damaged+".part")
			_, err = a.Get(t.Context(), "nope", damaged)
			require.ErrorIs(t, err, archive.ErrNotFound)
		})
	}
}

// An upload that is cut off is not a snapshot.
func TestArchive_Put_cutOff(t *testing.T) {
	t.Parallel()
	bucket, err := archive.NewDir(t.TempDir())
	require.NoError(t, err)
	a := &Archive{Bucket: cutOff{bucket}}
	file, s := take(t, filled(t), nil)
	require.ErrorIs(t, a.Put(t.Context(), file, s), errCut)
	list, err := a.List(t.Context())
	require.NoError(t, err)
	assert.Empty(t, list.Items)
}

var errCut = errors.New("cut off")

// cutOff takes parts and no manifests.
type cutOff struct{ archive.Bucket }

func (b cutOff) Put(ctx context.Context, key string, data []byte, ifAbsent bool) error {
	if strings.HasSuffix(key, ".json") {
		return errCut
	}
	return b.Bucket.Put(ctx, key, data, ifAbsent)
}

func FuzzEncryptedBy(f *testing.F) {
	f.Add([]byte("k8s:enc:aescbc:v1:key1:x"))
	f.Add([]byte("k8s:enc:kms:v2:a:b:c"))
	f.Add([]byte("k8s:enc:"))
	f.Fuzz(func(t *testing.T, value []byte) {
		provider, key, ok := encryptedBy(value)
		if ok {
			assert.Contains(t, string(value), "k8s:enc:"+provider+":")
			assert.Contains(t, string(value), ":"+key+":")
		}
	})
}
