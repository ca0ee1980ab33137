package zfssnap

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Provider is the spec.provider of our VolumeSnapshotLocations, which is the
// name of the snapshotter plugin.
const Provider = Domain + "/zfs"

// Keys of a VolumeSnapshotLocation's spec.config.
const (
	KeyAgents             = "agents"
	KeyTarget             = "target"
	KeyReplication        = "replication"
	KeyTargetAddress      = "targetAddress"
	KeyTargetPrefix       = "targetPrefix"
	KeyFailbackTarget     = "failbackTarget"
	KeyFailbackAddress    = "failbackTargetAddress"
	KeyFailbackPrefix     = "failbackPrefix"
	KeyArchive            = "archive"
	KeyRestoreNode        = "restoreNode"
	KeyRestoreParents     = "restoreParents"
	KeyRestoreMode        = "restoreMode"
	KeyGroupBy            = "groupBy"
	KeyRestoreAs          = "restoreAs"
	KeyStorageHosts       = "storageHosts"
	KeyDatasetParents     = "datasetParents"
	KeyOpenEBSNamespace   = "openebsNamespace"
	KeyReplicationTimeout = "replicationTimeout"
	// KeyCredentialsFile is set by Velero: the path of the file it wrote
	// spec.credential to.
	KeyCredentialsFile = "credentialsFile"
)

// Ways of making a volume from a snapshot.
const (
	ModeClone = "clone" // instant, shares space with the replica
	ModeCopy  = "copy"  // independent of the replica
	// modeArchive is not for choice: it is how a volume is made where there is
	// no replica.
	modeArchive = "archive"
)

// Who brings snapshots to the target.
const (
	ReplicationAgents   = "agents"   // the agents
	ReplicationExternal = "external" // another tool: syncoid, zrepl, zfs send by hand
)

// AsLocal, for restoreAs, makes every restored volume a local one.
const AsLocal = "local"

// DefaultReplicationTimeout is Velero's own default for item operations.
const DefaultReplicationTimeout = 4 * time.Hour

const defaultOpenEBSNamespace = "openebs"

// Location is a parsed VolumeSnapshotLocation config: where the agents are,
// where copies go and where restored volumes are made.
type Location struct {
	// Agents maps a node to its agent's address, host:port.
	Agents map[string]string
	// Target is the node that must hold the copy before a backup is Completed;
	// "" means no replication.
	Target string
	// Replication is ReplicationAgents or ReplicationExternal. With the latter
	// nothing is sent, and nothing is ever changed or destroyed on the target:
	// copies are found there by guid, wherever they lie.
	Replication string
	// TargetAddress is the target's agent as the source node reaches it.
	TargetAddress string
	// TargetPrefix is the dataset on the target under which replicas lie. With
	// ReplicationExternal it is a hint, and may be empty.
	TargetPrefix string
	// FailbackTarget is the node that holds the copies of volumes which a failover
	// has made on the target; "" means that those are not replicated.
	FailbackTarget string
	// FailbackAddress is its agent as the target reaches it.
	FailbackAddress string
	// FailbackPrefix is the dataset, without its pool, under which those copies
	// lie. Each goes to the pool that its volume came from, so that only what has
	// changed is sent.
	FailbackPrefix string
	// Archive is the archive that must hold the snapshot before a backup is
	// Completed, as the agents' configuration names it; "" means none.
	Archive string
	// GroupBy says which volumes of a backup are snapshotted together:
	// GroupByNamespace, GroupByLabel or GroupByVolume.
	GroupBy string
	// RestoreNode is the node on which volumes are made on restore; "" means
	// the snapshot's own node if it still has the snapshot, else Target.
	RestoreNode string
	// RestoreParents maps a source dataset's parent to the parent of the volume
	// restored from it.
	RestoreParents map[string]string
	// RestoreMode is ModeClone or ModeCopy.
	RestoreMode string
	// RestoreAs is AsLocal, or "" to restore a volume as the kind it was.
	RestoreAs string
	// StorageHosts maps the host that volumes are reached at over the network
	// to the node of its agent. Needed where it is neither the node's name nor
	// the host of the agent's address.
	StorageHosts map[string]string
	// DatasetParents maps a CSI driver of democratic-csi to the
	// datasetParentName of its configuration.
	DatasetParents map[string]string
	// OpenEBSNamespace is where ZFSVolume objects live.
	OpenEBSNamespace string
	// ReplicationTimeout bounds, from the start of a backup, how long an agent
	// that does not answer is waited for.
	ReplicationTimeout time.Duration
	// CredentialsFile holds one PEM bundle: CA certificates, client certificate
	// and client key.
	CredentialsFile string
}

