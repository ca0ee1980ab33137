package rules

import "strings"

// gitOpsOwned are beginnings of labels and annotations by which a GitOps
// controller knows what is its own. The label app.kubernetes.io/instance, which
// Argo CD may use too, is the application's as much: labelValues maps it, in
// selectors too.
var gitOpsOwned = []string{
	"argocd.argoproj.io/",
	"kustomize.toolkit.fluxcd.io/", "helm.toolkit.fluxcd.io/", "fluxcd.io/sync-",
	"objectset.rio.cattle.io/", "fleet.cattle.io/",
	"config.k8s.io/owning-inventory", "config.kubernetes.io/owning-inventory",
}

func rewriteGitOps(e *edit, p *Rewrites) error {
	if p.GitOps != GitOpsStrip {
		return nil
	}
	for _, field := range []string{"labels", "annotations"} {
		for _, key := range e.keys("metadata", field) {
			for _, beginning := range gitOpsOwned {
				if strings.HasPrefix(key, beginning) {
					e.remove("metadata", field, key)
				}
			}
		}
	}
	return nil
}
