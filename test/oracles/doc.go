// Package oracles judges rewritten objects by what others wrote: Traefik's own
// router, a real kube-apiserver with the custom resource definitions of Traefik,
// Gateway API, Istio, cert-manager, external-dns and OpenShift, cert-manager's
// controllers, external-dns with a BIND, a real Velero that restores with the
// plugin, Flux's controllers with a Git, and Argo CD's custom resource definitions.
// It is a module of its own, to keep their dependencies out of the
// product's.
package oracles
