package check

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/dns"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/registry"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/traffic"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

// Images asks registries; *registry.Client does. The errors are its own.
type Images interface {
	Check(ctx context.Context, image registry.Image, with []registry.Credentials) error
}

// asksAtOnce bounds the questions to registries that run side by side.
const asksAtOnce = 4

// profile returns the plan's profile for a kind of run, nil for none.
func (in *inspection) profile(kind plan.RunKind) *rules.Profile {
	if in.rules == nil || in.plan.Spec.Profile(kind) == "" {
		return nil
	}
	p, err := in.rules.Profile(in.plan.Spec.Profile(kind))
	if err != nil {
		return nil // profiles says so
	}
	return p
}

// wanted is an image of the backup.
type wanted struct {
	by    podTemplate
	with  []registry.Credentials
	local bool // it is not pulled
	// secrets are pull secrets that the backup doesn't have.
	secrets []string
}

// images looks whether the images that a failover would start can be had: a node
// has them, or their registry gives them out, as seen from here.
func (in *inspection) images(ctx context.Context) {
	if len(in.recovered.pods) == 0 {
		return
	}
	nodes := &corev1api.NodeList{}
	if err := in.Cluster.Client.List(ctx, nodes); err != nil {
		in.failed("nodes' images", err, "")
		return
	}
	onNode := map[string]bool{}
	for i := range nodes.Items {
		for _, image := range nodes.Items[i].Status.Images {
			for _, name := range image.Names {
				onNode[name] = true
			}
		}
	}
	all := in.wantedImages()
	ready, unasked := 0, 0
	type answer struct {
		image registry.Image
		err   error
	}
	answers := map[string]*answer{}
	var asking errgroup.Group
	asking.SetLimit(asksAtOnce)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		image, err := registry.Parse(name)
		switch {
		case err != nil:
			in.problem("image "+name, err.Error(), "correct it in "+all[name].by.String())
			continue
		case onNode[name] || onNode[image.String()]:
			ready++
			continue
		case all[name].local:
			in.warn("image "+name, fmt.Sprintf("%s never pulls it, and no node says that it has it", &all[name].by), "put it on the node that runs it")
			continue
		case in.Images == nil:
			unasked++
			continue
		}
		a := &answer{image: image}
		answers[name] = a
		asking.Go(func() error {
			a.err = in.Images.Check(ctx, image, all[name].with)
			return nil
		})
	}
	_ = asking.Wait()
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		a, what := answers[name], "image "+name
		switch {
		case a.err == nil:
			ready++
		case errors.Is(a.err, registry.ErrNotFound):
			in.problem(what, a.err.Error(), "push it there, or map registries or images in the profile")
		case errors.Is(a.err, registry.ErrDenied) && len(all[name].secrets) > 0:
			in.problem(what, fmt.Sprintf("%s, and the backup does not have the pull secret %s", a.err, strings.Join(all[name].secrets, ", ")), "back the Secret up")
		case errors.Is(a.err, registry.ErrDenied):
			in.problem(what, a.err.Error(), "give its pods a pull secret, or one that is still good")
		default:
			in.warn(what, a.err.Error(), "whether it can be pulled is not known: make its registry reachable, or mirror it and map registries in the profile")
		}
	}
	if ready > 0 {
		in.ok("images", fmt.Sprintf("%d of %d are on a node or in their registry", ready, len(all)))
	}
	if unasked > 0 {
		in.skip("other images", fmt.Sprintf("%s: registries are not asked", report.Count(unasked, "image")))
	}
}

func (in *inspection) wantedImages() map[string]*wanted {
	secrets := map[string]registry.Credentials{}
	have := map[string]bool{}
	accounts := map[string][]string{}
	for _, obj := range in.recovered.objects {
		id := obj.GetNamespace() + "/" + obj.GetName()
		switch obj.GetKind() {
		case "Secret":
			have[id] = true
			if c, err := registry.ParseCredentials(secretData(obj, corev1api.DockerConfigJsonKey)); err == nil {
				secrets[id] = c
			}
		case "ServiceAccount":
			list, _, _ := unstructured.NestedSlice(obj.Object, "imagePullSecrets")
			for _, item := range list {
				if m, ok := item.(map[string]any); ok {
					name, _ := m["name"].(string)
					accounts[id] = append(accounts[id], name)
				}
			}
		}
	}
	all := map[string]*wanted{}
	for _, t := range in.recovered.pods {
		ns := t.of.GetNamespace()
		account := t.spec.ServiceAccountName
		if account == "" {
			account = "default"
		}
		names := slices.Clone(accounts[ns+"/"+account])
		for _, s := range t.spec.ImagePullSecrets {
			names = append(names, s.Name)
		}
		for _, c := range slices.Concat(t.spec.InitContainers, t.spec.Containers) {
			w := all[c.Image]
			if w == nil {
				w = &wanted{by: t, local: true}
				all[c.Image] = w
			}
			w.local = w.local && c.ImagePullPolicy == corev1api.PullNever
			for _, name := range names {
				if id := ns + "/" + name; secrets[id] != nil {
					w.with = append(w.with, secrets[id])
				} else if !have[id] && !slices.Contains(w.secrets, id) {
					w.secrets = append(w.secrets, id)
				}
			}
		}
	}
	return all
}

