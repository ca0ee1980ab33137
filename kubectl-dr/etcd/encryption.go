package etcd

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
)

// EncryptionConfig is the part of an apiserver's encryption at rest that tells
// whether values can be read with it. It holds no keys, but fingerprints of them.
type EncryptionConfig struct {
	Keys []report.EtcdKey
}

// ReadEncryptionConfig reads the file of the apiserver's
// --encryption-provider-config.
func ReadEncryptionConfig(file string) (*EncryptionConfig, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	type keyed struct {
		Keys []struct{ Name, Secret string }
	}
	var config struct {
		Kind      string
		Resources []struct {
			Providers []struct {
				AESCBC, AESGCM, Secretbox *keyed
				KMS                       *struct{ Name, Endpoint string }
			}
		}
	}
	if err := yaml.Unmarshal(data, &config); err != nil {
		// What the parser says may quote a key.
		return nil, fmt.Errorf("read %s: it is no YAML", file)
	}
	if config.Kind != "EncryptionConfiguration" {
		return nil, fmt.Errorf("read %s: kind is %q, not EncryptionConfiguration", file, config.Kind)
	}
	c := &EncryptionConfig{}
	add := func(provider, name, secret string) {
		k := report.EtcdKey{Provider: provider, Name: name}
		if secret != "" {
			sum := sha256.Sum256([]byte(provider + "\n" + secret))
			k.Fingerprint = fmt.Sprintf("%x", sum[:8])
		}
		if !slices.Contains(c.Keys, k) {
			c.Keys = append(c.Keys, k)
		}
	}
	for _, r := range config.Resources {
		for _, p := range r.Providers {
			for provider, keys := range map[string]*keyed{"aescbc": p.AESCBC, "aesgcm": p.AESGCM, "secretbox": p.Secretbox} {
				if keys == nil {
					continue
				}
				for _, k := range keys.Keys {
					add(provider, k.Name, k.Secret)
				}
			}
			if p.KMS != nil {
				add("kms", p.KMS.Name, "")
			}
		}
	}
	slices.SortFunc(c.Keys, func(a, b report.EtcdKey) int {
		return cmp.Or(cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	return c, nil
}

// check says of each key that values of a snapshot are encrypted with whether
// the configuration has it. c may be nil.
func (c *EncryptionConfig) check(s *report.EtcdSnapshot) []report.Item {
	var items []report.Item
	for _, used := range s.Encryption {
		name := fmt.Sprintf("encryption %s/%s", used.Provider, used.Name)
		what := "needed by " + report.Count(used.Values, "value")
		item := report.Item{Name: name, State: report.OK, Message: what + ", and the configuration has it"}
		same := func(k report.EtcdKey) bool { return k.Provider == used.Provider && k.Name == used.Name }
		taken := slices.IndexFunc(s.EncryptionKeys, same)
		switch {
		case c == nil:
			item.State, item.Message = report.Warning, what+", and no configuration was given"
			item.Remedy = "give the standby's with --encryption-config: without this key its apiserver cannot read them"
		case !slices.ContainsFunc(c.Keys, same):
			item.State, item.Message = report.Problem, what+", and the configuration lacks it"
			item.Remedy = "add the key to the standby's --encryption-provider-config before its apiserver starts"
		case taken >= 0 && !slices.Contains(c.Keys, s.EncryptionKeys[taken]):
			item.State, item.Message = report.Problem, what+", and the configuration has another key of that name"
			item.Remedy = "copy the source's key: its fingerprint is " + s.EncryptionKeys[taken].Fingerprint
		}
		items = append(items, item)
	}
	if len(items) == 0 {
		items = append(items, report.Item{Name: "encryption", State: report.OK, Message: "no value is encrypted: the snapshot is as secret as the cluster's Secrets"})
	}
	return items
}

// encryptedBy tells what a value of an apiserver is encrypted with. Such values
// begin with k8s:enc:<provider>:<version>:<key>: (k8s.io/apiserver, package
// value).
func encryptedBy(value []byte) (provider, key string, ok bool) {
	const prefix = "k8s:enc:"
	head := string(value[:min(len(value), 256)])
	rest, ok := strings.CutPrefix(head, prefix)
	if !ok {
		return "", "", false
	}
	f := strings.SplitN(rest, ":", 4)
	if len(f) < 4 {
		return "", "", false
	}
	return f[0], f[2], true
}
