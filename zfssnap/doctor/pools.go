package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// Feature is a pool feature that transfers need or profit from.
type Feature struct {
	Name     string
	Severity State // when it is missing
	Without  string
}

// Features, as zpool-features(7) describes them.
var Features = []Feature{
	{"extensible_dataset", Problem, "an interrupted receive can't be resumed, and nothing of what follows works"},
	{"bookmarks", Problem, "increments start from snapshots alone, which must then be kept"},
	{"large_blocks", Problem, "streams of datasets with a recordsize above 128K can't be received"},
	{"embedded_data", Problem, "streams with embedded blocks can't be received"},
	{"lz4_compress", Problem, "compressed streams can't be received"},
	{"hole_birth", Warning, "increments carry holes again"},
	{"bookmark_v2", Warning, "increments of encrypted datasets can't start from a bookmark"},
	{"bookmark_written", Warning, "the size of an increment from a bookmark can't be estimated"},
	{"zstd_compress", Warning, "streams of datasets with compression=zstd can't be received"},
	{"large_dnode", Warning, "streams of datasets with a dnodesize above legacy can't be received"},
}

// kernelPools is where the kernel module tells of pools without taking a lock.
const kernelPools = "/proc/spl/kstat/zfs"

// KernelPoolStates reads the states of pools from the kernel: ONLINE, SUSPENDED
// and so on. It never hangs, and is empty where there is no such kernel module.
func KernelPoolStates() map[string]string { return poolStates(os.DirFS(kernelPools)) }

func poolStates(kstat fs.FS) map[string]string {
	states := map[string]string{}
	files, err := fs.Glob(kstat, "*/state")
	if err != nil {
		return states
	}
	for _, f := range files {
		if state, err := fs.ReadFile(kstat, f); err == nil {
			states[path.Dir(f)] = strings.TrimSpace(string(state))
		}
	}
	return states
}

func (e *examination) lookAtPools(ctx context.Context) {
	suspended := map[string]bool{}
	if e.PoolStates != nil {
		for pool, state := range e.PoolStates() {
			if e.hasRootOn(pool) && state == "SUSPENDED" {
				suspended[pool], e.hung[pool] = true, true
				e.problem("pool "+pool, "SUSPENDED: every write to it hangs", "bring its devices back, then zpool clear "+pool)
			}
		}
	}
	var pools []zfs.PoolInfo
	if !e.call(ctx, "", "pools", func(ctx context.Context) (err error) {
		pools, err = e.ZFS.Pools(ctx)
		return err
	}) {
		return
	}
	for _, p := range pools {
		if !e.hasRootOn(p.Name) {
			continue
		}
		e.pools = append(e.pools, p)
		if !suspended[p.Name] {
			e.lookAtPool(ctx, p)
		}
	}
	for _, root := range e.Roots {
		pool := zfs.Pool(root)
		if root != "" && !e.hung[pool] && !slices.ContainsFunc(pools, func(p zfs.PoolInfo) bool { return p.Name == pool }) {
			e.hung[pool] = true
			e.problem("pool "+pool, "it is not imported", "zpool import "+pool)
		}
	}
	if len(e.pools) == 0 && len(e.Roots) == 1 && e.Roots[0] == "" {
		e.warn("pools", "there is none", "zpool import lists what could be imported")
	}
}

func (e *examination) hasRootOn(pool string) bool {
	return slices.ContainsFunc(e.Roots, func(root string) bool { return root == "" || zfs.Pool(root) == pool })
}

func (e *examination) lookAtPool(ctx context.Context, p zfs.PoolInfo) {
	name := "pool " + p.Name
	switch p.Health {
	case "ONLINE":
		e.ok(name, p.Health)
	case "DEGRADED":
		e.warn(name, p.Health, "zpool status "+p.Name+" says which device to replace")
	case "SUSPENDED":
		e.hung[p.Name] = true
		e.problem(name, p.Health+": every write to it hangs", "bring its devices back, then zpool clear "+p.Name)
		return
	default:
		e.problem(name, p.Health, "zpool status "+p.Name+" says what is wrong")
	}
	free := 1.0
	if p.Size > 0 {
		free = float64(p.Free) / float64(p.Size)
	}
	message := fmt.Sprintf("%.0f%% used", 100-free*100)
	const remedy = "free space or add devices: replication stops when the pool is full, and slows before"
	switch {
	case free <= veryFewFree:
		e.problem(name+" space", message, remedy)
	case free <= fewFree:
		e.warn(name+" space", message, remedy)
	default:
		e.ok(name+" space", message)
	}
	var features map[string]string
	if !e.call(ctx, p.Name, name+" features", func(ctx context.Context) (err error) {
		features, err = e.ZFS.PoolFeatures(ctx, p.Name)
		return err
	}) {
		return
	}
	e.features[p.Name] = features
	missing := OK
	for _, f := range Features {
		if state := features[f.Name]; state == "enabled" || state == "active" {
			continue
		}
		missing = Worse(missing, f.Severity)
		e.add(f.Severity, name+" feature "+f.Name, "it is not enabled: "+f.Without,
			fmt.Sprintf("zpool set feature@%s=enabled %s, once no older OpenZFS has to import the pool", f.Name, p.Name))
	}
	if missing == OK {
		e.ok(name+" features", "all that transfers use are enabled")
	}
}

// list names a few of many.
func list(names []string) string {
	const most = 3
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
