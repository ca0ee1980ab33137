// Package zfs is a typed client of zfs(8) and zpool(8).
//
// It owns names, argument lists, output parsing and the meaning of error
// messages. Every command is an argv slice that goes through one [Runner];
// there is no shell. It knows nothing of Velero, Kubernetes or replication
// policy: which snapshot to keep or send is for its callers to decide.
//
// Names and property values are checked against the grammar of ZFS before
// anything is run, so a value from outside can never become an option.
//
// Some flags are never passed: receive -F and send -R, because they destroy
// what the other side lacks; send -p, because it replays foreign properties;
// destroy -R, because it destroys clones.
package zfs
