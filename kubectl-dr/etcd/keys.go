package etcd

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
)

// Volatile are the beginnings of keys that every control plane writes by itself
// all the time.
var Volatile = []string{"/registry/events/", "/registry/leases/", "/registry/masterleases/", "/registry/minions/", "/registry/apiserver.openshift.io/"}

// keys are those of a snapshot with what they have at its revision.
type keys struct {
	values    map[string][sha256.Size]byte // hashes
	encrypted map[string]report.EtcdKey
}

// read reads a snapshot's file, which is whole, without changing it.
func read(file string) (*keys, error) {
	db, err := bolt.Open(file, 0o400, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("read %s as a snapshot of etcd: %w", file, err)
	}
	defer db.Close()
	all := &keys{values: map[string][sha256.Size]byte{}, encrypted: map[string]report.EtcdKey{}}
	err = db.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(schema.Key.Name())
		if bucket == nil {
			return fmt.Errorf("it has no keys")
		}
		// In the order of revisions: the last one of a key counts.
		return bucket.ForEach(func(rev, value []byte) error {
			var kv mvccpb.KeyValue
			if err := kv.Unmarshal(value); err != nil {
				return err
			}
			key := string(kv.Key)
			delete(all.encrypted, key)
			if mvcc.IsTombstone(rev) {
				delete(all.values, key)
				return nil
			}
			all.values[key] = sha256.Sum256(kv.Value)
			if provider, name, ok := encryptedBy(kv.Value); ok {
				all.encrypted[key] = report.EtcdKey{Provider: provider, Name: name}
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read %s as a snapshot of etcd: %w", file, err)
	}
	return all, nil
}

// encryption counts the values that are encrypted with each key.
func (k *keys) encryption() []report.EtcdEncryption {
	counts := map[report.EtcdKey]int{}
	for _, by := range k.encrypted {
		counts[by]++
	}
	var all []report.EtcdEncryption
	for by, n := range counts {
		all = append(all, report.EtcdEncryption{Provider: by.Provider, Name: by.Name, Values: n})
	}
	slices.SortFunc(all, func(a, b report.EtcdEncryption) int {
		return cmp.Or(cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// Diff compares the keys of two snapshots, those of a source and of a standby,
// leaving out what begins with one of exclude. Keys below other prefixes than
// prefix are left out too.
func Diff(source, standby, prefix string, exclude []string) (*report.Comparison, error) {
	var sides [2]*keys
	for i, file := range []string{source, standby} {
		if _, _, err := whole(file); err != nil {
			return nil, err
		}
		var err error
		if sides[i], err = read(file); err != nil {
			return nil, err
		}
	}
	a, b := sides[0], sides[1]
	counts := func(key string) bool {
		return strings.HasPrefix(key, prefix) && !slices.ContainsFunc(exclude, func(p string) bool { return strings.HasPrefix(key, p) })
	}
	r := &report.Comparison{Source: source, Standby: standby, State: report.OK}
	differs := func(key string, how report.Difference) {
		r.Add(report.ObjectDifference{Kind: "Key", Name: key, Difference: how})
	}
	for key, value := range a.values {
		if !counts(key) {
			continue
		}
		r.Compared++
		switch other, ok := b.values[key]; {
		case !ok:
			differs(key, report.Missing)
		case other != value:
			differs(key, report.Drifted)
		}
	}
	for key := range b.values {
		if _, ok := a.values[key]; !ok && counts(key) {
			differs(key, report.Surplus)
		}
	}
	slices.SortFunc(r.Objects, func(a, b report.ObjectDifference) int { return cmp.Compare(a.Name, b.Name) })
	return r, nil
}
