package cluster

import (
	"compress/gzip"
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// velero answers download requests with one URL after the other, the last of them from
// then on.
func velero(urls ...string) client.Client {
	return interceptor.NewClient(fake.NewClientBuilder().WithScheme(Scheme()).Build(), interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			if err := c.Create(ctx, obj, opts...); err != nil {
				return err
			}
			req := obj.(*velerov1api.DownloadRequest)
			req.Status.DownloadURL = urls[0]
			urls = urls[min(1, len(urls)-1):]
			return c.Update(ctx, req)
		},
	})
}

// pack answers with a file as object storage has it.
func pack(w http.ResponseWriter) {
	z := gzip.NewWriter(w)
	_, _ = z.Write([]byte(`["a"]`))
	_ = z.Close()
}

func TestDownloads(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		answer func(http.ResponseWriter)
		want   string
		err    string
	}{
		{"a packed file", pack, `["a"]`, ""},
		{"a file that is not there", func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, "", ErrNoFile.Error()},
		{"storage that refuses", func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) }, "", "403 forbidden"},
		{"something that is not packed", func(w http.ResponseWriter) { _, _ = w.Write([]byte("hello")) }, "", "unpack"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { tt.answer(w) }))
			defer store.Close()
			c := velero(store.URL + "/file?signature=secret")
			d := &Downloads{Client: c, Namespace: "velero", Interval: time.Millisecond}
			got, err := d.File(t.Context(), velerov1api.DownloadTargetKindBackupVolumeInfos, "b")
			assert.Equal(t, tt.want, string(got))
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				assert.NotContains(t, err.Error(), "secret")
			}
			var left velerov1api.DownloadRequestList
			require.NoError(t, c.List(t.Context(), &left))
			assert.Empty(t, left.Items, "the request is cleaned up")
		})
	}
}

func TestDownloads_saysWhenVeleroDoesNotAnswer(t *testing.T) {
	t.Parallel()
	c := velero("")
	d := &Downloads{Client: c, Namespace: "velero", Interval: time.Millisecond, Timeout: 20 * time.Millisecond}
	_, err := d.File(t.Context(), velerov1api.DownloadTargetKindBackupVolumeInfos, "b")
	require.ErrorContains(t, err, "no answer from Velero within 40ms")
	var left velerov1api.DownloadRequestList
	require.NoError(t, c.List(t.Context(), &left))
	assert.Empty(t, left.Items)
}

func TestDownloads_asksAgain(t *testing.T) {
	t.Parallel()
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { pack(w) }))
	defer store.Close()
	c := velero("", store.URL)
	// The first request takes its whole time; the second has all it needs.
	d := &Downloads{Client: c, Namespace: "velero", Interval: time.Millisecond, Timeout: 2 * time.Second}
	got, err := d.File(t.Context(), velerov1api.DownloadTargetKindBackupVolumeInfos, "b")
	require.NoError(t, err)
	assert.Equal(t, `["a"]`, string(got))
	var left velerov1api.DownloadRequestList
	require.NoError(t, c.List(t.Context(), &left))
	assert.Empty(t, left.Items)
}

func TestDownloads_keepsTheSignatureOutOfErrors(t *testing.T) {
	t.Parallel()
	d := &Downloads{Client: velero("http://127.0.0.1:1/file?signature=secret"), Namespace: "velero", Interval: time.Millisecond}
	_, err := d.File(t.Context(), velerov1api.DownloadTargetKindBackupVolumeInfos, "b")
	require.ErrorContains(t, err, "get it from 127.0.0.1:1")
	assert.NotContains(t, err.Error(), "secret")
}