// LocationError lists everything that is wrong with a location's config.
type LocationError struct{ Err error }

func (e *LocationError) Error() string {
	return "read snapshot location config: " + strings.ReplaceAll(e.Err.Error(), "\n", "; ")
}

// Unwrap returns the joined causes.
func (e *LocationError) Unwrap() error { return e.Err }

// Hint names the keys that exist.
func (e *LocationError) Hint() string {
	return "spec.config of the VolumeSnapshotLocation knows: " + strings.Join(locationKeys(), ", ")
}

// setters parse one key each into a Location.
var setters = map[string]func(*Location, string) error{
	KeyAgents: func(l *Location, v string) (err error) {
		l.Agents, err = parsePairs(v)
		return err
	},
	KeyTarget: func(l *Location, v string) error { l.Target = v; return nil },
	KeyReplication: func(l *Location, v string) error {
		l.Replication = v
		if v != ReplicationAgents && v != ReplicationExternal {
			return fmt.Errorf("%q is neither %q nor %q", v, ReplicationAgents, ReplicationExternal)
		}
		return nil
	},
	KeyTargetAddress: func(l *Location, v string) error { l.TargetAddress = v; return nil },
	KeyTargetPrefix: func(l *Location, v string) error {
		l.TargetPrefix = v
		return checkDataset(v)
	},
	KeyFailbackTarget:  func(l *Location, v string) error { l.FailbackTarget = v; return nil },
	KeyFailbackAddress: func(l *Location, v string) error { l.FailbackAddress = v; return nil },
	KeyFailbackPrefix: func(l *Location, v string) error {
		l.FailbackPrefix = v
		return checkDataset(v)
	},
	KeyArchive: func(l *Location, v string) error {
		l.Archive = v
		return checkArchive(v)
	},
	KeyRestoreNode: func(l *Location, v string) error { l.RestoreNode = v; return nil },
	KeyRestoreParents: func(l *Location, v string) (err error) {
		if l.RestoreParents, err = parsePairs(v); err != nil {
			return err
		}
		for from, to := range l.RestoreParents {
			if err := errors.Join(checkDataset(from), checkDataset(to)); err != nil {
				return err
			}
		}
		return nil
	},
	KeyRestoreMode: func(l *Location, v string) error {
		l.RestoreMode = v
		if v != ModeClone && v != ModeCopy {
			return fmt.Errorf("%q is neither %q nor %q", v, ModeClone, ModeCopy)
		}
		return nil
	},
	KeyGroupBy: func(l *Location, v string) error {
		l.GroupBy = v
		if v != GroupByNamespace && v != GroupByLabel && v != GroupByVolume {
			return fmt.Errorf("%q is none of %q, %q and %q", v, GroupByNamespace, GroupByLabel, GroupByVolume)
		}
		return nil
	},
	KeyRestoreAs: func(l *Location, v string) error {
		l.RestoreAs = v
		if v != AsLocal {
			return fmt.Errorf("%q is not %q", v, AsLocal)
		}
		return nil
	},
	KeyStorageHosts: func(l *Location, v string) (err error) {
		l.StorageHosts, err = parsePairs(v)
		return err
	},
	KeyDatasetParents: func(l *Location, v string) (err error) {
		if l.DatasetParents, err = parsePairs(v); err != nil {
			return err
		}
		for _, parent := range l.DatasetParents {
			if err := checkDataset(parent); err != nil {
				return err
			}
		}
		return nil
	},
	KeyOpenEBSNamespace: func(l *Location, v string) error { l.OpenEBSNamespace = v; return nil },
	KeyReplicationTimeout: func(l *Location, v string) (err error) {
		if l.ReplicationTimeout, err = time.ParseDuration(v); err == nil && l.ReplicationTimeout <= 0 {
			err = fmt.Errorf("%q is not positive", v)
		}
		return err
	},
	KeyCredentialsFile: func(l *Location, v string) error { l.CredentialsFile = v; return nil },
}

func locationKeys() []string {
	keys := slices.Sorted(maps.Keys(setters))
	return slices.DeleteFunc(keys, func(k string) bool { return k == KeyCredentialsFile })
}

