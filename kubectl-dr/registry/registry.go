// Package registry asks container registries whether an image is there, by the
// OCI distribution API (https://github.com/opencontainers/distribution-spec). It
// downloads nothing.
package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// What a registry says of an image that it doesn't give out.
var (
	ErrNotFound = errors.New("the registry does not have it")
	ErrDenied   = errors.New("the registry does not let it be pulled")
)

// Image is where an image is.
type Image struct {
	// Host is the registry's, with its port if it has one.
	Host string
	// Name is the repository, Reference the tag or digest.
	Name, Reference string
}

// String returns the image's whole name.
func (i Image) String() string {
	separator := ":"
	if strings.Contains(i.Reference, ":") {
		separator = "@"
	}
	return i.Host + "/" + i.Name + separator + i.Reference
}

const dockerHub = "docker.io"

var (
	address    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]+)?$`)
	repository = regexp.MustCompile(`^[a-z0-9]+([._/-]+[a-z0-9]+)*$`)
	// A tag, or a digest.
	reference = regexp.MustCompile(`^(\w[\w.-]{0,127}|[a-z0-9]+([+._-][a-z0-9]+)*:[0-9a-f]{32,})$`)
)

// Parse reads an image as pods name it, with Docker's defaults for what is left
// out.
func Parse(s string) (Image, error) {
	i := Image{Host: dockerHub, Reference: "latest"}
	name := s
	if before, digest, ok := strings.Cut(name, "@"); ok {
		name, i.Reference = before, digest
	}
	if at := strings.LastIndex(name, ":"); at > strings.LastIndex(name, "/") {
		if !strings.Contains(i.Reference, ":") {
			i.Reference = name[at+1:]
		}
		name = name[:at]
	}
	if host, rest, ok := strings.Cut(name, "/"); ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		i.Host, name = host, rest
	}
	if i.Host == "index.docker.io" {
		i.Host = dockerHub
	}
	if i.Host == dockerHub && !strings.Contains(name, "/") {
		name = "library/" + name
	}
	i.Name = name
	if !address.MatchString(i.Host) || !repository.MatchString(name) || !reference.MatchString(i.Reference) {
		return i, fmt.Errorf("%q is not the name of an image", s)
	}
	return i, nil
}

// Credential is a user of a registry.
type Credential struct{ User, Password string }

// Credentials are users by the registry's host.
type Credentials map[string]Credential

// ParseCredentials reads the .dockerconfigjson of a Secret.
func ParseCredentials(content []byte) (Credentials, error) {
	var file struct {
		Auths map[string]struct {
			Username string `json:"username"`
			Password string `json:"password"`
			Auth     string `json:"auth"`
		} `json:"auths"`
	}
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, errors.New("it is not a Docker configuration") // the cause may quote it
	}
	all := Credentials{}
	for host, a := range file.Auths {
		c := Credential{a.Username, a.Password}
		if raw, err := base64.StdEncoding.DecodeString(a.Auth); c.User == "" && err == nil {
			c.User, c.Password, _ = strings.Cut(string(raw), ":")
		}
		host = strings.TrimPrefix(strings.TrimPrefix(host, "https://"), "http://")
		host, _, _ = strings.Cut(host, "/")
		if host == "index.docker.io" || host == "registry-1.docker.io" {
			host = dockerHub
		}
		all[host] = c
	}
	return all, nil
}

// Client asks registries.
type Client struct {
	HTTP    *http.Client  // http.DefaultClient when nil
	Timeout time.Duration // for one image; 10s when zero
}

// accept are the kinds of manifests there are.
const accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " +
	"application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"

// Check returns nil when the image can be pulled with one of the credentials, or
// with none. The error is ErrNotFound or ErrDenied when the registry says so, and
// another when it can't be asked. Credentials go to the registry they are for, and
// to the token server that it names.
func (c *Client) Check(ctx context.Context, i Image, with []Credentials) error {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var users []Credential
	for _, all := range with {
		if u, ok := all[i.Host]; ok {
			users = append(users, u)
		}
	}
	var err error
	for _, u := range append(users, Credential{}) {
		if err = c.check(ctx, i, u); !errors.Is(err, ErrDenied) {
			return err
		}
	}
	return err
}

func (c *Client) check(ctx context.Context, i Image, user Credential) error {
	resp, err := c.head(ctx, i, "")
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusUnauthorized {
		auth, err := c.authorize(ctx, i, resp.Header.Get("WWW-Authenticate"), user)
		if err != nil {
			return err
		}
		if resp, err = c.head(ctx, i, auth); err != nil {
			return err
		}
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusNotFound:
		return ErrNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		return ErrDenied
	}
	return fmt.Errorf("ask registry %s: %s", i.Host, strings.ToLower(resp.Status))
}

// scheme is https but for registries of this machine, as containerd and Docker do.
func scheme(host string) string {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	if ip := net.ParseIP(name); name == "localhost" || ip != nil && ip.IsLoopback() {
		return "http"
	}
	return "https"
}

func (c *Client) head(ctx context.Context, i Image, auth string) (*http.Response, error) {
	host := i.Host
	if host == dockerHub {
		host = "registry-1.docker.io"
	}
	u := url.URL{Scheme: scheme(host), Host: host, Path: "/v2/" + i.Name + "/manifests/" + i.Reference}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	if auth != "" {
		req.Header.Set("Authorization", auth)
	}
	resp, err := c.do(req)
	if err != nil {
		return nil, fmt.Errorf("ask registry %s: %w", i.Host, err)
	}
	resp.Body.Close()
	return resp, nil
}

func (c *Client) do(req *http.Request) (*http.Response, error) {
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // the URL is known
	}
	return resp, err
}

var parameter = regexp.MustCompile(`([a-z]+)="([^"]*)"`)

// authorize answers a challenge, and returns the header that does.
func (c *Client) authorize(ctx context.Context, i Image, challenge string, user Credential) (string, error) {
	kind, rest, _ := strings.Cut(challenge, " ")
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(user.User+":"+user.Password))
	switch strings.ToLower(kind) {
	case "basic":
		if user.User == "" {
			return "", ErrDenied
		}
		return basic, nil
	case "bearer":
	default:
		return "", fmt.Errorf("ask registry %s: it wants to be authorised by %q, which is not known here", i.Host, kind)
	}
	said := map[string]string{}
	for _, m := range parameter.FindAllStringSubmatch(rest, -1) {
		said[m[1]] = m[2]
	}
	realm, err := url.Parse(said["realm"])
	if err != nil || realm.Host == "" || realm.Scheme != "https" && scheme(realm.Host) != "http" {
		return "", fmt.Errorf("ask registry %s: %q is no token server to send a password to", i.Host, said["realm"])
	}
	query := realm.Query()
	query.Set("service", said["service"])
	query.Set("scope", "repository:"+i.Name+":pull")
	realm.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return "", err
	}
	if user.User != "" {
		req.Header.Set("Authorization", basic)
	}
	resp, err := c.do(req)
	if err != nil {
		return "", fmt.Errorf("ask token server %s: %w", realm.Host, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
		return "", ErrDenied
	}
	var token struct {
		Token  string `json:"token"`
		Access string `json:"access_token"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&token); err != nil {
		return "", fmt.Errorf("ask token server %s: %s, and no token", realm.Host, strings.ToLower(resp.Status))
	}
	if token.Token == "" {
		token.Token = token.Access
	}
	return "Bearer " + token.Token, nil
}
