package vm

import (
	"encoding/binary"
	"fmt"
	"os"
)

const (
	sectorSize = 512
	// firstSector is where partitions are aligned to by convention: at 1 MiB.
	firstSector = 2048
	// zfsPartition is the partition type that OpenZFS's users give it in an MBR.
	zfsPartition = 0xbf
)

// masterBootRecord describes a disk of so many bytes with one partition over
// all of it. zpool(8) would make a partition table on a whole disk itself, but
// then waits for udev, which the guest doesn't run, to make its device node.
func masterBootRecord(size int64) ([]byte, error) {
	sectors := size/sectorSize - firstSector
	if sectors <= 0 || sectors > 1<<32-1 {
		return nil, fmt.Errorf("partition a disk of %d bytes: an MBR can't describe it", size)
	}
	const entry, signature = 446, 510
	mbr := make([]byte, sectorSize)
	// Cylinders, heads and sectors are of no use for long: all ones say so.
	copy(mbr[entry:], []byte{0, 0xfe, 0xff, 0xff, zfsPartition, 0xfe, 0xff, 0xff})
	binary.LittleEndian.PutUint32(mbr[entry+8:], firstSector)
	binary.LittleEndian.PutUint32(mbr[entry+12:], uint32(sectors))
	mbr[signature], mbr[signature+1] = 0x55, 0xaa
	return mbr, nil
}

// makePoolDisk makes a sparse disk with one empty partition. One that exists is
// left alone: it may hold a pool.
func makePoolDisk(path string, sizeGB int) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	size := int64(sizeGB) << 30
	mbr, err := masterBootRecord(size)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", mbr, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(path+".new", size); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