// ParseLocation reads the config of a VolumeSnapshotLocation. It is strict: an
// unknown key, a malformed value and a node without an agent are errors, and
// all of them are reported at once in a *LocationError.
func ParseLocation(config map[string]string) (Location, error) {
	l := Location{
		Replication:        ReplicationAgents,
		GroupBy:            GroupByNamespace,
		RestoreMode:        ModeClone,
		OpenEBSNamespace:   defaultOpenEBSNamespace,
		ReplicationTimeout: DefaultReplicationTimeout,
	}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(config)) {
		set, known := setters[key]
		if !known {
			errs = append(errs, fmt.Errorf("unknown key %q (known: %s)", key, strings.Join(locationKeys(), ", ")))
			continue
		}
		if v := strings.TrimSpace(config[key]); v != "" {
			if err := set(&l, v); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", key, err))
			}
		}
	}
	errs = append(errs, l.check()...)
	if err := errors.Join(errs...); err != nil {
		return Location{}, &LocationError{Err: err}
	}
	if l.TargetAddress == "" && l.Target != "" {
		l.TargetAddress = l.Agents[l.Target]
	}
	if l.FailbackAddress == "" {
		l.FailbackAddress = l.Agents[l.FailbackTarget]
	}
	return l, nil
}

// check finds what no single key can show.
func (l Location) check() (errs []error) {
	if len(l.Agents) == 0 {
		errs = append(errs, fmt.Errorf("%s: is required, as node=host:port[,node=host:port…]", KeyAgents))
	}
	for _, ref := range []struct{ key, node string }{{KeyTarget, l.Target}, {KeyRestoreNode, l.RestoreNode}, {KeyFailbackTarget, l.FailbackTarget}} {
		if _, ok := l.Agents[ref.node]; ref.node != "" && !ok {
			errs = append(errs, fmt.Errorf("%s: node %q is not in %s", ref.key, ref.node, KeyAgents))
		}
	}
	for _, host := range slices.Sorted(maps.Keys(l.StorageHosts)) {
		if node := l.StorageHosts[host]; l.Agents[node] == "" {
			errs = append(errs, fmt.Errorf("%s: node %q of host %q is not in %s", KeyStorageHosts, node, host, KeyAgents))
		}
	}
	if l.External() && l.Target == "" {
		errs = append(errs, fmt.Errorf("%s: %s needs %s: the node that the other tool replicates to", KeyReplication, ReplicationExternal, KeyTarget))
	}
	if l.Target != "" && l.TargetPrefix == "" && !l.External() {
		errs = append(errs, fmt.Errorf("%s: is required with %s", KeyTargetPrefix, KeyTarget))
	}
	if l.Target == "" && l.TargetAddress != "" {
		errs = append(errs, fmt.Errorf("%s: needs %s", KeyTargetAddress, KeyTarget))
	}
	switch {
	case l.FailbackTarget == "" && (l.FailbackAddress != "" || l.FailbackPrefix != ""):
		errs = append(errs, fmt.Errorf("%s, %s: need %s", KeyFailbackAddress, KeyFailbackPrefix, KeyFailbackTarget))
	case l.FailbackTarget == "":
	case l.Target == "" || l.FailbackTarget == l.Target:
		errs = append(errs, fmt.Errorf("%s: needs a %s that is another node", KeyFailbackTarget, KeyTarget))
	case l.External():
		errs = append(errs, fmt.Errorf("%s: needs %s: %s", KeyFailbackTarget, KeyReplication, ReplicationAgents))
	case l.FailbackPrefix == "":
		errs = append(errs, fmt.Errorf("%s: is required with %s", KeyFailbackPrefix, KeyFailbackTarget))
	}
	for _, parent := range slices.Sorted(maps.Keys(l.RestoreParents)) {
		if l.FailbackPrefix != "" && under(path.Join(poolOf(parent), l.FailbackPrefix), parent) {
			errs = append(errs, fmt.Errorf("%s: volumes lie in %s, where only replicas may be", KeyFailbackPrefix, parent))
		}
	}
	for _, parent := range slices.Sorted(maps.Values(l.RestoreParents)) {
		if under(l.TargetPrefix, parent) {
			errs = append(errs, fmt.Errorf("%s: %q lies below %s %q, where only replicas may be", KeyRestoreParents, parent, KeyTargetPrefix, l.TargetPrefix))
		}
	}
	return errs
}

