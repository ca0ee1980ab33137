package traffic

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
)

// Registry is how the external-dns of a cluster tells which records are its own: by
// TXT records beside them, which name an owner
// (https://kubernetes-sigs.github.io/external-dns/latest/docs/registry/txt/).
type Registry struct {
	// Deployment is "<namespace>/<name>", and Ready says that it has a pod that is.
	Deployment string
	Ready      bool
	// Kind is that of the registry; only "txt" can be looked at.
	Kind string
	// Owner is what it calls itself.
	Owner string
	// Deletes says that it deletes records that nothing asks for any more.
	Deletes bool

	prefix, suffix, wildcard string
}

// FindRegistry returns that of the external-dns in a cluster, nil when none runs
// there. One that is ready goes before others.
func FindRegistry(ctx context.Context, c client.Reader) (*Registry, error) {
	list := &appsv1api.DeploymentList{}
	if err := c.List(ctx, list); err != nil {
		return nil, fmt.Errorf("list deployments: %w", err)
	}
	var found *Registry
	for i := range list.Items {
		d := &list.Items[i]
		for _, container := range d.Spec.Template.Spec.Containers {
			if !strings.Contains(container.Image, "external-dns") {
				continue
			}
			r := registryOf(container)
			r.Deployment, r.Ready = d.Namespace+"/"+d.Name, d.Status.ReadyReplicas > 0
			if found == nil || r.Ready && !found.Ready {
				found = r
			}
		}
	}
	return found, nil
}

// registryOf reads the flags of a container, and the variables that stand for them.
func registryOf(c corev1api.Container) *Registry {
	flag := func(name, fallback string) string {
		value := fallback
		variable := "EXTERNAL_DNS_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		for _, e := range c.Env {
			if e.Name == variable && e.Value != "" {
				value = e.Value
			}
		}
		if v, ok := cluster.Flag(name, c); ok {
			value = v
		}
		return value
	}
	return &Registry{
		Kind: flag("registry", "txt"), Owner: flag("txt-owner-id", "default"), Deletes: flag("policy", "sync") == "sync",
		prefix: strings.ToLower(flag("txt-prefix", "")), suffix: strings.ToLower(flag("txt-suffix", "")), wildcard: flag("txt-wildcard-replacement", ""),
	}
}

// recordType stands for the type in a prefix or suffix.
const recordType = "%{record_type}"

// name returns that of the TXT record about a host's records of a type.
func (r *Registry) name(host, kind string) string {
	kind = strings.ToLower(kind)
	first, rest, _ := strings.Cut(host, ".")
	if first == "*" && r.wildcard != "" {
		first = r.wildcard
	}
	if !strings.Contains(r.prefix+r.suffix, recordType) {
		first = kind + "-" + first
	}
	first = strings.ReplaceAll(r.prefix, recordType, kind) + first + strings.ReplaceAll(r.suffix, recordType, kind)
	if rest == "" {
		return first
	}
	return first + "." + rest
}

// owned reads a TXT record's text.
var owned = regexp.MustCompile(`^"?heritage=external-dns,external-dns/owner=([^,"]*)`)

// ownerIn returns the owner that a text names, "" when it is no record of a registry.
func ownerIn(text string) string {
	if m := owned.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// text is what a registry writes about a record of an owner, in the place of an old
// text if there was one.
func text(old, owner string) string {
	if was := ownerIn(old); was != "" {
		return strings.Replace(old, "external-dns/owner="+was, "external-dns/owner="+owner, 1)
	}
	return "heritage=external-dns,external-dns/owner=" + owner
}
