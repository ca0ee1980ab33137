package zfs

import "time"

// Type is the kind of a dataset.
type Type string

// The kinds of dataset that hold data.
const (
	Filesystem Type = "filesystem"
	Volume     Type = "volume"
)

// Release is what `zfs version` says.
type Release struct {
	Userland string // for example "2.1.11-1+deb12u1"
	Module   string // of the loaded kernel module; "" when it is not known
}

// PoolInfo is one pool.
type PoolInfo struct {
	Name   string
	Health string // ONLINE, DEGRADED, SUSPENDED, ...
	Size   uint64
	Free   uint64
}

// Dataset is a filesystem or volume.
type Dataset struct {
	Name               string
	Type               Type
	GUID               uint64
	Used               uint64
	Referenced         uint64
	Origin             string // snapshot it is a clone of, "" for none
	Mountpoint         string // "legacy", "none" or a path; "" for a volume
	Mounted            bool
	ReadOnly           bool
	ReceiveResumeToken string // "" when no receive was interrupted
	Encryption         string // "off" or a cipher
	KeyStatus          string // "available", "unavailable"; "" when not encrypted
	VolSize            uint64 // 0 for a filesystem
}

// Encrypted reports whether the dataset is encrypted.
func (d Dataset) Encrypted() bool { return d.Encryption != "" && d.Encryption != "off" }

// Version is a snapshot or a bookmark of a dataset.
type Version struct {
	Dataset    string
	Name       string // after '@' or '#'
	Bookmark   bool
	GUID       uint64 // the same on every replica, and on a bookmark of it
	CreateTXG  uint64 // orders the versions of one pool
	Created    time.Time
	Used       uint64
	Referenced uint64
	Written    uint64 // since the snapshot before
	UserRefs   uint64 // holds
}

// FullName returns "dataset@name" or "dataset#name".
func (v Version) FullName() string {
	if v.Bookmark {
		return v.Dataset + "#" + v.Name
	}
	return v.Dataset + "@" + v.Name
}

// Hold is one hold on a snapshot.
type Hold struct {
	Snapshot string // full name
	Tag      string
	Created  time.Time // to the minute
}

// Source tells where the value of a property comes from.
type Source string

// Sources of a property value. An inherited one reads
// "inherited from <dataset>", as zfs(8) prints it.
const (
	SourceLocal    Source = "local"
	SourceReceived Source = "received"
	SourceDefault  Source = "default"
	SourceNone     Source = "-"
)

// Property is the value of a property and where it comes from.
type Property struct {
	Value  string
	Source Source
}

// SendOptions says what to send. Either To, or Token alone with the flags of
// the send that was interrupted.
type SendOptions struct {
	From  string // base: full name of a snapshot or bookmark, "" for a full stream
	To    string // full name of a snapshot
	Token string // resume token of the receiver

	Raw        bool // -w: as stored on disk; needed for encrypted datasets
	LargeBlock bool // -L
	Compressed bool // -c
	Embedded   bool // -e
}

// Estimate is what a send would produce.
type Estimate struct {
	Bytes  uint64  // 0 when ZFS gives no estimate
	Resume *Resume // when a token was given
}

// Resume is what a resume token contains.
type Resume struct {
	ToGUID   uint64
	ToName   string // on the sender when the first stream began
	FromGUID uint64 // 0 for a full stream
	Bytes    uint64 // received so far

	// What the stream is made of. LargeBlock and Embedded are only set when
	// there are such blocks, whatever flags the send had.
	Raw        bool
	LargeBlock bool
	Compressed bool
	Embedded   bool
}

// ReceiveOptions says how to receive. There is no option to roll back.
type ReceiveOptions struct {
	Target    string            // dataset, or dataset@snapshot
	Resumable bool              // -s: keep partial state when the stream is cut
	Unmounted bool              // -u
	Set       map[string]string // -o
	Exclude   []string          // -x
	Origin    string            // receive as a clone of this snapshot of the target's pool
}

// CreateOptions says how to create a dataset.
type CreateOptions struct {
	Properties map[string]string
	Parents    bool   // -p; an existing dataset is then no error
	VolumeSize uint64 // > 0 makes a volume
	Sparse     bool   // -s: a volume without reservation
	Unmounted  bool   // -u
}

// DestroyOptions says what goes along with a dataset. Clones never do.
type DestroyOptions struct {
	Recursive bool // -r: children and snapshots too
}
