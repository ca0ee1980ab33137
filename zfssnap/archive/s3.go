package archive

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// s3 is a Bucket in an S3 service. The client repeats requests that may succeed
// later by itself.
type s3 struct {
	client minio.Core
	bucket string
	prefix string // "" or ends in a slash
	clock  func() time.Time
}

var _ Bucket = (*s3)(nil)

// lookups maps the configuration's words to the client's.
var lookups = map[string]minio.BucketLookupType{
	"": minio.BucketLookupAuto, "auto": minio.BucketLookupAuto, "path": minio.BucketLookupPath, "virtual-hosted": minio.BucketLookupDNS,
}

func openS3(c S3Config, prefix string) (*s3, error) {
	transport, err := minio.DefaultTransport(!c.Insecure)
	if err != nil {
		return nil, err
	}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read ca_file: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read ca_file %s: %w: no certificate in it", c.CAFile, ErrInvalid)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	providers := []credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{Filename: c.CredentialsFile, Profile: c.Profile}}
	if c.IAM {
		providers = append(providers, &credentials.IAM{Client: &http.Client{Transport: http.DefaultTransport}})
	}
	client, err := minio.NewCore(c.Endpoint, &minio.Options{
		Creds: credentials.NewChainCredentials(providers), Secure: !c.Insecure, Transport: transport,
		Region: c.Region, BucketLookup: lookups[c.BucketLookup],
	})
	if err != nil {
		return nil, err
	}
	if prefix != "" {
		prefix += "/"
	}
	return &s3{client: *client, bucket: c.Bucket, prefix: prefix, clock: time.Now}, nil
}

// refusals are answers that do not change by themselves.
var refusals = []string{minio.AccessDenied, minio.NoSuchBucket, "InvalidAccessKeyId", "SignatureDoesNotMatch"}

// fault gives an answer of the service its cause.
func fault(verb, key string, err error) error {
	if err == nil {
		return nil
	}
	var resp minio.ErrorResponse
	if errors.As(err, &resp) {
		switch {
		case resp.Code == minio.NoSuchKey || resp.Code == "NotFound":
			err = fmt.Errorf("%w: %w", ErrNotFound, err)
		// A second writer of the key may still be at it, which is 409.
		case resp.StatusCode == http.StatusPreconditionFailed || resp.Code == "ConditionalRequestConflict":
			err = fmt.Errorf("%w: %w", ErrExists, err)
		case verb == "delete" && (resp.Code == minio.AccessDenied || resp.Code == "ObjectLocked"):
			err = fmt.Errorf("%w: %w", ErrLocked, err)
		case slices.Contains(refusals, resp.Code):
			err = fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	return fmt.Errorf("%s %s: %w", verb, key, err)
}

// Put implements [Bucket].
func (s *s3) Put(ctx context.Context, key string, data []byte, ifAbsent bool) error {
	// The sum makes the service refuse what was damaged on the way, and a bucket
	// with object lock asks for it.
	o := minio.PutObjectOptions{DisableMultipart: true, SendContentMd5: true, ContentType: "application/octet-stream"}
	if ifAbsent {
		o.SetMatchETagExcept("*")
	}
	_, err := s.client.Client.PutObject(ctx, s.bucket, s.prefix+key, bytes.NewReader(data), int64(len(data)), o)
	return fault("put", key, err)
}

// Get implements [Bucket].
func (s *s3) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	body, _, _, err := s.client.GetObject(ctx, s.bucket, s.prefix+key, minio.GetObjectOptions{})
	return body, fault("get", key, err)
}

// List implements [Bucket].
func (s *s3) List(ctx context.Context, prefix string) ([]Object, error) {
	// The listing ends its goroutine when ctx does.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var objects []Object
	for o := range s.client.Client.ListObjects(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true}) {
		if o.Err != nil {
			return nil, fault("list", prefix, o.Err)
		}
		objects = append(objects, Object{Key: strings.TrimPrefix(o.Key, s.prefix), Size: o.Size, Modified: o.LastModified})
	}
	return objects, ctx.Err()
}

// Lock implements [Bucket].
func (s *s3) Lock(ctx context.Context, key string) (string, error) {
	info, err := s.client.StatObject(ctx, s.bucket, s.prefix+key, minio.StatObjectOptions{})
	if err != nil {
		return "", fault("look at", key, err)
	}
	if strings.EqualFold(info.Metadata.Get("X-Amz-Object-Lock-Legal-Hold"), "ON") {
		return "legal hold", nil
	}
	until, err := time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	if err == nil && until.After(s.clock()) {
		mode := strings.ToLower(info.Metadata.Get("X-Amz-Object-Lock-Mode"))
		return fmt.Sprintf("%s retention until %s", mode, until.UTC().Format(time.RFC3339)), nil
	}
	return "", nil
}

// Delete implements [Bucket].
func (s *s3) Delete(ctx context.Context, key string) error {
	err := fault("delete", key, s.client.RemoveObject(ctx, s.bucket, s.prefix+key, minio.RemoveObjectOptions{}))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
