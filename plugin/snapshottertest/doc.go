// Package snapshottertest checks an implementation of Velero's VolumeSnapshotter
// against what Velero's server relies on. It takes the built plugin binary and
// calls it as the server does: discovered, started as a child process, and
// dispensed by Velero's own client management over go-plugin.
//
// The server's contract is not written down anywhere; each check says what the
// server does. The sources are pkg/backup/item_backupper.go,
// pkg/restore/pv_restorer.go, pkg/controller/backup_deletion_controller.go and
// pkg/plugin/clientmgmt of Velero v1.18.
//
// TestConformance in package plugin shows how to use it: on a pool in memory, and
// with ZFS_TEST_POOL=<pool> on OpenZFS, which test/e2e/run does inside a host of
// the rig.
//
// Run changes os.Args while it runs, since Velero's client management hands the
// server's own arguments to a plugin. It must not run in parallel.
package snapshottertest