// Replica returns the dataset on the target that holds copies of a source
// dataset.
func (l Location) Replica(dataset string) string { return path.Join(l.TargetPrefix, dataset) }

// Hints returns the datasets that are likely to hold snapshots of a node's
// dataset, wherever that is asked.
func (l Location) Hints(node, dataset string) []string {
	if to, ok := l.Destination(node, dataset); ok && to.Dataset != dataset {
		return []string{to.Dataset, dataset}
	}
	return []string{dataset}
}

// Destination is where copies of a volume go.
type Destination struct {
	Node    string
	Address string // of its agent, as the volume's node reaches it
	Dataset string
}

// Destination returns where copies of a node's dataset go: to the target, and
// those of the target's own volumes, which a failover has made, back. ok is
// false for nowhere.
func (l Location) Destination(node, dataset string) (d Destination, ok bool) {
	switch {
	case l.Target == "":
		return d, false
	case l.Target != node:
		return Destination{Node: l.Target, Address: l.TargetAddress, Dataset: l.Replica(dataset)}, true
	case l.FailbackTarget == "":
		return d, false
	}
	home, err := l.home(dataset)
	if err != nil {
		return d, false
	}
	return Destination{Node: l.FailbackTarget, Address: l.FailbackAddress, Dataset: path.Join(poolOf(home), l.FailbackPrefix, dataset)}, true
}

// Returns reports whether the copies of a node's volumes are on the way back: it
// is the target, which a failover made them on.
func (l Location) Returns(node string) bool { return l.FailbackTarget != "" && l.Target == node }

// home returns the parent on the failback target for a volume that a failover
// has made on the target: the one whose volumes are restored to its parent.
func (l Location) home(dataset string) (string, error) {
	parent := path.Dir(dataset)
	var homes []string
	for from, to := range l.RestoreParents {
		if to == parent {
			homes = append(homes, from)
		}
	}
	// Where nothing is restored to no failover has made a volume, whatever its own copies
	// are restored to: it is on a pool that moves between the nodes.
	if to, ok := l.RestoreParents[parent]; ok && len(homes) > 0 {
		return to, nil
	}
	if len(homes) != 1 {
		return "", fmt.Errorf("find where %s came from: %s has %d entries for %q, and one is needed", dataset, KeyRestoreParents, len(homes), parent)
	}
	return homes[0], nil
}

// External reports whether another tool brings snapshots to the target.
func (l Location) External() bool { return l.Replication == ReplicationExternal }

// RestoreParent returns the parent dataset for a volume restored on node from a
// snapshot of another one. On its own node a volume goes beside its source,
// unless restoreNode says that volumes move.
func (l Location) RestoreParent(snap SnapshotID, node string) (string, error) {
	if l.Returns(snap.Node) && node == l.FailbackTarget {
		return l.home(snap.Dataset)
	}
	parent := path.Dir(snap.Dataset)
	if node == snap.Node && l.RestoreNode == "" {
		return parent, nil
	}
	if to, ok := l.RestoreParents[parent]; ok {
		return to, nil
	}
	if node == snap.Node {
		return parent, nil
	}
	return "", fmt.Errorf("place a volume restored from %s on node %s: %s has no entry for %q", snap.Dataset, node, KeyRestoreParents, parent)
}

// parsePairs reads "a=b,c=d".
func parsePairs(s string) (map[string]string, error) {
	pairs := map[string]string{}
	for item := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(item, "=")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		if !ok || k == "" || v == "" {
			return nil, fmt.Errorf("%q is not a pair of the form a=b", strings.TrimSpace(item))
		}
		if _, twice := pairs[k]; twice {
			return nil, fmt.Errorf("%q is given twice", k)
		}
		pairs[k] = v
	}
	return pairs, nil
}

// archiveName is what the name of an archive looks like.
var archiveName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// checkArchive refuses what can not name an archive. Which ones there are is for
// the agent to say.
func checkArchive(name string) error {
	if !archiveName.MatchString(name) {
		return fmt.Errorf("%q is not the name of an archive, as in zfs-agent serve --archive=NAME=FILE", name)
	}
	return nil
}

// checkDataset refuses what can not be a dataset; the agent has the last word.
func checkDataset(name string) error {
	if name == "" || path.Clean(name) != name || strings.HasPrefix(name, "/") || strings.ContainsAny(name, "@#,=\t\n") || strings.Contains(name, "..") {
		return fmt.Errorf("%q is not a dataset name", name)
	}
	return nil
}
