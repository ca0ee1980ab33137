package archive

import (
	"encoding/base64"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// First records of streams of OpenZFS 2.1.11, without the zeros at their end.
const (
	// zfs send -L -c -e znvm/hd@a | head -c 312 | base64, recordsize=1M compression=lz4
	fullHeader = "AAAAAAAAAACsy7r1AgAAABEALAEAAAAAZ2wBawAAAAACAAAADAAAACeRB7U/GKqYAAAAAAAAAAB6bnZtL2hkQGE="
	// zfs send -L -c -e -i @a znvm/hd@b | head -c 312 | base64
	incrementHeader = "AAAAAAAAAACsy7r1AgAAABEALAEAAAAAaWwBawAAAAACAAAADAAAAK42Wf4A0U2VJ5EHtT8Yqph6bnZtL2hkQGI="
)

func record(t *testing.T, encoded string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(encoded)
	require.NoError(t, err)
	return append(b, make([]byte, headerSize-len(b))...)
}

func TestParseHeader(t *testing.T) {
	t.Parallel()
	features := []string{"sa_spill", "embed_data", "lz4", "large_blocks", "compressed"}
	h, ok := parseHeader(record(t, fullHeader))
	require.True(t, ok)
	assert.Equal(t, streamHeader{to: 11000631701705036071, features: features}, h)
	b := record(t, incrementHeader)
	h, ok = parseHeader(b)
	require.True(t, ok)
	assert.Equal(t, streamHeader{to: 10758484887055447726, from: 11000631701705036071, features: features}, h)

	// A feature that is not known here is told all the same.
	binary.LittleEndian.PutUint64(b[16:], 1|1<<(2+24)|1<<(2+40))
	h, ok = parseHeader(b)
	require.True(t, ok)
	assert.Equal(t, []string{"raw", "bit40"}, h.features)
	// A host of the other byte order.
	for at, size := range map[int]int{0: 4, 8: 8, 16: 8, 40: 8, 48: 8} {
		for i := range size / 2 {
			b[at+i], b[at+size-1-i] = b[at+size-1-i], b[at+i]
		}
	}
	swapped, ok := parseHeader(b)
	require.True(t, ok)
	assert.Equal(t, h, swapped)

	for _, none := range [][]byte{nil, b[:headerSize-1], make([]byte, headerSize)} {
		_, ok := parseHeader(none)
		assert.False(t, ok)
	}
}

func FuzzParseHeader(f *testing.F) {
	for _, encoded := range []string{fullHeader, incrementHeader} {
		b, err := base64.StdEncoding.DecodeString(encoded)
		require.NoError(f, err)
		f.Add(append(b, make([]byte, headerSize-len(b))...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, ok := parseHeader(b)
		if !ok {
			assert.Zero(t, h)
			return
		}
		assert.GreaterOrEqual(t, len(b), headerSize)
		assert.LessOrEqual(t, len(h.features), 62)
	})
}
