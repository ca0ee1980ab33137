package archive_test

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive/archivetest"
)

// TestBuckets is not parallel: those that are come after it, when the archive that
// is configured is empty again.
func TestBuckets(t *testing.T) {
	dir, err := archive.NewDir(t.TempDir())
	require.NoError(t, err)
	buckets := map[string]archive.Bucket{"memory": archivetest.NewMemory(), "directory": dir}
	if store := configured(t); store != nil {
		buckets["as configured"] = store.Bucket
	}
	for name, b := range buckets {
		t.Run(name, func(t *testing.T) { archivetest.Conformance(t, b) })
	}
}

func TestDir_crash(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	b, err := archive.NewDir(root)
	require.NoError(t, err)
	// What a crash left half written is no object, and goes when it is old.
	half := filepath.Join(root, ".tmp", "half")
	require.NoError(t, os.WriteFile(half, []byte("half"), 0o600))
	objects, err := b.List(t.Context(), "data/")
	require.NoError(t, err)
	assert.Empty(t, objects)
	_, err = archive.NewDir(root)
	require.NoError(t, err)
	assert.FileExists(t, half)
	old := time.Now().Add(-48 * time.Hour)
	require.NoError(t, os.Chtimes(half, old, old))
	_, err = archive.NewDir(root)
	require.NoError(t, err)
	assert.NoFileExists(t, half)
}

// s3Server answers as an S3 service does, from a bucket in memory.
type s3Server struct {
	*archivetest.Memory
	t *testing.T
	// headers of objects with a lock
	locked map[string]http.Header
	// refusal is what it answers to everything, "" for nothing
	refusal string
}

func (s *s3Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := strings.TrimPrefix(r.URL.Path, "/bucket/")
	assert.Contains(s.t, r.Header.Get("Authorization"), "Credential=key-id/")
	fail := func(status int, code string) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, code)
	}
	data, found := s.Objects()[key]
	switch {
	case s.refusal != "":
		fail(http.StatusForbidden, s.refusal)
	case r.URL.Query().Get("list-type") == "2":
		s.list(w, r)
	case r.Method == http.MethodPut:
		body, err := io.ReadAll(r.Body)
		assert.NoError(s.t, err)
		assert.NotEmpty(s.t, r.Header.Get("Content-Md5"))
		if err := s.Put(r.Context(), key, unchunk(body), r.Header.Get("If-None-Match") == "*"); errors.Is(err, archive.ErrExists) {
			fail(http.StatusPreconditionFailed, "PreconditionFailed")
			return
		}
		w.Header().Set("ETag", etag(unchunk(body)))
	case !found && r.Method != http.MethodDelete:
		fail(http.StatusNotFound, "NoSuchKey")
	case r.Method == http.MethodDelete && s.locked[key] != nil:
		fail(http.StatusForbidden, "AccessDenied")
	case r.Method == http.MethodDelete:
		assert.NoError(s.t, s.Delete(r.Context(), key))
		w.WriteHeader(http.StatusNoContent)
	default:
		for name, values := range s.locked[key] {
			w.Header()[name] = values
		}
		w.Header().Set("ETag", etag(data))
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(data)
		}
	}
}

