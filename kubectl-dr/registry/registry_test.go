package registry

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	t.Parallel()
	const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for s, want := range map[string]string{
		"busybox":                           "docker.io/library/busybox:latest",
		"bitnami/redis:7":                   "docker.io/bitnami/redis:7",
		"index.docker.io/library/nginx":     "docker.io/library/nginx:latest",
		"localhost/app":                     "localhost/app:latest",
		"registry.example.org:5000/a/b:1.2": "registry.example.org:5000/a/b:1.2",
		"registry.example.org:5000/a":       "registry.example.org:5000/a:latest",
		"ghcr.io/org/app@" + digest:         "ghcr.io/org/app@" + digest,
		"ghcr.io/org/app:v1@" + digest:      "ghcr.io/org/app@" + digest,
	} {
		i, err := Parse(s)
		require.NoError(t, err, s)
		assert.Equal(t, want, i.String())
	}
	for _, s := range []string{"", "UPPER", "a b", "ghcr.io/", "app:", "app@", "app@@", "app:1@sha256:x", "../x"} {
		_, err := Parse(s)
		assert.Error(t, err, s)
	}
}

func FuzzParse_whatItReadsReadsTheSame(f *testing.F) {
	f.Add("registry.example.org:5000/a/b:1.2")
	f.Add("busybox")
	f.Fuzz(func(t *testing.T, s string) {
		i, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(i.String())
		require.NoError(t, err, i.String())
		assert.Equal(t, i, again)
	})
}

func TestParseCredentials(t *testing.T) {
	t.Parallel()
	auth := base64.StdEncoding.EncodeToString([]byte("me:pass:word"))
	got, err := ParseCredentials([]byte(`{"auths": {"https://index.docker.io/v1/": {"auth": "` + auth + `"}, "ghcr.io": {"username": "u", "password": "p"}}}`))
	require.NoError(t, err)
	assert.Equal(t, Credentials{"docker.io": {"me", "pass:word"}, "ghcr.io": {"u", "p"}}, got)
	_, err = ParseCredentials([]byte("hunter2"))
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "hunter2")
}

// server plays a registry with a token server. Repositories that begin with
// "private" want the user "me".
func server(t *testing.T, challenge string) (host string, asked *[]string) {
	t.Helper()
	asked = &[]string{}
	var base string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.Method+" "+r.URL.Path)
		user, password, _ := r.BasicAuth()
		known := user == "me" && password == "secret"
		if r.URL.Path == "/token" {
			private := strings.HasPrefix(r.URL.Query().Get("scope"), "repository:private")
			if private && !known {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			fmt.Fprintf(w, `{"token": "good for %s"}`, r.URL.Query().Get("scope"))
			return
		}
		name, reference, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
		allowed := r.Header.Get("Authorization") == "Bearer good for repository:"+name+":pull" || challenge == "Basic" && known
		switch {
		case challenge != "" && !allowed:
			if challenge == "Bearer" {
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+base+`/token",service="test"`)
			} else {
				w.Header().Set("WWW-Authenticate", challenge)
			}
			w.WriteHeader(http.StatusUnauthorized)
		case reference != "1":
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(s.Close)
	base = s.URL
	return s.Listener.Addr().String(), asked
}

func TestClient_Check(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, challenge, image string
		user                   Credential
		want                   error
		says                   string
	}{
		{name: "an open registry", image: "app:1"},
		{name: "a tag that is not there", image: "app:2", want: ErrNotFound},
		{name: "a token for anybody", challenge: "Bearer", image: "app:1"},
		{name: "a token that is refused", challenge: "Bearer", image: "private/app:1", want: ErrDenied},
		{name: "a token for a user", challenge: "Bearer", image: "private/app:1", user: Credential{"me", "secret"}},
		{name: "a wrong password", challenge: "Bearer", image: "private/app:1", user: Credential{"me", "wrong"}, want: ErrDenied},
		{name: "a password", challenge: "Basic", image: "app:1", user: Credential{"me", "secret"}},
		{name: "no password", challenge: "Basic", image: "app:1", want: ErrDenied},
		{name: "a token server that is not safe", challenge: `Bearer realm="http://tokens.example.org/"`, image: "app:1", user: Credential{"me", "secret"}, says: "no token server to send a password to"},
		{name: "an unknown way", challenge: "Negotiate", image: "app:1", says: `authorised by "Negotiate"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			host, asked := server(t, tt.challenge)
			image, err := Parse(host + "/" + tt.image)
			require.NoError(t, err)
			var with []Credentials
			if tt.user.User != "" {
				with = []Credentials{{host: tt.user, "elsewhere.example.org": {"other", "other"}}}
			}
			err = (&Client{}).Check(t.Context(), image, with)
			switch {
			case tt.says != "":
				assert.ErrorContains(t, err, tt.says)
			case tt.want != nil:
				assert.ErrorIs(t, err, tt.want)
			default:
				assert.NoError(t, err)
			}
			for _, request := range *asked {
				assert.Regexp(t, "^(HEAD /v2/|GET /token)", request, "nothing is downloaded")
			}
		})
	}
}

func TestClient_Check_aRegistryThatIsAway(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(nil)
	host := s.Listener.Addr().String()
	s.Close()
	err := (&Client{}).Check(t.Context(), Image{Host: host, Name: "app", Reference: "1"}, nil)
	require.ErrorContains(t, err, "ask registry "+host)
	assert.NotErrorIs(t, err, ErrNotFound)
}
