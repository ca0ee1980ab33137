package archive_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// manifest is one of two parts.
func manifest() *archive.Manifest {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	m := &archive.Manifest{
		Version: archive.Version, Node: "hassio", Dataset: "znvm/k3s/pvc-1", Type: zfs.Filesystem, Snapshot: "dr-b2",
		GUID: 18446744073709551557, CreateTXG: 1234, Created: at, Base: &archive.Base{GUID: 7, Snapshot: "dr-b1"},
		Stream: archive.Stream{
			Flags: archive.Flags{LargeBlock: true, Compressed: true, Embedded: true}, ZFS: "2.1.11-1", Encryption: "off",
			Features: []string{"embed_data", "lz4"},
		},
		Properties:         map[string]string{"quota": "1073741824", "recordsize": "16384"},
		SnapshotProperties: map[string]string{"io.kubectl-dr:backup": "<b2> & more"},
		Started:            at.Add(time.Minute), PartSize: 8192,
		End: &archive.End{Bytes: 8195, SHA256: sha256.Sum256([]byte("whole")), Finished: at.Add(2 * time.Minute)},
	}
	for i, size := range []int64{8192, 3} {
		p := archive.Part{Size: size, SHA256: sha256.Sum256([]byte{byte(i)})}
		p.Name = fmt.Sprintf("%08d.%s", i, p.SHA256)
		m.Parts = append(m.Parts, p)
	}
	return m
}

func TestManifest(t *testing.T) {
	t.Parallel()
	m := manifest()
	data, err := m.Encode()
	require.NoError(t, err)
	got, err := archive.ParseManifest(data)
	require.NoError(t, err)
	m.Checksum = got.Checksum
	assert.Equal(t, m, got)

	// docs/archive.md checks it with grep and sha256sum.
	var rest []byte
	for line := range bytes.Lines(data) {
		if !bytes.HasPrefix(line, []byte(`  "checksum": `)) {
			rest = append(rest, line...)
		}
	}
	assert.Equal(t, fmt.Sprintf("%x", sha256.Sum256(rest)), got.Checksum)
	var loose map[string]any
	require.NoError(t, json.Unmarshal(data, &loose))
	assert.Equal(t, "18446744073709551557", loose["guid"], "no reader of JSON may round it")
}

func TestParseManifest_damaged(t *testing.T) {
	t.Parallel()
	data, err := manifest().Encode()
	require.NoError(t, err)
	for i := range data {
		for _, bit := range []byte{0x01, 0x20, 0x80} {
			flipped := bytes.Clone(data)
			flipped[i] ^= bit
			_, err := archive.ParseManifest(flipped)
			require.ErrorIs(t, err, archive.ErrDamaged, "bit %#x of byte %d", bit, i)
		}
	}
	for n := range len(data) {
		_, err := archive.ParseManifest(data[:n])
		require.ErrorIs(t, err, archive.ErrDamaged, "cut after %d bytes", n)
	}
	_, err = archive.ParseManifest(append(bytes.Clone(data), '\n'))
	require.ErrorIs(t, err, archive.ErrDamaged)
}

// seal gives any JSON object the checksum of a manifest.
func seal(t *testing.T, m map[string]any) []byte {
	t.Helper()
	delete(m, "checksum")
	plain, err := json.MarshalIndent(m, "", "  ")
	require.NoError(t, err)
	plain = append(plain, '\n')
	line := fmt.Sprintf("{\n  \"checksum\": \"%x\",\n", sha256.Sum256(plain))
	return append([]byte(line), bytes.TrimPrefix(plain, []byte("{\n"))...)
}

func TestParseManifest_newer(t *testing.T) {
	t.Parallel()
	_, err := archive.ParseManifest(seal(t, map[string]any{"version": 2, "unheard": "of"}))
	require.ErrorIs(t, err, archive.ErrInvalid)
	require.ErrorContains(t, err, "use a newer one")
	require.NotErrorIs(t, err, archive.ErrDamaged)
}

