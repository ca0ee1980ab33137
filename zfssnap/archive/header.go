package archive

import (
	"encoding/binary"
	"fmt"
)

// streamHeader is what the first record of a stream tells: drr_begin of
// dmu_replay_record in OpenZFS's include/sys/zfs_ioctl.h.
type streamHeader struct {
	to, from GUID
	features []string
}

// headerSize is the size of a record in bytes.
const headerSize = 312

// streamMagic is DMU_BACKUP_MAGIC.
const streamMagic = 0x2F5bacbac

// streamFeatures names the bits of DMU_BACKUP_FEATURE_*.
var streamFeatures = map[int]string{
	0: "dedup", 1: "dedup_props", 2: "sa_spill", 16: "embed_data", 17: "lz4", 19: "large_blocks", 20: "resuming", 21: "redacted",
	22: "compressed", 23: "large_dnode", 24: "raw", 25: "zstd", 26: "holds", 27: "switch_to_large_blocks",
}

// parseHeader reads the first record. ok is false for what is not a stream of
// ZFS.
func parseHeader(b []byte) (h streamHeader, ok bool) {
	if len(b) < headerSize {
		return h, false
	}
	var order binary.ByteOrder = binary.LittleEndian
	if order.Uint64(b[8:]) != streamMagic {
		order = binary.BigEndian
	}
	if order.Uint32(b) != 0 || order.Uint64(b[8:]) != streamMagic {
		return h, false
	}
	h.to, h.from = GUID(order.Uint64(b[40:])), GUID(order.Uint64(b[48:]))
	// The two lowest bits of drr_versioninfo tell a compound stream.
	flags := order.Uint64(b[16:]) >> 2
	for bit := range 62 {
		if flags>>bit&1 == 0 {
			continue
		}
		name, known := streamFeatures[bit]
		if !known {
			name = fmt.Sprintf("bit%d", bit)
		}
		h.features = append(h.features, name)
	}
	return h, true
}
