// Package etcd takes, checks, compares and restores snapshots of a control
// plane's etcd, with etcd's own library. A snapshot is a file beside which
// another, its manifest, says what it is; the manifest is written last.
package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
)

// Extension of a snapshot's file, which its name in an archive is without.
const Extension = ".db"

// ManifestFile is where the manifest of a snapshot's file is.
func ManifestFile(file string) string { return file + ".json" }

// Server is the member of etcd that a snapshot is of.
type Server struct {
	Endpoint string
	// CA, Cert and Key are files in PEM; all are empty for plain HTTP.
	CA, Cert, Key string
	// DialTimeout bounds how long the member is waited for; 0 is 10 s.
	DialTimeout time.Duration
}

const dialTimeout = 10 * time.Second

func (s Server) config(ctx context.Context) (clientv3.Config, error) {
	c := clientv3.Config{Context: ctx, Endpoints: []string{s.Endpoint}, DialTimeout: s.DialTimeout, Logger: zap.NewNop()}
	if c.DialTimeout == 0 {
		c.DialTimeout = dialTimeout
	}
	if s.CA == "" && s.Cert == "" {
		return c, nil
	}
	info := transport.TLSInfo{TrustedCAFile: s.CA, CertFile: s.Cert, KeyFile: s.Key}
	tls, err := info.ClientConfig()
	c.TLS = tls
	return c, err
}

// Take writes a consistent snapshot of a member to a file that does not exist,
// and its manifest. A file is only there when all of it is.
func Take(ctx context.Context, server Server, file string, config *EncryptionConfig, now time.Time) (*report.EtcdSnapshot, error) {
	for _, name := range []string{file, ManifestFile(file)} {
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("snapshot etcd to %s: %s is there already", file, name)
		}
	}
	client, err := server.config(ctx)
	if err != nil {
		return nil, fmt.Errorf("snapshot etcd: read certificates: %w", err)
	}
	if err := reachable(ctx, client); err != nil {
		return nil, fmt.Errorf("snapshot etcd at %s: %w", server.Endpoint, err)
	}
	// The library writes beside the file, and renames.
	version, err := snapshot.NewV3(zap.NewNop()).Save(ctx, client, file)
	if err != nil {
		return nil, fmt.Errorf("snapshot etcd at %s: %w", server.Endpoint, err)
	}
	s, err := describe(file)
	if err != nil {
		return nil, err
	}
	s.TakenAt, s.ServerVersion = metav1.Time{Time: now.UTC().Truncate(time.Second)}, version
	if config != nil {
		s.EncryptionKeys = config.Keys
	}
	return s, writeManifest(file, s)
}

// reachable makes an error of a member that does not answer, which the library
// would wait for.
func reachable(ctx context.Context, c clientv3.Config) error {
	client, err := clientv3.New(c)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, c.DialTimeout)
	defer cancel()
	_, err = client.Status(ctx, c.Endpoints[0])
	return err
}

// Name is what a snapshot's file is called in an archive.
func Name(file string) string { return strings.TrimSuffix(filepath.Base(file), Extension) }

// describe reads a snapshot's file.
func describe(file string) (*report.EtcdSnapshot, error) {
	s := &report.EtcdSnapshot{TypeMeta: report.TypeMeta("EtcdSnapshot"), ObjectMeta: metav1.ObjectMeta{Name: Name(file)}}
	var err error
	if s.Size, s.SHA256, err = whole(file); err != nil {
		return nil, err
	}
	status, err := snapshot.NewV3(zap.NewNop()).Status(file)
	if err != nil {
		return nil, fmt.Errorf("read %s as a snapshot of etcd: %w", file, err)
	}
	s.Revision, s.StorageVersion = status.Revision, status.Version
	keys, err := read(file)
	if err != nil {
		return nil, err
	}
	s.Keys = len(keys.values)
	s.Encryption = keys.encryption()
	return s, nil
}

// whole returns size and SHA-256 of a snapshot's file if it ends in the SHA-256 of
// what comes before, as etcd sends it. One that does not must not be opened: the
// library maps it into memory, and reading past its end ends the program.
func whole(file string) (int64, string, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, "", err
	}
	all, content := sha256.New(), sha256.New()
	_, err = io.CopyN(io.MultiWriter(all, content), f, max(0, info.Size()-sha256.Size))
	if err != nil {
		return 0, "", fmt.Errorf("read %s: %w", file, err)
	}
	end, err := io.ReadAll(io.TeeReader(f, all))
	if err != nil {
		return 0, "", fmt.Errorf("read %s: %w", file, err)
	}
	if !bytes.Equal(end, content.Sum(nil)) {
		return 0, "", fmt.Errorf("read %s as a snapshot of etcd: it does not end in its SHA-256: it is damaged, cut off, or no snapshot", file)
	}
	return info.Size(), hex.EncodeToString(all.Sum(nil)), nil
}

func writeManifest(file string, s *report.EtcdSnapshot) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(ManifestFile(file), append(data, '\n'), 0o600)
}

// ReadManifest returns what was written when a snapshot was taken; nil for one
// without a manifest, as etcdctl makes them.
func ReadManifest(file string) (*report.EtcdSnapshot, error) {
	data, err := os.ReadFile(ManifestFile(file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseManifest(ManifestFile(file), data)
}

func parseManifest(name string, data []byte) (*report.EtcdSnapshot, error) {
	s := &report.EtcdSnapshot{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", name, err)
	}
	if s.Kind != "EtcdSnapshot" || s.SHA256 == "" {
		return nil, fmt.Errorf("read manifest %s: it is not of a snapshot of etcd", name)
	}
	return s, nil
}

// Verify checks a snapshot's file: that it is whole, that it is the one its
// manifest tells of, and that its encrypted values can be read with a
// configuration of encryption, nil for none.
func Verify(file string, config *EncryptionConfig) (*report.EtcdSnapshot, *report.Group, error) {
	group := &report.Group{Name: "etcd snapshot " + Name(file)}
	add := func(name string, state report.State, message, remedy string) {
		group.Items = append(group.Items, report.Item{Name: name, State: state, Message: message, Remedy: remedy})
	}
	manifest, err := ReadManifest(file)
	if err != nil {
		return nil, nil, err
	}
	s, err := describe(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, err
	case err != nil:
		add("file", report.Problem, err.Error(), "it is damaged; use another snapshot")
		return &report.EtcdSnapshot{ObjectMeta: metav1.ObjectMeta{Name: Name(file)}}, group, nil
	}
	add("file", report.OK, fmt.Sprintf("%s, %s, revision %d", report.Bytes(s.Size), report.Count(s.Keys, "key"), s.Revision), "")
	switch {
	case manifest == nil:
		add("manifest", report.Warning, "there is none: whether this is what was taken is not known", "take snapshots with kubectl dr etcd snapshot")
	case manifest.SHA256 != s.SHA256:
		add("manifest", report.Problem, fmt.Sprintf("the file has SHA-256 %s, and was taken with %s", s.SHA256, manifest.SHA256), "it was changed since; use another snapshot")
	default:
		add("manifest", report.OK, "the file is as it was taken", "")
		s = manifest
	}
	group.Items = append(group.Items, config.check(s)...)
	return s, group, nil
}
