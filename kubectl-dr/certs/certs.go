// Package certs issues the TLS bundles of agents and their clients, and puts
// those that a cluster needs in its Secrets. It prints nothing.
package certs

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
)

// Identities of the clients that policies name.
const (
	Velero    = "velero"
	KubectlDR = "kubectl-dr"
)

// labelManagedBy marks the Secrets made here.
const labelManagedBy = "app.kubernetes.io/managed-by"

// Issuer issues bundles.
type Issuer struct {
	Client client.Client
	// Dir holds the authority, ca.crt and ca.key, and the bundles.
	Dir string
	// Trust is PEM of authorities that bundles trust as well, nil for none.
	Trust []byte
	// Clients are identities beside Velero's and kubectl dr's own.
	Clients []string
	// AgentNamespace and AgentSecret are where the agents' DaemonSet finds its
	// bundles, a key "<node>.pem" for each node.
	AgentNamespace, AgentSecret string
	// Replace allows to put a bundle in the place of one of another authority.
	Replace bool
	Now     func() time.Time
}

// Bundle is one to issue.
type Bundle struct {
	Identity string
	Node     bool // of an agent, else of a client
	File     string
	// Secrets are where it goes in this cluster.
	Secrets []Place
}

// Place is a key of a Secret.
type Place struct{ Namespace, Name, Key string }

func (p Place) String() string { return fmt.Sprintf("%s/%s[%s]", p.Namespace, p.Name, p.Key) }

// Plan names the bundles that the snapshot locations need: one for each node's
// agent and one for each client. Nothing is made.
func (i *Issuer) Plan(ctx context.Context, locations []velerov1api.VolumeSnapshotLocation) ([]Bundle, error) {
	nodes := map[string]bool{}
	var velero []Place
	for _, l := range locations {
		loc, err := zfssnap.ParseLocation(l.Spec.Config)
		if err != nil {
			return nil, fmt.Errorf("VolumeSnapshotLocation %s: %w", l.Name, err)
		}
		for node := range loc.Agents {
			nodes[node] = true
		}
		if ref := l.Spec.Credential; ref != nil {
			if p := (Place{l.Namespace, ref.Name, ref.Key}); !slices.Contains(velero, p) {
				velero = append(velero, p)
			}
		}
	}
	here := &corev1api.NodeList{}
	if err := i.Client.List(ctx, here); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var bundles []Bundle
	for _, node := range slices.Sorted(maps.Keys(nodes)) {
		b := Bundle{Identity: node, Node: true}
		if slices.ContainsFunc(here.Items, func(n corev1api.Node) bool { return n.Name == node }) {
			b.Secrets = []Place{{i.AgentNamespace, i.AgentSecret, node + ".pem"}}
		}
		bundles = append(bundles, b)
	}
	bundles = append(bundles, Bundle{Identity: Velero, Secrets: velero}, Bundle{Identity: KubectlDR})
	for _, name := range i.Clients {
		if slices.ContainsFunc(bundles, func(b Bundle) bool { return b.Identity == name }) {
			return nil, fmt.Errorf("client %s: the name is taken by an agent or client that has a bundle anyway", name)
		}
		bundles = append(bundles, Bundle{Identity: name})
	}
	for n := range bundles {
		if err := agent.CheckIdentity(bundles[n].Identity); err != nil {
			return nil, err
		}
		bundles[n].File = filepath.Join(i.Dir, bundles[n].Identity+".pem")
	}
	return bundles, nil
}

// Issued are bundles by identity: private keys are in them.
type Issued struct {
	PEM     map[string][]byte
	Expires map[string]time.Time
}

// Issue issues the bundles and writes them to their files, which their owner
// alone can read. The authority is made when there is none.
func (i *Issuer) Issue(bundles []Bundle) (*Issued, error) {
	now := i.Now()
	ca, err := agent.OpenAuthority(i.Dir, now)
	if err != nil {
		return nil, err
	}
	if i.Trust != nil {
		if err := ca.Trust(i.Trust); err != nil {
			return nil, fmt.Errorf("trust another authority: %w", err)
		}
	}
	issued := &Issued{PEM: map[string][]byte{}, Expires: map[string]time.Time{}}
	for _, b := range bundles {
		issue := ca.Client
		if b.Node {
			issue = ca.Node
		}
		data, err := issue(b.Identity, now)
		if err != nil {
			return nil, err
		}
		parsed, err := agent.ParseBundle(data)
		if err != nil {
			return nil, err
		}
		issued.PEM[b.Identity], issued.Expires[b.Identity] = data, parsed.Expires()
	}
	// Only when all are issued: one set of files is of one authority.
	for _, b := range bundles {
		if err := agent.WriteBundle(b.File, issued.PEM[b.Identity]); err != nil {
			return nil, fmt.Errorf("write bundle of %s: %w", b.Identity, err)
		}
	}
	return issued, nil
}

