// Package replicate brings one snapshot of a dataset to a replica on another
// host, and leaves both sides so that the next one can follow.
//
// [Make] is the planner: a pure function from what both sides have to the one
// step to take. [Runner] takes the steps from the source's side. What is there
// is read anew on every run, so a run may be cut off anywhere and repeated.
//
// Snapshots are matched by guid and ordered by createtxg, never by name or
// time. A replica is only ever appended to: one that has diverged is an error
// that names the snapshots, not something to repair.
package replicate
