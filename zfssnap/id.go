package zfssnap

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
)

// ErrInvalidID is wrapped by every error of ParseVolumeID and ParseSnapshotID.
var ErrInvalidID = errors.New("invalid identifier")

// ErrForeignID is an ErrInvalidID of what another snapshotter made.
var ErrForeignID = fmt.Errorf("%w: it was not made by the %s/zfs snapshotter", ErrInvalidID, Domain)

// idVersion is the leading field of every identifier. An identifier of another
// version is refused: a newer plugin may have made it.
const idVersion = "zfs1"

// VolumeID names a volume where it lives: a dataset (filesystem or zvol) on a
// node. Its string form is what Velero stores as providerVolumeID.
type VolumeID struct {
	Node    string
	Dataset string
}

// String returns "zfs1:<node>:<dataset>".
func (v VolumeID) String() string { return idVersion + ":" + v.Node + ":" + v.Dataset }

// ParseVolumeID is the inverse of VolumeID.String.
func ParseVolumeID(s string) (VolumeID, error) {
	f := strings.SplitN(s, ":", 3)
	if err := checkVersion("volume", s, f); err != nil {
		return VolumeID{}, err
	}
	if len(f) != 3 || f[1] == "" || f[2] == "" {
		return VolumeID{}, fmt.Errorf("volume %q: %w: want %s:<node>:<dataset>", s, ErrInvalidID, idVersion)
	}
	return VolumeID{Node: f[1], Dataset: f[2]}, nil
}

// SnapshotID names a snapshot so that another process, on another cluster, can
// find the same data by GUID wherever it has been replicated. Its string form
// is what Velero stores as providerSnapshotID.
type SnapshotID struct {
	Node     string
	Dataset  string
	Snapshot string // the part after '@'
	GUID     uint64 // zfs guid, the same on every replica
	Created  time.Time
}

// String returns "zfs1:<node>:<guid>:<created, unix seconds>:<dataset>@<snapshot>".
func (s SnapshotID) String() string {
	return fmt.Sprintf("%s:%s:%d:%d:%s", idVersion, s.Node, s.GUID, s.Created.Unix(), s.Name())
}

// Name returns the full ZFS name, "<dataset>@<snapshot>".
func (s SnapshotID) Name() string { return s.Dataset + "@" + s.Snapshot }

// Volume returns the volume the snapshot was taken of.
func (s SnapshotID) Volume() VolumeID { return VolumeID{Node: s.Node, Dataset: s.Dataset} }

// ParseSnapshotID is the inverse of SnapshotID.String.
func ParseSnapshotID(id string) (SnapshotID, error) {
	f := strings.SplitN(id, ":", 5)
	if err := checkVersion("snapshot", id, f); err != nil {
		return SnapshotID{}, err
	}
	bad := func(why string) (SnapshotID, error) {
		return SnapshotID{}, fmt.Errorf("snapshot %q: %w: %s; want %s:<node>:<guid>:<created>:<dataset>@<snapshot>",
			id, ErrInvalidID, why, idVersion)
	}
	if len(f) != 5 {
		return bad("fields are missing")
	}
	guid, err := strconv.ParseUint(f[2], 10, 64)
	if err != nil || guid == 0 {
		return bad(fmt.Sprintf("%q is not a guid", f[2]))
	}
	created, err := strconv.ParseInt(f[3], 10, 64)
	if err != nil {
		return bad(fmt.Sprintf("%q is not a time", f[3]))
	}
	dataset, snapshot, ok := strings.Cut(f[4], "@")
	if f[1] == "" || !ok || dataset == "" || snapshot == "" {
		return bad("node, dataset or snapshot name is empty")
	}
	return SnapshotID{Node: f[1], Dataset: dataset, Snapshot: snapshot, GUID: guid, Created: time.Unix(created, 0)}, nil
}

// checkVersion tells a foreign identifier from one of another version of ours.
func checkVersion(kind, id string, fields []string) error {
	switch {
	case fields[0] == idVersion:
		return nil
	case strings.HasPrefix(fields[0], "zfs"):
		return fmt.Errorf("%s %q: %w: version %q is not known here (this build knows %s); use the plugin version that made it, or a newer one",
			kind, id, ErrInvalidID, fields[0], idVersion)
	default:
		return fmt.Errorf("%s %q: %w", kind, id, ErrForeignID)
	}
}

// maxSnapshotName leaves room for the dataset in ZFS's limit of 255 bytes for
// "<dataset>@<snapshot>" (zfs(8)), also below a longer replica prefix.
const maxSnapshotName = 64

// SnapshotName returns the snapshot name for a Velero backup: the same for the
// same backup on every call, legal for ZFS, and different for different
// backups, also for one that has the name of an earlier one. A name that has to
// be shortened or altered ends in a hash.
func SnapshotName(backup string, uid types.UID) string {
	return SnapshotStem(backup) + ShortUID(uid)
}

// SnapshotStem returns what the names of the snapshots of all backups of a name
// begin with; the rest is ShortUID.
func SnapshotStem(backup string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
			return r
		}
		return '_'
	}, backup)
	const room = maxSnapshotName - names.UIDLength
	name := names.SnapshotPrefix + clean
	if clean == backup && len(name)+len("-") <= room {
		return name + "-"
	}
	sum := sha256.Sum256([]byte(backup))
	hash := "-" + hex.EncodeToString(sum[:6]) + "-"
	return name[:min(len(name), room-len(hash))] + hash
}

// ShortUID returns what of a backup's uid is in the names of its snapshots.
func ShortUID(uid types.UID) string {
	short := strings.ReplaceAll(string(uid), "-", "")
	if len(short) < names.UIDLength || strings.ContainsFunc(short, func(r rune) bool { return !strings.ContainsRune("0123456789abcdef", r) }) {
		sum := sha256.Sum256([]byte(uid))
		short = hex.EncodeToString(sum[:])
	}
	return short[:names.UIDLength]
}

// BackupOf returns the backup that a snapshot's name belongs to; false when it is
// not of a backup, or the name may have been shortened or altered.
func BackupOf(snapshot string) (string, bool) {
	m := snapshotOfBackup.FindStringSubmatch(snapshot)
	if m == nil || len(snapshot) == maxSnapshotName && altered.MatchString(m[1]) {
		return "", false
	}
	return m[1], true
}

var (
	snapshotOfBackup = regexp.MustCompile(`^` + names.SnapshotPrefix + `([A-Za-z0-9_.-]+)-[0-9a-f]{8}$`)
	altered          = regexp.MustCompile(`-[0-9a-f]{12}$`)
)
