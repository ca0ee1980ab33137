// Package oracles judges rewritten objects by what others wrote: Traefik's own
// router and the schemas of custom resource definitions. It is a module of its
// own, to keep their dependencies out of the product's.
package oracles
