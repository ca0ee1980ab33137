package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/received"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// Version is the version of the manifests this package writes, and the only one
// it reads.
const Version = 1

// GUID is the guid of a snapshot. In JSON it is a string, because many readers
// of JSON lose the last digits of so large a number.
type GUID uint64

func (g GUID) String() string { return strconv.FormatUint(uint64(g), 10) }

// MarshalText implements encoding.TextMarshaler.
func (g GUID) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (g *GUID) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 64)
	*g = GUID(n)
	return err
}

// Digest is a SHA-256, in JSON as 64 hexadecimal digits.
type Digest [sha256.Size]byte

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err == nil && len(b) != len(d) {
		err = fmt.Errorf("a SHA-256 of %d bytes", len(b))
	}
	copy(d[:], b)
	return err
}

// Manifest describes one restore point. As the record of an upload that has
// begun it has neither parts nor end.
type Manifest struct {
	// Checksum is the SHA-256 of the manifest without this line.
	Checksum string `json:"checksum,omitempty"`
	Version  int    `json:"version"`

	Node      string    `json:"node"` // host of the dataset
	Dataset   string    `json:"dataset"`
	Type      zfs.Type  `json:"type"`
	Snapshot  string    `json:"snapshot"` // after '@'
	GUID      GUID      `json:"guid"`
	CreateTXG uint64    `json:"createtxg"`
	Created   time.Time `json:"created"` // the snapshot, to the second
	Base      *Base     `json:"base,omitempty"`

	Stream Stream `json:"stream"`
	// Properties are native properties of the dataset, those of
	// received.NativeProperties that are set there.
	Properties map[string]string `json:"properties,omitempty"`
	// SnapshotProperties are this project's properties of the snapshot.
	SnapshotProperties map[string]string `json:"snapshotProperties,omitempty"`

	Started    time.Time `json:"started"` // the upload
	PartSize   int64     `json:"partSize"`
	Recipients []string  `json:"recipients,omitempty"` // age public keys
	Parts      []Part    `json:"parts,omitempty"`
	End        *End      `json:"end,omitempty"`
}

// Base is the point an increment is based on.
type Base struct {
	GUID     GUID   `json:"guid"`
	Snapshot string `json:"snapshot"` // name that the base had, after '@' or '#'
}

// Stream says how a stream was made and what receiving it takes.
type Stream struct {
	Flags
	ZFS        string `json:"zfs"`        // version of the sender's tools
	Encryption string `json:"encryption"` // cipher of the dataset, or "off"
	// Features are those of the stream's own header, DMU_BACKUP_FEATURE_* in
	// zfs_ioctl.h; what receives it must know each.
	Features []string `json:"features,omitempty"`
}

// Flags are the options of zfs send. They stay the same along a chain: a raw
// increment does not fit a plain base, nor one with large blocks one without.
type Flags struct {
	Raw        bool `json:"raw"`        // -w
	LargeBlock bool `json:"largeBlock"` // -L
	Compressed bool `json:"compressed"` // -c
	Embedded   bool `json:"embedded"`   // -e
}

// Letters returns the letters of the options that are on.
func (f Flags) Letters() string {
	letters := ""
	for _, o := range []struct {
		on     bool
		letter string
	}{{f.Raw, "w"}, {f.LargeBlock, "L"}, {f.Compressed, "c"}, {f.Embedded, "e"}} {
		if o.on {
			letters += o.letter
		}
	}
	return letters
}

// Part is one part of a stream. The parts in their order make up the stream.
type Part struct {
	Name   string `json:"name"` // in the point's directory
	Size   int64  `json:"size"` // of the stream
	SHA256 Digest `json:"sha256"`
	// What is stored, when that is not the stream itself but encrypted.
	StoredSize   int64   `json:"storedSize,omitempty"`
	StoredSHA256 *Digest `json:"storedSHA256,omitempty"`
}

// stored returns size and sum of the object.
func (p Part) stored() (int64, Digest) {
	if p.StoredSHA256 != nil {
		return p.StoredSize, *p.StoredSHA256
	}
	return p.Size, p.SHA256
}

// partName names a part by where it belongs and what it holds, so that a name
// never stands for two contents, and a listing says how far an upload got.
func partName(index int, p Part) string {
	name := fmt.Sprintf("%08d.%s", index, p.SHA256)
	if p.StoredSHA256 != nil {
		name += "." + p.StoredSHA256.String() + ".age"
	}
	return name
}

// parsePart is the inverse of partName for an object of a size.
func parsePart(name string, size int64) (index int, p Part, ok bool) {
	fields := strings.Split(strings.TrimSuffix(name, ".age"), ".")
	p = Part{Name: name, Size: size}
	if len(fields) < 2 || len(fields) > 3 || p.SHA256.UnmarshalText([]byte(fields[1])) != nil {
		return 0, Part{}, false
	}
	if len(fields) == 3 {
		// The size of the stream's part is not in the name.
		p.Size, p.StoredSize, p.StoredSHA256 = 0, size, &Digest{}
		if p.StoredSHA256.UnmarshalText([]byte(fields[2])) != nil {
			return 0, Part{}, false
		}
	}
	index, err := strconv.Atoi(fields[0])
	return index, p, err == nil && partName(index, p) == name
}

// End is what is known at the end of a stream. It exists only when zfs send
// ended well and every part was stored.
type End struct {
	Bytes       uint64    `json:"bytes"`
	SHA256      Digest    `json:"sha256"`
	SendStatus  int       `json:"sendStatus"`  // exit status of zfs send
	StoreStatus int       `json:"storeStatus"` // 0 when every part was found stored
	Finished    time.Time `json:"finished"`
}

