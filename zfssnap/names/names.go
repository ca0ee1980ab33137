// Package names holds the names that all parts agree on: what is put on
// Kubernetes objects, on datasets and on snapshots. It imports nothing, so that
// the agent need not link what talks to Kubernetes.
package names

import "strings"

// Domain is the DNS domain under which every name this project gives to
// Kubernetes or Velero objects lies: plugin names, labels, annotations and
// API groups.
const Domain = "kubectl-dr.io"

// Labels and annotations put on Kubernetes and Velero objects.
const (
	// LabelRun carries the name of the RecoveryRun that made an object.
	LabelRun = Domain + "/run"
	// LabelPlan carries the name of the RecoveryPlan an object belongs to.
	LabelPlan = Domain + "/plan"
	// LabelCopy is "true" on a RecoveryRun that is a copy of another cluster's.
	LabelCopy = Domain + "/copy"
	// LabelStandby carries the name of the RecoveryPlan whose warm standby an object
	// is part of.
	LabelStandby = Domain + "/standby-of"
	// AnnotationProfile (or the label of the same name) on a Velero Restore
	// names the rewrite profile that the restore uses.
	AnnotationProfile = Domain + "/profile"
	// AnnotationOnly on a Velero Restore names the ConfigMap of the objects that the
	// restore is limited to, which has it as a label.
	AnnotationOnly = Domain + "/only"
	// AnnotationThin (or the label of the same name), when "true" on a Velero
	// Restore, has the volumes made for it reserve no space, whatever their sources do.
	AnnotationThin = Domain + "/thin"
	// LabelVolume marks a PersistentVolume made by the volume snapshotter.
	LabelVolume = Domain + "/volume"
)

// ZFS user properties that mark what this project made. A dataset or snapshot
// without a local value of PropManaged is never destroyed.
const (
	// PropManaged is "true" on every dataset and snapshot made by us.
	PropManaged = "io.kubectl-dr:managed"
	// PropBackup is the Velero backup a snapshot was taken for.
	PropBackup = "io.kubectl-dr:backup"
	// PropVersion is the version of the plugin that a snapshot was taken by.
	PropVersion = "io.kubectl-dr:version"
	// PropVolume is the PersistentVolume a snapshot or clone belongs to.
	PropVolume = "io.kubectl-dr:volume"
	// PropGroup is the consistency group a snapshot was taken with.
	PropGroup = "io.kubectl-dr:group"
	// PropTagPrefix begins the properties that keep Velero's tags of a snapshot.
	PropTagPrefix = "io.kubectl-dr:tag:"
	// PropClaimPrefix begins the properties of a snapshot that keep the claim and
	// the PersistentVolume of a volume; the rest tells the volumes apart that were
	// snapshotted together.
	PropClaimPrefix = "io.kubectl-dr:claim:"
	// PropRestore is the Velero restore a clone was made for.
	PropRestore = "io.kubectl-dr:restore"
	// PropRun is the RecoveryRun a clone was made for.
	PropRun = "io.kubectl-dr:run"
	// PropSource is "node:dataset" on the root of a replica: where it comes from.
	PropSource = "io.kubectl-dr:source"
	// PropStream is the mode of the streams that the root of a replica was
	// received from: flags of zfs send, which stay the same for all of them.
	PropStream = "io.kubectl-dr:stream"
	// PropExpired begins the property of a dataset that says that a snapshot's
	// backup was deleted while its copy could not be; the rest is the guid, and
	// the value the node of the copy.
	PropExpired = "io.kubectl-dr:expired:"
	// PropArchiveExpired is PropExpired for an archive, whose name is the value.
	PropArchiveExpired = "io.kubectl-dr:archive-expired:"
	// PropFenced, when set on a replica, makes the agent refuse every receive
	// into it; its value says who fenced it.
	PropFenced = "io.kubectl-dr:fenced"
	// PropTaken, on the root of a pool that several hosts reach, says who took it over
	// last: "node:reason".
	PropTaken = "io.kubectl-dr:taken"
	// PropHold begins the property of a held snapshot that says who placed the
	// hold; the rest is the hold tag without its "kubectl-dr:".
	PropHold = "io.kubectl-dr:hold:"
	// PropTarget begins the property of a dataset that says where it is sent
	// to, and until when the transfer counts as alive.
	PropTarget = "io.kubectl-dr:target:"
)

// SnapshotPrefix begins the name of every snapshot that is taken for a backup.
const SnapshotPrefix = "dr-"

// UIDLength is how many digits of its backup's uid such a name ends in.
const UIDLength = 8

// UIDOf returns what a snapshot's name ends in when it is a prefix and digits of a
// uid; false for any other.
func UIDOf(snapshot, prefix string) (uid string, ok bool) {
	uid, ok = strings.CutPrefix(snapshot, prefix)
	return uid, ok && len(uid) == UIDLength && strings.Trim(uid, "0123456789abcdef") == ""
}

// Purposes of holds.
const (
	// HoldBackup keeps a snapshot that a Velero backup needs.
	HoldBackup = "backup"
	// HoldReplication keeps, on the sending side, the snapshots that a transfer
	// or the next increment needs.
	HoldReplication = "replication"
	// HoldReplica keeps the newest snapshot of a replica: the next increment
	// can be received onto nothing else.
	HoldReplica = "replica"
)

// HoldTag returns the hold tag that keeps a snapshot for the given purpose,
// for example "backup" or "replication".
func HoldTag(purpose string) string { return "kubectl-dr:" + purpose }
