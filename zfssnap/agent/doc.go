// Package agent is the zfs-agent's gRPC service and its client.
//
// One agent runs on each ZFS host. It alone runs zfs(8), and it moves data to
// other agents directly. Every connection is mutual TLS 1.3: the common name of
// a certificate is its identity, and a [Policy] says what each identity may do
// with which datasets.
//
// What an agent has to remember lies in ZFS, as properties, holds, bookmarks
// and resume tokens. It may be killed at any time.
//
// What it destroys is what this project made: a dataset or snapshot with a
// local io.kubectl-dr:managed property. It never rolls back.
package agent