// FullName returns "dataset@snapshot".
func (m *Manifest) FullName() string { return m.Dataset + "@" + m.Snapshot }

// Source returns "node:dataset".
func (m *Manifest) Source() string { return m.Node + ":" + m.Dataset }

// BaseGUID returns the guid of the base, 0 for a full stream.
func (m *Manifest) BaseGUID() GUID {
	if m.Base == nil {
		return 0
	}
	return m.Base.GUID
}

// StoredBytes is what the parts take in the store.
func (m *Manifest) StoredBytes() int64 {
	var n int64
	for _, p := range m.Parts {
		size, _ := p.stored()
		n += size
	}
	return n
}

// Encode returns the one form a manifest has, with its checksum: indented JSON,
// one field a line.
func (m *Manifest) Encode() ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, err
	}
	c := *m
	c.Checksum = ""
	plain, err := encode(&c)
	if err != nil {
		return nil, err
	}
	c.Checksum = fmt.Sprintf("%x", sha256.Sum256(plain))
	return encode(&c)
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}

// ParseManifest reads a manifest. A byte that is not as Encode wrote it is
// ErrDamaged.
func ParseManifest(data []byte) (*Manifest, error) {
	damaged := func(err error) (*Manifest, error) { return nil, fmt.Errorf("%w manifest: %w", ErrDamaged, err) }
	if err := checkSum(data); err != nil {
		return damaged(err)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return damaged(err)
	}
	if head.Version > Version {
		return nil, fmt.Errorf("manifest of version %d: %w: this program reads version %d; use a newer one", head.Version, ErrInvalid, Version)
	}
	m := &Manifest{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return damaged(err)
	}
	again, err := m.Encode()
	if err != nil {
		return damaged(err)
	}
	if !bytes.Equal(data, again) {
		return damaged(errors.New("it is not in the form that was written"))
	}
	return m, nil
}

// checkSum checks the first field of a manifest of any version.
func checkSum(data []byte) error {
	const begin, end = "{\n  \"checksum\": \"", "\",\n"
	rest, ok := bytes.CutPrefix(data, []byte(begin))
	sum, rest, found := bytes.Cut(rest, []byte(end))
	if !ok || !found {
		return errors.New("it has no checksum")
	}
	if fmt.Sprintf("%x", sha256.Sum256(slices.Concat([]byte("{\n"), rest))) != string(sum) {
		return errors.New("it does not have its checksum")
	}
	return nil
}

func (m *Manifest) validate() error {
	if m.Version != Version {
		return fmt.Errorf("%w: version %d", ErrInvalid, m.Version)
	}
	if err := zfs.ValidateSnapshot(m.FullName()); err != nil {
		return err
	}
	if m.Type != zfs.Filesystem && m.Type != zfs.Volume {
		return fmt.Errorf("%w: type %q", ErrInvalid, m.Type)
	}
	if err := zfs.ValidateComponent(m.Node); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	if m.GUID == 0 || m.Base != nil && (m.Base.GUID == 0 || m.Base.GUID == m.GUID) {
		return fmt.Errorf("%w: guid %s with base %s", ErrInvalid, m.GUID, m.BaseGUID())
	}
	for _, name := range slices.Sorted(maps.Keys(m.Properties)) {
		if !slices.Contains(received.NativeProperties[m.Type], name) {
			return fmt.Errorf("%w: property %q of a %s", ErrInvalid, name, m.Type)
		}
		if err := zfs.ValidateValue(m.Properties[name]); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.SnapshotProperties)) {
		if !strings.HasPrefix(name, zfs.UserNamespace) {
			return fmt.Errorf("%w: property %q of a snapshot", ErrInvalid, name)
		}
		if err := errors.Join(zfs.ValidateUserProperty(name), zfs.ValidateValue(m.SnapshotProperties[name])); err != nil {
			return err
		}
	}
	if m.PartSize < MinPartSize || m.PartSize > MaxPartSize {
		return fmt.Errorf("%w: part size %d", ErrInvalid, m.PartSize)
	}
	return m.validateParts()
}

func (m *Manifest) validateParts() error {
	if m.End == nil && len(m.Parts) == 0 {
		return nil
	}
	if m.End == nil || len(m.Parts) == 0 {
		return fmt.Errorf("%w: parts and end go together", ErrInvalid)
	}
	var bytes uint64
	for i, p := range m.Parts {
		switch {
		case p.Name != partName(i, p):
			return fmt.Errorf("%w: part %d has the name %q", ErrInvalid, i, p.Name)
		case p.Size < 1, p.Size > m.PartSize, p.Size < m.PartSize && i < len(m.Parts)-1:
			return fmt.Errorf("%w: part %d has %d bytes", ErrInvalid, i, p.Size)
		case (p.StoredSHA256 != nil) != (len(m.Recipients) > 0), p.StoredSHA256 != nil && p.StoredSize < p.Size,
			p.StoredSHA256 == nil && p.StoredSize != 0, p.StoredSize > storedLimit(m.PartSize):
			return fmt.Errorf("%w: part %d is stored with %d bytes", ErrInvalid, i, p.StoredSize)
		}
		bytes += uint64(p.Size)
	}
	if m.End.Bytes != bytes || m.End.SendStatus != 0 || m.End.StoreStatus != 0 {
		return fmt.Errorf("%w: the end tells %d bytes, statuses %d and %d; the parts have %d bytes",
			ErrInvalid, m.End.Bytes, m.End.SendStatus, m.End.StoreStatus, bytes)
	}
	return nil
}
