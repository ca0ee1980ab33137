package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/gitops"
)

// Services asks what is outside; *ServiceClient does.
type Services interface {
	// Ask returns what the service of an http, https or tcp URL answered, or why it is
	// of no use.
	Ask(ctx context.Context, url string) (string, error)
}

// ServiceClient asks over the network.
type ServiceClient struct {
	Timeout time.Duration // for one question; 10s when zero
}

// Ask implements Services.
func (c *ServiceClient) Ask(ctx context.Context, address string) (string, error) {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	if u.Scheme == "tcp" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
		if err != nil {
			return "", err
		}
		return "takes connections", conn.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusInternalServerError {
		return "", fmt.Errorf("get %s: answered %s", address, strings.ToLower(resp.Status))
	}
	return "answered " + strings.ToLower(resp.Status), nil
}

// requires asks what the plan says that the application needs.
func (in *inspection) requires(ctx context.Context) {
	all := in.plan.Spec.Requires
	if in.Services == nil && len(all) > 0 {
		in.skip("services", "they are not asked")
		return
	}
	answers, errs := make([]string, len(all)), make([]error, len(all))
	var asking errgroup.Group
	asking.SetLimit(asksAtOnce)
	for i, r := range all {
		asking.Go(func() error {
			answers[i], errs[i] = in.Services.Ask(ctx, r.URL)
			return nil
		})
	}
	_ = asking.Wait()
	for i, r := range all {
		if errs[i] != nil {
			in.problem(r.Name, errs[i].Error(), "mend it, or the way to it from here: the application needs it, and it does not come with a backup")
			continue
		}
		in.ok(r.Name, r.URL+" "+answers[i])
	}
}

// gitOps looks whether what comes from Git would come at the recovery site, and
// whether it lets itself be paused.
func (in *inspection) gitOps(ctx context.Context) {
	seen := map[string]bool{}
	for _, o := range gitops.Objects(in.plan.Spec.GitOps) {
		sources, err := gitops.Sources(ctx, in.Cluster.Client, o)
		switch {
		case gitops.Missing(err):
			in.skip(o.String(), "it is not in this cluster")
			continue
		case err != nil:
			in.failed(o.String(), err, "")
			continue
		}
		var reverted *gitops.RevertedError
		switch err := gitops.WouldRevert(ctx, in.Cluster.Client, o); {
		case errors.As(err, &reverted):
			in.problem(o.String(), "it has to be paused, and "+err.Error(), reverted.Hint())
		case err != nil:
			in.failed(o.String(), err, "")
		default:
			in.ok(o.String(), "")
		}
		for _, s := range sources {
			if seen[s.Name] {
				continue
			}
			seen[s.Name] = true
			switch {
			case s.Problem != "":
				in.problem(s.Name, s.Problem, "mend it, or give the recovery site a mirror of it: what comes from Git would not come")
			case s.Unknown != "":
				in.skip(s.Name, s.Unknown)
			default:
				in.ok(s.Name, "it could be read")
			}
		}
	}
}