func etag(data []byte) string {
	sum := md5.Sum(data)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

// unchunk takes the frames of a signed stream off: "<hex size>;...\r\n<data>\r\n".
func unchunk(body []byte) []byte {
	var data []byte
	for rest := body; ; {
		head, after, ok := bytes.Cut(rest, []byte("\r\n"))
		if !ok || !bytes.Contains(head, []byte(";chunk-signature=")) {
			if data == nil {
				return body
			}
			return data
		}
		var n int
		_, _ = fmt.Sscanf(string(head), "%x;", &n)
		if n == 0 {
			return data
		}
		data = append(data, after[:n]...)
		rest = after[n+2:]
	}
}

func (s *s3Server) list(w http.ResponseWriter, r *http.Request) {
	type content struct {
		Key          string
		Size         int
		LastModified string
		ETag         string
	}
	var result struct {
		XMLName  xml.Name `xml:"ListBucketResult"`
		Contents []content
	}
	for _, k := range s.Keys(r.URL.Query().Get("prefix")) {
		result.Contents = append(result.Contents, content{k, len(s.Objects()[k]), time.Now().UTC().Format(time.RFC3339), `"x"`})
	}
	assert.NoError(s.t, xml.NewEncoder(w).Encode(result))
}

// openS3 opens a bucket on a server of its own.
func openS3(t *testing.T) (*archive.Store, *s3Server) {
	t.Helper()
	s := &s3Server{Memory: archivetest.NewMemory(), t: t, locked: map[string]http.Header{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "credentials")
	require.NoError(t, os.WriteFile(file, []byte("[default]\naws_access_key_id = key-id\naws_secret_access_key = very-secret\n"), 0o600))
	c, err := archive.ParseConfig(fmt.Appendf(nil, `
type: S3
config: {bucket: bucket, endpoint: %q, region: us-east-1, insecure: true, bucket_lookup_type: path, credentials_file: %q}
prefix: dr/zfs
`, strings.TrimPrefix(server.URL, "http://"), file))
	require.NoError(t, err)
	store, err := c.Open()
	require.NoError(t, err)
	return store, s
}

func TestS3(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	store, s := openS3(t)
	archivetest.Conformance(t, store.Bucket)
	ctx := t.Context()

	require.NoError(t, store.Bucket.Put(ctx, "points/1.json", []byte("x"), false))
	assert.Equal(t, []string{"dr/zfs/points/1.json"}, s.Keys(""), "keys are below the prefix")
	lock := func(name, value string) {
		h := s.locked["dr/zfs/points/1.json"]
		if h == nil {
			h = http.Header{}
			s.locked["dr/zfs/points/1.json"] = h
		}
		h.Set(name, value)
	}
	lock("X-Amz-Object-Lock-Mode", "COMPLIANCE")
	lock("X-Amz-Object-Lock-Retain-Until-Date", "2020-01-02T03:04:05Z")
	why, err := store.Bucket.Lock(ctx, "points/1.json")
	require.NoError(t, err)
	assert.Empty(t, why, "a retention that has run out")
	lock("X-Amz-Object-Lock-Retain-Until-Date", "2120-01-02T03:04:05Z")
	why, err = store.Bucket.Lock(ctx, "points/1.json")
	require.NoError(t, err)
	assert.Equal(t, "compliance retention until 2120-01-02T03:04:05Z", why)
	lock("X-Amz-Object-Lock-Legal-Hold", "ON")
	why, err = store.Bucket.Lock(ctx, "points/1.json")
	require.NoError(t, err)
	assert.Equal(t, "legal hold", why)
	err = store.Bucket.Delete(ctx, "points/1.json")
	require.ErrorIs(t, err, archive.ErrLocked)
	assert.NotContains(t, err.Error(), "very-secret")
	assert.NotContains(t, store.Name, "key-id")

	for _, s.refusal = range []string{"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket"} {
		_, err := store.Bucket.List(ctx, "points/")
		require.ErrorIs(t, err, archive.ErrRefused, s.refusal)
		require.ErrorContains(t, err, s.refusal)
		_, err = store.Point(ctx, 1)
		require.ErrorIs(t, err, archive.ErrRefused, s.refusal)
	}
}

func TestLoadConfig_example(t *testing.T) {
	t.Parallel()
	c, err := archive.LoadConfig("../../examples/agent/archive.yaml")
	require.NoError(t, err)
	assert.Equal(t, archive.TypeS3, c.Type)
	assert.EqualValues(t, archive.DefaultPartSize, c.PartSize)
	assert.Equal(t, archive.DefaultConcurrency, c.Concurrency)
	assert.Equal(t, 30, c.MaxChain)
	store, err := c.Open()
	require.NoError(t, err)
	assert.Equal(t, "s3://s3.example.org/dr-archive/site-a", store.Name)
}

func TestParseConfig(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, yaml, says string }{
		{"a directory", "type: FILESYSTEM\nconfig: {directory: /srv/archive}\npart_size: 128Mi\nconcurrency: 2\n", ""},
		{"a size in bytes", "type: FILESYSTEM\nconfig: {directory: /srv/archive}\npart_size: 8192\n", ""},
		{"a bucket", "type: S3\nconfig: {bucket: dr, endpoint: s3.example.org}\nrecipients: [age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]\n", ""},
		{"nothing", "", `type "" is not S3 or FILESYSTEM`},
		{"an unknown field", "type: S3\nbuckets: {}\n", `unknown field "buckets"`},
		{"a secret where none belongs", "type: S3\nconfig: {bucket: a, endpoint: b, secret_key: hunter2}\n", `unknown field "secret_key"`},
		{"a bucket without a name", "type: S3\nconfig: {endpoint: b}\n", "config.bucket and config.endpoint are both required"},
		{"a directory that is not absolute", "type: FILESYSTEM\nconfig: {directory: here}\n", `"here" is not an absolute path`},
		{"a prefix that leads elsewhere", "type: FILESYSTEM\nconfig: {directory: /srv}\nprefix: ../x\n", `prefix "../x"`},
		{"a part that is too small", "type: FILESYSTEM\nconfig: {directory: /srv}\npart_size: 1Ki\n", "part_size 1024"},
		{"a part size that is none", "type: FILESYSTEM\nconfig: {directory: /srv}\npart_size: 64MB\n", `size "64MB"`},
		{"a chain of less than none", "type: FILESYSTEM\nconfig: {directory: /srv}\nmax_chain: -1\n", "max_chain -1 is negative"},
		{"too much at once", "type: FILESYSTEM\nconfig: {directory: /srv}\nconcurrency: 1000\n", "concurrency 1000"},
		{"a lookup that is none", "type: S3\nconfig: {bucket: a, endpoint: b, bucket_lookup_type: dns}\n", `bucket_lookup_type "dns"`},
		{"a recipient that is none", "type: FILESYSTEM\nconfig: {directory: /srv}\nrecipients: [AGE-SECRET-KEY-1X]\n", "recipients[0]: invalid: not an age public key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := archive.ParseConfig([]byte(tt.yaml))
			if tt.says == "" {
				require.NoError(t, err)
				assert.Positive(t, c.Concurrency)
				assert.GreaterOrEqual(t, int64(c.PartSize), int64(8192))
				return
			}
			require.ErrorContains(t, err, tt.says)
			assert.NotContains(t, err.Error(), "hunter2")
			assert.NotContains(t, err.Error(), "AGE-SECRET-KEY")
		})
	}
}
