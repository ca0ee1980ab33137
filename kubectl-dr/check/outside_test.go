package check

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestServiceClient(t *testing.T) {
	t.Parallel()
	hung := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/private":
			w.WriteHeader(http.StatusUnauthorized)
		case "/broken":
			w.WriteHeader(http.StatusBadGateway)
		case "/hung":
			<-hung
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(hung) })
	gone := httptest.NewServer(nil)
	gone.Close()
	tcp := func(url string) string { return strings.Replace(url, "http:", "tcp:", 1) }
	tests := []struct{ name, url, want, err string }{
		{"a page", server.URL, "answered 200 ok", ""},
		{"one that wants to know who asks", server.URL + "/private", "answered 401 unauthorized", ""},
		{"one that does not work", server.URL + "/broken", "", "answered 502 bad gateway"},
		{"one that never answers", server.URL + "/hung", "", "deadline exceeded"},
		{"one that is not there", gone.URL, "", "connection refused"},
		{"a port", tcp(server.URL), "takes connections", ""},
		{"a port that nobody listens on", tcp(gone.URL), "", "connection refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := &ServiceClient{Timeout: 5 * time.Second}
			if tt.name == "one that never answers" {
				c.Timeout = 10 * time.Millisecond
			}
			got, err := c.Ask(t.Context(), tt.url)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}