// secretData returns a value of a Secret.
func secretData(obj *unstructured.Unstructured, key string) []byte {
	data, _, _ := unstructured.NestedStringMap(obj.Object, "data")
	raw, err := base64.StdEncoding.DecodeString(data[key])
	if err != nil {
		return nil
	}
	return raw
}

// expiresSoon is how long before a certificate expires it is worth a warning.
const expiresSoon = 14 * 24 * time.Hour

// certificates looks at those that the backup brings, and at routes whose own is
// missing.
func (in *inspection) certificates(context.Context) {
	have := map[string]bool{}  // Secrets
	asked := map[string]bool{} // Secrets that something issues
	fine := 0
	for _, obj := range in.recovered.objects {
		id := obj.GetNamespace() + "/" + obj.GetName()
		switch kind, _, _ := unstructured.NestedString(obj.Object, "type"); {
		case obj.GetKind() == "Certificate":
			name, _, _ := unstructured.NestedString(obj.Object, "spec", "secretName")
			asked[obj.GetNamespace()+"/"+name] = true
		case obj.GetKind() == "Secret" && kind == string(corev1api.SecretTypeTLS):
			have[id] = true
			if in.certificate("certificate "+id, secretData(obj, corev1api.TLSCertKey)) {
				fine++
			}
		}
	}
	for _, obj := range in.recovered.objects {
		if obj.GetKind() != "Ingress" {
			continue
		}
		tls, _, _ := unstructured.NestedSlice(obj.Object, "spec", "tls")
		for _, item := range tls {
			entry, _ := item.(map[string]any)
			name, _ := entry["secretName"].(string)
			id := obj.GetNamespace() + "/" + name
			annotations := obj.GetAnnotations()
			issued := annotations["cert-manager.io/issuer"] != "" || annotations["cert-manager.io/cluster-issuer"] != "" || annotations["kubernetes.io/tls-acme"] == "true"
			if name != "" && !have[id] && !asked[id] && !issued {
				in.problem("certificate "+id, fmt.Sprintf("Ingress %s serves with it, and it is neither in the backup nor issued by anything in it", obj.GetName()), "back the Secret up")
			}
		}
	}
	if fine > 0 {
		in.ok("certificates", fmt.Sprintf("%d in the backup, good for more than %s", fine, report.Age(expiresSoon)))
	}
}

func (in *inspection) certificate(what string, content []byte) bool {
	block, _ := pem.Decode(content)
	if block == nil {
		in.problem(what, "it is no certificate in PEM", "have it issued anew at the source")
		return false
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		in.problem(what, "it can't be read: "+err.Error(), "have it issued anew at the source")
		return false
	}
	left := c.NotAfter.Sub(in.Now())
	until := fmt.Sprintf("for %s until %s", strings.Join(c.DNSNames, ", "), c.NotAfter.UTC().Format(time.DateOnly))
	switch {
	case left <= 0:
		in.problem(what, "it has expired: "+until, "renew it at the source, and see why that did not happen")
		return false
	case left < expiresSoon:
		in.warn(what, fmt.Sprintf("it expires in %s: %s", report.Age(left), until), "renew it at the source, and see that it is issued at the recovery site after a failover")
		return false
	}
	return true
}

// traffic looks whether names can be moved, and how soon clients would notice.
func (in *inspection) traffic(ctx context.Context) {
	t := in.plan.Spec.Traffic
	if t == nil {
		in.skip("names", "the plan says nothing of traffic")
		return
	}
	var registry *traffic.Registry
	if t.Method == plan.TrafficExternalDNS {
		registry = in.externalDNS(ctx)
	}
	if in.Names == nil {
		in.skip("names", "name servers are not asked")
		return
	}
	for _, host := range t.Hosts {
		in.name(ctx, host, registry)
	}
}