// TestManifest_refuses: what is written by others than us is not taken over.
func TestManifest_refuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		mess func(*archive.Manifest)
		says string
	}{
		{"no guid", func(m *archive.Manifest) { m.GUID = 0 }, "guid 0"},
		{"its own base", func(m *archive.Manifest) { m.Base.GUID = m.GUID }, "with base"},
		{"a snapshot that would be an option", func(m *archive.Manifest) { m.Dataset = "-F" }, "invalid name"},
		{"a node with a slash", func(m *archive.Manifest) { m.Node = "a/b" }, "node"},
		{"a type that is none", func(m *archive.Manifest) { m.Type = "pool" }, `type "pool"`},
		{"a property that shares it", func(m *archive.Manifest) { m.Properties["sharenfs"] = "on" }, `property "sharenfs"`},
		{"a property of another type", func(m *archive.Manifest) { m.Type = zfs.Volume }, `property "quota" of a volume`},
		{"a foreign property of the snapshot", func(m *archive.Manifest) { m.SnapshotProperties["com.example:x"] = "1" }, "com.example:x"},
		{"a value with a line break", func(m *archive.Manifest) { m.SnapshotProperties["io.kubectl-dr:x"] = "a\nb" }, "control character"},
		{"parts without an end", func(m *archive.Manifest) { m.End = nil }, "go together"},
		{"an end without parts", func(m *archive.Manifest) { m.Parts = nil }, "go together"},
		{"a part missing", func(m *archive.Manifest) { m.Parts = m.Parts[:1] }, "the parts have 8192 bytes"},
		{"parts in another order", func(m *archive.Manifest) { m.Parts[0], m.Parts[1] = m.Parts[1], m.Parts[0] }, "part 0 has the name"},
		{"a part that leads elsewhere", func(m *archive.Manifest) { m.Parts[0].Name = "../../points/x" }, "part 0 has the name"},
		{"a part that is too large", func(m *archive.Manifest) { m.Parts[1].Size = 1 << 40 }, "part 1 has 1099511627776 bytes"},
		{"a part in clear among encrypted ones", func(m *archive.Manifest) { m.Recipients = []string{"age1x"} }, "part 0 is stored"},
		{"a send that failed", func(m *archive.Manifest) { m.End.SendStatus = 1 }, "statuses 1 and 0"},
		{"a store that failed", func(m *archive.Manifest) { m.End.StoreStatus = 1 }, "statuses 0 and 1"},
		{"a part size beyond bounds", func(m *archive.Manifest) { m.PartSize = 1 << 40 }, "part size"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := manifest()
			tt.mess(m)
			_, err := m.Encode()
			require.ErrorContains(t, err, tt.says)

			// With a fitting checksum it is refused for what it says.
			loose, err := json.Marshal(m)
			require.NoError(t, err)
			var fields map[string]any
			require.NoError(t, json.Unmarshal(loose, &fields))
			_, err = archive.ParseManifest(seal(t, fields))
			require.ErrorIs(t, err, archive.ErrDamaged)
		})
	}
}

func FuzzParseManifest(f *testing.F) {
	data, err := manifest().Encode()
	require.NoError(f, err)
	f.Add(data)
	f.Add(bytes.Replace(data, []byte(`"checksum"`), []byte(`"Checksum"`), 1))
	record := manifest()
	record.Parts, record.End, record.Base = nil, nil, nil
	data, err = record.Encode()
	require.NoError(f, err)
	f.Add(data)
	f.Add([]byte("{\n  \"checksum\": \"\",\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		// The checksum is put right, so that what lies behind it is reached.
		for _, data := range [][]byte{data, fix(data)} {
			m, err := archive.ParseManifest(data)
			if err != nil {
				continue
			}
			again, err := m.Encode()
			require.NoError(t, err)
			require.Equal(t, string(data), string(again), "there is one form only")
			require.NotZero(t, m.GUID)
			require.NoError(t, zfs.ValidateSnapshot(m.FullName()))
		}
	})
}

// fix gives data the checksum it should have, where it has the place for one.
func fix(data []byte) []byte {
	begin, end := []byte("{\n  \"checksum\": \""), []byte("\",\n")
	rest, ok := bytes.CutPrefix(data, begin)
	_, rest, found := bytes.Cut(rest, end)
	if !ok || !found {
		return data
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(append([]byte("{\n"), rest...)))
	return bytes.Join([][]byte{begin, []byte(sum), end, rest}, nil)
}
