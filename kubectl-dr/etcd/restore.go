package etcd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
)

// Member is the first member of the cluster that a snapshot is restored to.
type Member struct {
	Name string
	// DataDir does not exist, or is empty.
	DataDir string
	// PeerURL is where other members reach it.
	PeerURL string
	// Cluster are all initial members as name=url,…; "" for this one alone.
	Cluster string
	Token   string
	// BumpRevision is added to the revision, so that watches of before do not take
	// the restored state for one of the past. 0 leaves the revision.
	BumpRevision uint64
}

// Restore makes the data of a member of a snapshot's file, which is checked
// before: a damaged one, or another than its manifest tells of, is refused.
func Restore(file string, m Member, config *EncryptionConfig) (*report.EtcdSnapshot, error) {
	entries, err := os.ReadDir(m.DataDir)
	switch {
	case err == nil && len(entries) > 0:
		return nil, fmt.Errorf("restore %s: %s is not empty", file, m.DataDir)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("restore %s: %w", file, err)
	}
	s, group, err := Verify(file, config)
	if err != nil {
		return nil, err
	}
	for _, item := range group.Items {
		if item.State == report.Problem {
			return nil, &BadSnapshotError{File: file, Item: item}
		}
	}
	cluster := m.Cluster
	if cluster == "" {
		cluster = m.Name + "=" + m.PeerURL
	}
	err = snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: file, Name: m.Name, OutputDataDir: m.DataDir, PeerURLs: []string{m.PeerURL},
		InitialCluster: cluster, InitialClusterToken: m.Token,
		RevisionBump: m.BumpRevision, MarkCompacted: m.BumpRevision > 0,
	})
	if err != nil {
		return nil, fmt.Errorf("restore %s to %s: %w", file, m.DataDir, err)
	}
	return s, nil
}

// BadSnapshotError says why a snapshot is not restored.
type BadSnapshotError struct {
	File string
	Item report.Item
}

func (e *BadSnapshotError) Error() string {
	return fmt.Sprintf("restore %s: %s: %s", e.File, e.Item.Name, e.Item.Message)
}

// Hint says what can be done.
func (e *BadSnapshotError) Hint() string { return e.Item.Remedy }
