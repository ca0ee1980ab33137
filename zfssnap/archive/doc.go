// Package archive keeps zfs streams in object storage.
//
// A restore point is one snapshot: its stream, cut in parts, and a [Manifest]
// that is written last. Without its manifest there is no restore point, so an
// upload that was cut off is never taken for a backup. Points form chains by
// guid: an increment names the point it is based on.
//
// An [Uploader] makes points, a [Verifier] reads them without restoring, a
// [Restorer] makes a dataset of a chain, and a [Pruner] deletes what a
// [Retention] does not keep, never a base of what it keeps. Each plans first, as
// data. They report through hooks and print nothing.
//
// Beside them a [Store] keeps the reports of what was done with them.
//
// docs/archive.md says what lies where, how much memory it takes, and how to
// restore without this program.
package archive
