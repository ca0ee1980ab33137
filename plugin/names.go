package plugin

import (
	"github.com/kubectl-dr/kubectl-dr/restore"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// Names under which Velero knows the plugins of this binary.
const (
	// SnapshotterName is also the provider of a VolumeSnapshotLocation.
	SnapshotterName = zfssnap.Provider
	// ReplicationName is the backup item action that waits for the copy.
	ReplicationName = zfssnap.Domain + "/replication"
	// GroupName is the item block action that groups volumes.
	GroupName = zfssnap.Domain + "/group"
	// UnrecordedName is the delete item action for snapshots that Velero has no
	// record of.
	UnrecordedName = zfssnap.Domain + "/unrecorded"
	// RewriteName is the restore item action that rewrites objects.
	RewriteName = restore.PluginName
)
