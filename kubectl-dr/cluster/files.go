package cluster

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// ErrNoFile is returned for a file that object storage does not have.
var ErrNoFile = errors.New("there is no such file in object storage")

// Files reads what Velero keeps in object storage about a backup or a restore,
// unpacked.
type Files interface {
	File(ctx context.Context, kind velerov1api.DownloadTargetKind, name string) ([]byte, error)
}

const (
	// downloadTimeout is for Velero to answer a request, and for the download. Velero
	// answers one request at a time, and starts a process for each.
	downloadTimeout = 30 * time.Second
	// downloadRequests is how many are made: one during which Velero did not get at
	// its object storage is never answered.
	downloadRequests = 2
	// maxFile bounds what is read into memory.
	maxFile = 256 << 20
)

// Downloads asks the cluster's Velero for signed URLs and gets the files
// itself.
type Downloads struct {
	Client    client.Client
	Namespace string
	HTTP      *http.Client  // http.DefaultClient when nil
	Timeout   time.Duration // of one request; 30s when zero
	Interval  time.Duration // between looks at the request; 100ms when zero
}

// File implements Files. The requests made for it are deleted again.
func (d *Downloads) File(ctx context.Context, kind velerov1api.DownloadTargetKind, name string) ([]byte, error) {
	timeout := d.Timeout
	if timeout == 0 {
		timeout = downloadTimeout
	}
	var content []byte
	var err error
	for range downloadRequests {
		if content, err = d.file(ctx, timeout, kind, name); !errors.Is(err, ErrTimedOut) {
			break
		}
	}
	if err != nil {
		if errors.Is(err, ErrTimedOut) {
			err = hint.Add(fmt.Errorf("no answer from Velero within %s", downloadRequests*timeout),
				"check that the Velero server of this cluster runs and that its BackupStorageLocation is Available")
		}
		return nil, fmt.Errorf("download %s of %q: %w", kind, name, err)
	}
	return content, nil
}

func (d *Downloads) file(ctx context.Context, timeout time.Duration, kind velerov1api.DownloadTargetKind, name string) ([]byte, error) {
	req := &velerov1api.DownloadRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, GenerateName: "kubectl-dr-"},
		Spec:       velerov1api.DownloadRequestSpec{Target: velerov1api.DownloadTarget{Kind: kind, Name: name}},
	}
	if err := d.Client.Create(ctx, req); err != nil {
		return nil, err
	}
	defer func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		// Velero deletes what is left behind when it has expired.
		_ = d.Client.Delete(after, req)
	}()
	interval := d.Interval
	if interval == 0 {
		interval = 100 * time.Millisecond
	}
	err := Poll(ctx, interval, timeout, func(ctx context.Context) (bool, error) {
		err := d.Client.Get(ctx, client.ObjectKeyFromObject(req), req)
		return req.Status.DownloadURL != "", err
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return d.get(ctx, req.Status.DownloadURL)
}

func (d *Downloads) get(ctx context.Context, signed string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, signed, nil)
	if err != nil {
		return nil, errors.New("the download URL given by Velero is not a URL")
	}
	httpClient := d.HTTP
	if httpClient == nil {
		httpClient = http.DefaultClient
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		// The signature in the URL is a secret.
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, hint.Add(fmt.Errorf("get it from %s: %w", req.URL.Host, err),
			"object storage must be reachable from here; set config.publicUrl of the BackupStorageLocation if it has another address for you than for Velero")
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, ErrNoFile
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("get it from %s: %s", req.URL.Host, strings.ToLower(resp.Status))
	}
	zip, err := gzip.NewReader(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	content, err := io.ReadAll(io.LimitReader(zip, maxFile))
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	return content, nil
}

// ReadJSON reads a file that holds JSON.
func ReadJSON[T any](ctx context.Context, files Files, kind velerov1api.DownloadTargetKind, name string) (T, error) {
	var value T
	content, err := files.File(ctx, kind, name)
	if err != nil {
		return value, err
	}
	if err := json.Unmarshal(content, &value); err != nil {
		return value, fmt.Errorf("read %s of %q: %w", kind, name, err)
	}
	return value, nil
}