// Secrets are the Secrets of this cluster that hold the bundles, with nothing
// else in them.
func Secrets(bundles []Bundle, issued *Issued) []corev1api.Secret {
	var secrets []corev1api.Secret
	for _, b := range bundles {
		for _, p := range b.Secrets {
			n := slices.IndexFunc(secrets, func(s corev1api.Secret) bool { return s.Namespace == p.Namespace && s.Name == p.Name })
			if n < 0 {
				n = len(secrets)
				secrets = append(secrets, corev1api.Secret{
					TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
					ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: map[string]string{labelManagedBy: KubectlDR}},
					Data:       map[string][]byte{},
				})
			}
			secrets[n].Data[p.Key] = issued.PEM[b.Identity]
		}
	}
	return secrets
}

// ForeignError names what would be put in the place of a bundle of another
// authority.
type ForeignError struct{ Places []Place }

func (e *ForeignError) Error() string {
	var all []string
	for _, p := range e.Places {
		all = append(all, p.String())
	}
	return "these Secrets hold something that this authority is not part of: " + strings.Join(all, ", ")
}

// Hint says what to do.
func (e *ForeignError) Hint() string {
	return "use the --ca-dir they were issued with; or --replace, after which agents and clients with other bundles are shut out until they are replaced too"
}

// CheckSecrets returns a *ForeignError when a bundle would take the place of
// something that does not trust the same authority, which would prove it ours.
func (i *Issuer) CheckSecrets(ctx context.Context, bundles []Bundle) error {
	authority, err := i.authority()
	if err != nil || i.Replace {
		return err
	}
	foreign := &ForeignError{}
	for _, b := range bundles {
		for _, p := range b.Secrets {
			have, err := i.secret(ctx, p.Namespace, p.Name)
			if err != nil {
				return err
			}
			if have != nil && len(have.Data[p.Key]) > 0 && !trusts(have.Data[p.Key], authority) {
				foreign.Places = append(foreign.Places, p)
			}
		}
	}
	if len(foreign.Places) > 0 {
		return foreign
	}
	return nil
}

// authority is the certificate of the one in Dir, nil when none was made yet.
func (i *Issuer) authority() (*x509.Certificate, error) {
	if _, err := os.Stat(filepath.Join(i.Dir, "ca.crt")); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	ca, err := agent.OpenAuthority(i.Dir, i.Now())
	if err != nil {
		return nil, err
	}
	return ca.Certificate(), nil
}

// secret returns nil when there is none.
func (i *Issuer) secret(ctx context.Context, namespace, name string) (*corev1api.Secret, error) {
	have := &corev1api.Secret{}
	err := i.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, have)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get secret %s in namespace %s: %w", name, namespace, err)
	}
	return have, nil
}

// Apply writes the Secrets. Other keys of theirs stay. What it replaces is for
// CheckSecrets to say.
func (i *Issuer) Apply(ctx context.Context, bundles []Bundle, issued *Issued) error {
	var errs []error
	for _, s := range Secrets(bundles, issued) {
		have, err := i.secret(ctx, s.Namespace, s.Name)
		if err == nil {
			err = i.write(ctx, &s, have)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (i *Issuer) write(ctx context.Context, want, have *corev1api.Secret) error {
	if have == nil {
		if err := i.Client.Create(ctx, want); err != nil {
			return fmt.Errorf("create secret %s in namespace %s: %w", want.Name, want.Namespace, err)
		}
		return nil
	}
	changed := have.DeepCopy()
	if changed.Data == nil {
		changed.Data = map[string][]byte{}
	}
	maps.Copy(changed.Data, want.Data)
	if err := i.Client.Patch(ctx, changed, client.MergeFrom(have)); err != nil {
		return fmt.Errorf("change secret %s in namespace %s: %w", want.Name, want.Namespace, err)
	}
	return nil
}

// trusts reports whether a bundle trusts an authority.
func trusts(bundle []byte, authority *x509.Certificate) bool {
	b, err := agent.ParseBundle(bundle)
	return err == nil && authority != nil && slices.ContainsFunc(b.Certificates(), func(c *x509.Certificate) bool { return c.Equal(authority) })
}

// ReadTrust reads authorities to trust from a file.
func ReadTrust(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read authority to trust: %w", err)
	}
	return data, nil
}
