package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

var update = flag.Bool("update", false, "write golden files anew")

// site is a host with an archive in a directory.
type site struct {
	*testing.T
	pool   *zfstest.Pool
	zfs    *zfs.Client
	dir    string // of the archive
	config string
	now    time.Time
}

func newSite(t *testing.T) *site {
	t.Helper()
	base := t.TempDir()
	s := &site{
		T: t, pool: zfstest.NewPool("znvm", "backup"), dir: filepath.Join(base, "archive"), config: filepath.Join(base, "archive.yaml"),
		now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC),
	}
	s.zfs = &zfs.Client{Runner: s.pool}
	s.pool.SetClock(func() time.Time { return s.now })
	require.NoError(t, os.Mkdir(s.dir, 0o700))
	s.configure("")
	require.NoError(t, s.zfs.Create(t.Context(), "znvm/pvc-1", zfs.CreateOptions{Properties: map[string]string{"quota": "1G"}}))
	return s
}

func (s *site) configure(more string) {
	s.Helper()
	require.NoError(s, os.WriteFile(s.config, fmt.Appendf(nil, "type: FILESYSTEM\nconfig: {directory: %s}\npart_size: 8Ki\n%s", s.dir, more), 0o600))
}

// snap takes a day's snapshot.
func (s *site) snap(name string) {
	s.Helper()
	require.NoError(s, s.pool.Write("znvm/pvc-1", name, bytes.Repeat([]byte(name), 5<<10)))
	require.NoError(s, s.zfs.Snapshot(s.Context(), []string{"znvm/pvc-1@" + name}, nil))
	s.now = s.now.AddDate(0, 0, 1)
}

// result is what a command left behind.
type result struct {
	out, err string
	status   int
}

// archive runs a command of the archive.
func (s *site) archive(args ...string) result {
	s.Helper()
	var out, errOut bytes.Buffer
	cmd := newArchiveCommand(env{
		zfs: func(string) (*zfs.Client, error) { return s.zfs, nil }, now: func() time.Time { return s.now },
		hostname: func() (string, error) { return "hassio", nil },
	})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(append(args, "--config", s.config))
	cmd.SetIn(strings.NewReader(""))
	cmd.SetOut(&out)
	cmd.SetErr(&errOut)
	r := result{}
	if err := cmd.ExecuteContext(s.Context()); err != nil {
		fmt.Fprintln(&errOut, "error:", err)
		r.status = exitStatus(context.Background(), err)
	}
	r.out, r.err = s.plain(out.String()), s.plain(errOut.String())
	return r
}

// plain puts letters in the place of what differs from run to run.
func (s *site) plain(text string) string {
	seen := map[string]string{}
	text = regexp.MustCompile(`\b[0-9]{12,20}\b`).ReplaceAllStringFunc(text, func(guid string) string {
		if seen[guid] == "" {
			seen[guid] = fmt.Sprintf("GUID-%c", 'A'+len(seen))
		}
		return seen[guid]
	})
	text = regexp.MustCompile(`\b[0-9a-f]{16}\.json`).ReplaceAllString(text, "KEY.json")
	text = regexp.MustCompile(`\b[0-9a-f]{64}\b`).ReplaceAllString(text, "SHA256")
	text = regexp.MustCompile(`data/[0-9a-f]{16}`).ReplaceAllString(text, "data/KEY")
	return strings.ReplaceAll(text, s.dir, "DIR")
}

func (r result) String() string {
	return fmt.Sprintf("# stdout\n%s# stderr\n%s# exit status %d\n", r.out, r.err, r.status)
}

// columns makes the widths of a table not depend on those of a guid.
var columns = regexp.MustCompile(` {2,}`)