func (in *inspection) name(ctx context.Context, host string, registry *traffic.Registry) {
	what := "name " + host
	zone, err := in.Names.Zone(ctx, host)
	switch {
	case errors.Is(err, dns.ErrNoZone):
		in.warn(what, "seen from here, no zone has it: nobody can point it anywhere", "correct spec.traffic.hosts, make the zone, or ask from where the zone is served")
		return
	case err != nil:
		in.warn(what, err.Error(), "make name servers reachable from here, or say --dns-server")
		return
	}
	records, err := in.Names.Records(ctx, zone, host)
	switch {
	case err != nil:
		in.warn(what, fmt.Sprintf("zone %s: %s", zone.Name, err), "make the zone's servers reachable from the recovery site: they have to take the change")
		return
	case len(records) == 0:
		in.warn(what, fmt.Sprintf("zone %s has no address of it", zone.Name), "correct spec.traffic.hosts, if it should have one")
		return
	}
	longest := slices.MaxFunc(records, func(a, b dns.Record) int { return int(a.TTL - b.TTL) })
	message := fmt.Sprintf("zone %s, %s %s, kept for up to %s", zone.Name, longest.Type, longest.Value, report.Age(longest.TTL))
	if rto := in.plan.Spec.Objectives.RTO.Duration; longest.TTL > rto {
		in.warn(what, fmt.Sprintf("%s: longer than the RTO of %s", message, report.Age(rto)), "lower its TTL now: on the day clients keep what they have")
		return
	}
	in.ok(what, message)
	in.owner(ctx, host, registry)
}

// owner looks whose external-dns has made a host's records: that of here takes no
// others for its own.
func (in *inspection) owner(ctx context.Context, host string, registry *traffic.Registry) {
	if registry == nil || registry.Kind != "txt" {
		return
	}
	what := "owner of " + host
	h, err := traffic.Look(ctx, in.Names, host, registry)
	if err != nil {
		in.warn(what, err.Error(), "make the zone's servers reachable from the recovery site")
		return
	}
	changes, owners := h.HandOver(registry), strings.Join(h.Owners(), ", ")
	runs, err := run.Runs(ctx, in.Cluster.Client, in.Cluster.Namespace, in.plan.Name)
	if err != nil {
		in.warn(what, err.Error(), "")
		return
	}
	move := run.LastMove(runs)
	switch {
	case len(h.Texts) == 0 && len(h.Records) == 0:
		in.ok(what, "there is none yet")
	case len(changes) == 0 && move != nil && !move.Spec.Kind.Returns():
		in.ok(what, "external-dns "+registry.Owner+" of this cluster")
	case len(changes) == 0:
		message := "the external-dns of this cluster is called " + registry.Owner + " as well, so it takes the records for its own"
		if registry.Deletes {
			in.problem(what, message+", and deletes them while nothing here asks for them", "give it a --txt-owner-id of its own")
			return
		}
		in.warn(what, message, "give it a --txt-owner-id of its own")
	case in.plan.Spec.Traffic.Update != nil:
		in.ok(what, fmt.Sprintf("external-dns %s; a failover hands the records over to %s", or(owners, "none"), registry.Owner))
	default:
		in.warn(what, fmt.Sprintf("external-dns %s: that of this cluster, %s, changes no record of it", or(owners, "none"), registry.Owner),
			"a failover says what to change by hand; with spec.traffic.update it does so itself")
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// externalDNS looks whether one runs here to claim the names, and returns how it tells
// which are its own.
func (in *inspection) externalDNS(ctx context.Context) *traffic.Registry {
	registry, err := traffic.FindRegistry(ctx, in.Cluster.Client)
	switch {
	case err != nil:
		in.failed("external-dns", err, "")
	case registry == nil:
		in.warn("external-dns", "spec.traffic.method is external-dns, and no Deployment here runs it", "install it here, or set the method to manual")
	case !registry.Ready:
		in.warn("external-dns", fmt.Sprintf("deployment %s has no pod that is ready: nothing would point the names here", registry.Deployment), "start it, by hand or with the failover")
	default:
		in.ok("external-dns", "deployment "+registry.Deployment)
	}
	return registry
}
