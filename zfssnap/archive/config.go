package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// Bounds of a part's size in bytes. An object of S3 may have 5 GiB when it is
// put at once.
const (
	MinPartSize     = 4 << 10
	MaxPartSize     = 1 << 30
	DefaultPartSize = 64 << 20

	DefaultConcurrency = 4
	MaxConcurrency     = 64
)

// The kinds of storage.
const (
	TypeS3         = "S3"
	TypeFilesystem = "FILESYSTEM"
)

// Config is where an archive is, in the manner of the objstore configuration of
// Thanos. It has no secrets.
type Config struct {
	Type   string          `json:"type"`
	Config json.RawMessage `json:"config"`
	// Prefix of all keys, "" for none.
	Prefix string `json:"prefix,omitempty"`

	PartSize    Size `json:"part_size,omitempty"`
	Concurrency int  `json:"concurrency,omitempty"`
	// Recipients are the age public keys that parts are encrypted to; with none
	// they are stored as they are.
	Recipients []string `json:"recipients,omitempty"`
	// IdentityFile has the age secret keys that open encrypted parts; only who
	// restores needs it.
	IdentityFile string `json:"identity_file,omitempty"`
	// MaxChain is that of an Uploader.
	MaxChain int `json:"max_chain,omitempty"`
}

// S3Config is the config of type S3. Credentials come from AWS_ACCESS_KEY_ID
// and AWS_SECRET_ACCESS_KEY, else from a file.
type S3Config struct {
	Bucket   string `json:"bucket"`
	Endpoint string `json:"endpoint"` // host or host:port
	Region   string `json:"region,omitempty"`
	Insecure bool   `json:"insecure,omitempty"` // plain HTTP
	// BucketLookup is "auto", "path" or "virtual-hosted".
	BucketLookup string `json:"bucket_lookup_type,omitempty"`
	// CAFile has the certificates to trust in the place of the system's.
	CAFile string `json:"ca_file,omitempty"`
	// CredentialsFile is in AWS's format; by default that of
	// AWS_SHARED_CREDENTIALS_FILE, or ~/.aws/credentials.
	CredentialsFile string `json:"credentials_file,omitempty"`
	Profile         string `json:"profile,omitempty"`
	// IAM asks the instance or web identity for credentials when there are no
	// others.
	IAM bool `json:"iam,omitempty"`
}

// DirConfig is the config of type FILESYSTEM.
type DirConfig struct {
	Directory string `json:"directory"` // absolute, and exists
}

// Size is a number of bytes, in text a number or one with Ki, Mi or Gi.
type Size int64

// UnmarshalJSON takes a number or a string.
func (s *Size) UnmarshalJSON(data []byte) error {
	text := strings.Trim(string(data), `"`)
	number, shift := text, 0
	for i, unit := range []string{"Ki", "Mi", "Gi"} {
		if n, ok := strings.CutSuffix(text, unit); ok {
			number, shift = n, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil || n < 0 {
		return fmt.Errorf("size %q: %w: want a number of bytes, or one with Ki, Mi or Gi", text, ErrInvalid)
	}
	*s = Size(n << shift)
	return nil
}

// LoadConfig reads a configuration from a YAML file.
func LoadConfig(file string) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read archive configuration: %w", err)
	}
	c, err := ParseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("read archive configuration %s: %w", file, err)
	}
	return c, nil
}

// ParseConfig reads a configuration. It is strict: an unknown field is an error.
func ParseConfig(data []byte) (*Config, error) {
	c := &Config{}
	if err := yaml.UnmarshalStrict(data, c); err != nil {
		return nil, err
	}
	if c.PartSize == 0 {
		c.PartSize = DefaultPartSize
	}
	if c.Concurrency == 0 {
		c.Concurrency = DefaultConcurrency
	}
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...))
	}
	switch c.Type {
	case TypeS3:
		s, err := c.s3()
		if err != nil {
			errs = append(errs, err)
		} else if s.Bucket == "" || s.Endpoint == "" {
			bad("config.bucket and config.endpoint are both required")
		}
		if _, ok := lookups[s.BucketLookup]; !ok {
			bad("config.bucket_lookup_type %q is not auto, path or virtual-hosted", s.BucketLookup)
		}
	case TypeFilesystem:
		d, err := c.dir()
		if err != nil {
			errs = append(errs, err)
		} else if !filepath.IsAbs(d.Directory) {
			bad("config.directory %q is not an absolute path", d.Directory)
		}
	default:
		bad("type %q is not %s or %s", c.Type, TypeS3, TypeFilesystem)
	}
	if c.Prefix != "" && (path.Clean(c.Prefix) != c.Prefix || path.IsAbs(c.Prefix) || !filepath.IsLocal(c.Prefix)) {
		bad("prefix %q is not a clean relative path", c.Prefix)
	}
	if c.PartSize < MinPartSize || c.PartSize > MaxPartSize {
		bad("part_size %d is not between 4Ki and 1Gi", c.PartSize)
	}
	if c.Concurrency < 1 || c.Concurrency > MaxConcurrency {
		bad("concurrency %d is not between 1 and %d", c.Concurrency, MaxConcurrency)
	}
	if c.MaxChain < 0 {
		bad("max_chain %d is negative", c.MaxChain)
	}
	if _, err := ParseRecipients(c.Recipients); err != nil {
		errs = append(errs, err)
	}
	return c, errors.Join(errs...)
}

func (c *Config) s3() (S3Config, error) {
	var s S3Config
	return s, c.kind(&s)
}

func (c *Config) dir() (DirConfig, error) {
	var d DirConfig
	return d, c.kind(&d)
}

func (c *Config) kind(into any) error {
	if err := yaml.UnmarshalStrict(c.Config, into); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	return nil
}

// Uploader returns what makes restore points of a host's snapshots in the store.
func (c *Config) Uploader(store *Store, client *zfs.Client, node string, clock func() time.Time) *Uploader {
	return &Uploader{
		ZFS: client, Store: store, Node: node, PartSize: int64(c.PartSize), Concurrency: c.Concurrency,
		Recipients: c.Recipients, MaxChain: c.MaxChain, Clock: clock,
	}
}

// Identities reads the secret keys of IdentityFile, none without one.
func (c *Config) Identities() ([]age.Identity, error) {
	if c.IdentityFile == "" {
		return nil, nil
	}
	return LoadIdentities(c.IdentityFile)
}

// Open opens the archive. It does not yet reach for it.
func (c *Config) Open() (*Store, error) {
	switch c.Type {
	case TypeS3:
		s, err := c.s3()
		if err != nil {
			return nil, err
		}
		bucket, err := openS3(s, c.Prefix)
		if err != nil {
			return nil, fmt.Errorf("open S3 bucket %s: %w", s.Bucket, err)
		}
		return &Store{Bucket: bucket, Name: "s3://" + path.Join(s.Endpoint, s.Bucket, c.Prefix)}, nil
	default:
		d, err := c.dir()
		if err != nil {
			return nil, err
		}
		root := filepath.Join(d.Directory, c.Prefix)
		// The directory itself is not made: the disk may be one that is not mounted.
		if _, err := os.Stat(d.Directory); err != nil {
			return nil, fmt.Errorf("open archive directory: %w", err)
		}
		if err := os.MkdirAll(root, 0o700); err != nil {
			return nil, fmt.Errorf("open archive directory: %w", err)
		}
		bucket, err := NewDir(root)
		if err != nil {
			return nil, err
		}
		return &Store{Bucket: bucket, Name: "file://" + root}, nil
	}
}