func golden(t *testing.T, name, got string) {
	t.Helper()
	got = columns.ReplaceAllString(got, "  ")
	file := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

func TestArchive(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var said strings.Builder
	run := func(args ...string) result {
		r := s.archive(args...)
		fmt.Fprintf(&said, "$ zfs-agent archive %s\n%s\n", strings.Join(args, " "), r)
		return r
	}
	run("list")
	s.snap("mon")
	run("upload", "znvm/pvc-1@mon", "--dry-run")
	run("upload", "znvm/pvc-1@mon")
	run("upload", "znvm/pvc-1@mon")
	s.snap("tue")
	run("upload", "znvm/pvc-1@tue", "--dry-run", "-o", "wide")
	run("upload", "znvm/pvc-1@tue", "-o", "name")
	s.snap("wed")
	run("upload", "znvm/pvc-1@wed", "--full")
	run("list")
	run("list", "-o", "wide")
	run("list", "znvm/pvc-2")
	run("list", "-o", "name")
	run("verify")
	run("restore", "znvm/pvc-1@tue", "--to", "backup/pvc-1", "--dry-run")
	run("restore", "znvm/pvc-1@tue", "--to", "backup/pvc-1")
	run("restore", "znvm/pvc-1@tue", "--to", "backup/pvc-1", "-o", "name")
	run("prune", "--keep-last=1", "--dry-run")
	run("prune", "--keep-last=1")
	run("prune", "--keep-last=1", "--yes", "-o", "name")
	run("list")
	golden(t, "archive", said.String())

	want, err := s.pool.Files("znvm/pvc-1@tue")
	require.NoError(t, err)
	got, err := s.pool.Files("backup/pvc-1@tue")
	require.NoError(t, err)
	assert.Equal(t, want, got)
}

func TestArchive_documents(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.snap("mon")
	tests := []struct {
		kind string
		args []string
	}{
		{"ArchiveUploadPlan", []string{"upload", "znvm/pvc-1@mon", "--dry-run"}},
		{"ArchivePoint", []string{"upload", "znvm/pvc-1@mon"}},
		{"ArchivePointList", []string{"list"}},
		{"ArchiveVerification", []string{"verify"}},
		{"ArchiveRestorePlan", []string{"restore", "znvm/pvc-1@mon", "--to=backup/a", "--dry-run"}},
		{"ArchiveRestore", []string{"restore", "znvm/pvc-1@mon", "--to=backup/a"}},
		{"ArchivePrunePlan", []string{"prune", "--keep-last=1", "--dry-run"}},
	}
	for _, tt := range tests {
		asJSON, asYAML := s.archive(append(tt.args, "-o", "json")...), s.archive(append(tt.args, "-o", "yaml")...)
		require.Zero(t, asJSON.status, asJSON.err)
		var head struct{ APIVersion, Kind string }
		require.NoError(t, json.Unmarshal([]byte(asJSON.out), &head))
		assert.Equal(t, "kubectl-dr.io/v1alpha1", head.APIVersion)
		assert.Equal(t, tt.kind, head.Kind)
		var one, other map[string]any
		require.NoError(t, json.Unmarshal([]byte(asJSON.out), &one))
		require.NoError(t, yaml.Unmarshal([]byte(asYAML.out), &other))
		if !strings.HasPrefix(tt.kind, "ArchiveRestore") && tt.kind != "ArchiveUploadPlan" {
			assert.Equal(t, one, other)
		}
	}
	// The header of a stream has guids, which are not always as long.
	list := regexp.MustCompile(`"(bytes|storedBytes)": [0-9]+`).ReplaceAllString(s.archive("list", "-o", "json").out, `"$1": 0`)
	golden(t, "list.json", list)
}

func TestArchive_encrypted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	id, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	key := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(key, []byte("# created: today\n"+id.String()+"\n"), 0o600))
	s.configure("recipients: [" + id.Recipient().String() + "]\n")
	s.snap("mon")
	require.Zero(t, s.archive("upload", "znvm/pvc-1@mon").status)
	assert.Contains(t, s.archive("verify").out, "stored parts")
	assert.Contains(t, s.archive("verify", "--identity", key).out, " stream ")
	r := s.archive("restore", "znvm/pvc-1@mon", "--to=backup/a")
	assert.Equal(t, 1, r.status)
	assert.Contains(t, r.err, "no identity opens it")
	require.Zero(t, s.archive("restore", "znvm/pvc-1@mon", "--to=backup/a", "--identity", key).status)

	require.NoError(t, os.WriteFile(key, []byte(strings.ToLower(id.String())), 0o600))
	r = s.archive("verify", "--identity", key)
	assert.Equal(t, 1, r.status)
	assert.NotContains(t, strings.ToLower(r.err), "age-secret-key-1", "a key is never shown")
}

func TestArchive_verifyFinds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, name := range []string{"mon", "tue"} {
		s.snap(name)
		require.Zero(t, s.archive("upload", "znvm/pvc-1@"+name).status)
	}
	parts, err := filepath.Glob(filepath.Join(s.dir, "data", "*", "00000001.*"))
	require.NoError(t, err)
	require.Len(t, parts, 2)
	for _, part := range parts {
		data, err := os.ReadFile(part)
		require.NoError(t, err)
		data[10] ^= 1
		require.NoError(t, os.WriteFile(part, data, 0o600))
	}
	golden(t, "verify", s.archive("verify").String())
	assert.Equal(t, 2, s.archive("verify", "znvm/pvc-1@mon").status)
	r := s.archive("verify", "znvm/pvc-1")
	assert.Contains(t, r.err, "2 of 2 restore points are not sound")

	points, err := filepath.Glob(filepath.Join(s.dir, "points", "*.json"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(points[0], []byte("{}"), 0o600))
	r = s.archive("verify")
	assert.Equal(t, 2, r.status)
	assert.Contains(t, r.out, "it has no checksum")
	assert.Contains(t, s.archive("list", "-o", "wide").out, "damaged")
}

func TestArchive_refuses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.snap("mon")
	tests := []struct {
		name string
		args string
		says string
	}{
		{"an upload of nothing", "upload", "accepts 1 arg(s)"},
		{"a dataset in the place of a snapshot", "upload znvm/pvc-1", `snapshot "znvm/pvc-1": invalid name`},
		{"a snapshot that is not there", "upload znvm/pvc-1@sun", "snapshot znvm/pvc-1@sun: not found"},
		{"a negative chain", "upload znvm/pvc-1@mon --max-chain=-1", "--max-chain is negative"},
		{"an output that is none", "list -o xml", `--output "xml" is not json, yaml, wide or name`},
		{"a restore to nowhere", "restore znvm/pvc-1@mon", `required flag(s) "to" not set`},
		{"a point that is not there", "restore znvm/pvc-1@mon --to=backup/a", `restore point "znvm/pvc-1@mon": not found`},
		{"a point to verify that is not there", "verify 42", `restore point "42": not found`},
		{"pruning without a rule", "prune --yes", "say what to keep"},
		{"pruning what may still run", "prune --keep-last=1 --unfinished-after=1m", "--unfinished-after is below 1h0m0s"},
		{"an identity that is not there", "verify --identity=/nope", "read identity: open /nope"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := s.archive(strings.Fields(tt.args)...)
			assert.Equal(t, 1, r.status)
			assert.Contains(t, r.err, tt.says)
			assert.Empty(t, r.out)
		})
	}
}

func TestArchive_help(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"upload", "list", "verify", "restore", "prune"} {
		out, _, err := run(t.Context(), "archive", command, "--help")
		require.NoError(t, err)
		assert.Contains(t, out, "Exit status:")
		assert.Contains(t, out, "zfs-agent archive "+command)
	}
}
