// Package crashtest breaks replication at every step it takes and looks at what
// is left.
//
// Two agents, source and target, live through what a backup asks of them. A run
// without a fault tells which commands they give to zfs(8). Then, for each of
// these steps, the same is done anew and goes wrong just there: the command is
// killed, its agent is killed, or the link between the agents is cut; before the
// step, when it has taken effect but nobody learned of it, and in the midst of a
// stream. So no step is missed, and one that is added is broken too.
//
// After each fault both sides must be consistent, what was asked for must come
// about when it is asked for again, and after a further backup nothing may be
// left of it. A test run breaks each story at a few steps from its beginning to
// its end; with -faults=0 at all of them. [zfstest.EnvPool] chooses real pools
// instead of those in memory; agents then are processes of their own, and signals
// real ones.
//
// [zfstest.EnvPool]: https://pkg.go.dev/github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest#EnvPool
package crashtest
