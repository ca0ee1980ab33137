package gitops

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Source is a repository that an object comes from, of Git or of charts, as the
// engine sees it: with its credentials, and from where it runs.
type Source struct {
	// Name is that of the engine's object for it, or its URL where there is none.
	Name string
	// Problem is why the engine can't read it.
	Problem string
	// Unknown is why nobody knows whether it can.
	Unknown string
}

// Sources returns those of an object that is there.
func Sources(ctx context.Context, c client.Client, o Object) ([]Source, error) {
	u, err := o.get(ctx, c)
	if err != nil {
		return nil, err
	}
	if o.Group == argoGroup {
		return argoSources(u), nil
	}
	var all []Source
	for _, at := range [][]string{{"spec", "sourceRef"}, {"spec", "chartRef"}, {"spec", "chart", "spec", "sourceRef"}} {
		ref, ok, _ := unstructured.NestedStringMap(u.Object, at...)
		if !ok {
			continue
		}
		s, err := fluxSource(ctx, c, ref, o.Namespace)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// argoSources are repositories of an Application. Argo CD keeps what went wrong with
// the Application, not with each repository.
func argoSources(u *unstructured.Unstructured) []Source {
	sources, _, _ := unstructured.NestedSlice(u.Object, "spec", "sources")
	if one, ok, _ := unstructured.NestedMap(u.Object, "spec", "source"); ok {
		sources = append(sources, one)
	}
	var problem, unknown string
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, condition := range conditions {
		if m, _ := condition.(map[string]any); m["type"] == "ComparisonError" {
			problem, _ = m["message"].(string)
		}
	}
	if sync, _, _ := unstructured.NestedString(u.Object, "status", "sync", "status"); problem == "" && (sync == "" || sync == "Unknown") {
		unknown = "Argo CD has not compared the Application with it"
	}
	var all []Source
	for _, source := range sources {
		m, _ := source.(map[string]any)
		url, _ := m["repoURL"].(string)
		if !slices.ContainsFunc(all, func(s Source) bool { return s.Name == url }) {
			all = append(all, Source{Name: url, Problem: problem, Unknown: unknown})
		}
	}
	return all
}

// fluxSources is the group of Flux's repositories.
const fluxSources = "source.toolkit.fluxcd.io"

func fluxSource(ctx context.Context, c client.Client, ref map[string]string, namespace string) (Source, error) {
	key := client.ObjectKey{Namespace: cmp.Or(ref["namespace"], namespace), Name: ref["name"]}
	s := Source{Name: ref["kind"] + " " + key.String()}
	mapping, err := c.RESTMapper().RESTMapping(schema.GroupKind{Group: fluxSources, Kind: ref["kind"]})
	if err == nil {
		var u *unstructured.Unstructured
		if u, err = (Object{mapping.GroupVersionKind, key}).get(ctx, c); err == nil {
			return state(s, u), nil
		}
	}
	if Missing(err) {
		s.Problem = "it is not in the cluster"
		return s, nil
	}
	return s, fmt.Errorf("look at %s: %w", s.Name, err)
}

func state(s Source, u *unstructured.Unstructured) Source {
	kind, _, _ := unstructured.NestedString(u.Object, "spec", "type")
	suspended, _, _ := unstructured.NestedBool(u.Object, "spec", "suspend")
	ready, message := readiness(u)
	switch {
	case suspended:
		s.Unknown = "it is suspended"
	case kind == "oci":
		s.Unknown = "Flux reads a registry of charts only when it needs one"
	case ready == metav1.ConditionTrue:
	case ready == metav1.ConditionFalse:
		s.Problem = strings.TrimSpace(message)
	default:
		s.Unknown = "Flux has not read it yet"
	}
	return s
}

// WouldRevert returns why a pause of an object would not last, a *RevertedError where
// that is told beforehand; nil for one that would, or that is not there.
func WouldRevert(ctx context.Context, c client.Reader, o Object) error {
	u, err := o.get(ctx, c)
	switch {
	case Missing(err):
		return nil
	case err != nil:
		return err
	case o.Group != argoGroup || !reconciles(u):
		return nil
	}
	return appSetReverts(ctx, c, u)
}
