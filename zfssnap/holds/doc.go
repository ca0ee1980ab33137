// Package holds says who keeps a snapshot from being destroyed, why and until
// when, and which of our holds are dead.
//
// All there is to know lies in ZFS, so that it survives whoever placed it. The
// tag names the purpose, and plain "zfs holds" shows it: kubectl-dr:backup,
// kubectl-dr:replication, kubectl-dr:replica, or kubectl-dr:<purpose>:<name>. A
// [Record] is a property of the held snapshot and says what a tag has no room
// for. A [Target] is a property of a dataset that is sent: where to, and until
// when the transfer counts as alive.
//
// [Dataset.Judge] tells the dead holds from the others. It is a pure function
// and never gives up what the next increment starts from: a replication hold is
// dead only when every target has answered and has a newer snapshot, or lacks
// the held one while nobody sends it. [Reaper] reads, judges and releases.
package holds
