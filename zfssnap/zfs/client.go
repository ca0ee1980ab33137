package zfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// maxOperands bounds how many names one command is given, so that the longest
// of them fit the system's limit of an argument list many times over.
const maxOperands = 500

// Client runs zfs(8) and zpool(8). It keeps no state: what a method returns was
// read since it was called. Its methods may be called at once; those that look
// at a dataset, snapshot or bookmark, and those that hold and release, then share
// processes.
//
// A command that failed comes back as *CommandError, which wraps the cause.
type Client struct {
	Runner Runner
	// Devices is the directory in which pools to import are looked for; where zpool(8)
	// looks by itself when empty.
	Devices string

	datasets   gather[Dataset]
	properties gather[map[string]Property]
	userNames  gather[[]string]
	versions   gather[[]Version]
	lookups    gather[Version]
	holds      gather[[]Hold]
	holding    gather[struct{}]
	releasing  gather[struct{}]

	// unprivileged is set when this host has refused to run a program.
	unprivileged atomic.Bool
}

// New returns a client of the ZFS of this host.
func New() *Client { return &Client{Runner: Exec{}} }

// run runs args and returns stdout.
func (c *Client) run(ctx context.Context, args []string) ([]byte, error) {
	res, err := c.Runner.Run(ctx, Cmd{Args: args})
	return res.Stdout, result(args, res, err)
}

// exec runs args for effect; buildErr is the error of their builder.
func (c *Client) exec(ctx context.Context, args []string, buildErr error) error {
	if buildErr != nil {
		return buildErr
	}
	_, err := c.run(ctx, args)
	return err
}

// result makes one error of what a Runner returned.
func result(args []string, res Result, err error) error {
	var failed *CommandError
	if res.ExitCode != 0 && (err == nil || res.Stderr != "") {
		failed = &CommandError{Args: args, Stderr: res.Stderr, ExitCode: res.ExitCode, Err: Classify(res.Stderr)}
	}
	switch {
	case failed == nil && err == nil:
		return nil
	case failed == nil:
		return fmt.Errorf("%s: %w", verb(args), err)
	case err == nil:
		return failed
	default:
		return fmt.Errorf("%w: %w", failed, err)
	}
}

// byName finds each of some things by its name.
func byName[T any](all []T, name func(T) string) map[string]T {
	by := make(map[string]T, len(all))
	for _, t := range all {
		by[name(t)] = t
	}
	return by
}

// grouped puts things with the names they belong to, in their order. Each name
// has an entry, and things of other names are left out.
func grouped[T any](names []string, all []T, belongs func(T) string) map[string][]T {
	by := make(map[string][]T, len(names))
	for _, n := range names {
		by[n] = nil
	}
	for _, t := range all {
		if of, ok := by[belongs(t)]; ok {
			by[belongs(t)] = append(of, t)
		}
	}
	return by
}

// Version returns the versions of the tools and the kernel module.
func (c *Client) Version(ctx context.Context) (Release, error) {
	out, err := c.run(ctx, []string{"zfs", "version"})
	if err != nil {
		return Release{}, err
	}
	return parseRelease(out)
}

// Pools lists the imported pools.
func (c *Client) Pools(ctx context.Context) ([]PoolInfo, error) {
	out, err := c.run(ctx, poolsArgs())
	if err != nil {
		return nil, err
	}
	return parsePools(out)
}

// PoolFeatures returns the state of each feature that a pool's software knows:
// "disabled", "enabled" or "active", by name without "feature@".
func (c *Client) PoolFeatures(ctx context.Context, pool string) (map[string]string, error) {
	args, err := poolFeaturesArgs(pool)
	if err != nil {
		return nil, err
	}
	out, err := c.run(ctx, args)
	if err != nil {
		return nil, err
	}
	return parseFeatures(out), nil
}

// ReceiveBegan tells when the interrupted receive of a dataset began.
func (c *Client) ReceiveBegan(ctx context.Context, dataset string) (time.Time, error) {
	if err := ValidateDataset(dataset); err != nil {
		return time.Time{}, err
	}
	// An increment is received into a hidden clone; what receives its first
	// stream was made by it.
	out, err := c.run(ctx, creationArgs(dataset+"/%recv"))
	if errors.Is(err, ErrNotFound) {
		out, err = c.run(ctx, creationArgs(dataset))
	}
	if err != nil {
		return time.Time{}, err
	}
	return parseCreation(out)
}

// Datasets lists root and, when recursive, what lies below it. An empty root
// stands for every pool. ErrNotFound when there is no such root.
func (c *Client) Datasets(ctx context.Context, root string, recursive bool) ([]Dataset, error) {
	args, err := datasetsArgs(recursive, root)
	if err != nil {
		return nil, err
	}
	out, err := c.run(ctx, args)
	if err != nil {
		return nil, err
	}
	return parseDatasets(out)
}

// Dataset returns one filesystem or volume. ErrNotFound when there is none.
func (c *Client) Dataset(ctx context.Context, name string) (Dataset, error) {
	if err := ValidateDataset(name); err != nil {
		return Dataset{}, err
	}
	return c.datasets.askOne(ctx, "", name, func(ctx context.Context, names []string) (map[string]Dataset, error) {
		args, err := datasetsArgs(false, names...)
		if err != nil {
			return nil, err
		}
		out, err := c.run(ctx, args)
		all, parseErr := parseDatasets(out)
		return byName(all, func(d Dataset) string { return d.Name }), cmp.Or(err, parseErr)
	})
}

// Exists tells whether a dataset, snapshot or bookmark exists.
func (c *Client) Exists(ctx context.Context, name string) (bool, error) {
	if err := ValidateName(name); err != nil {
		return false, err
	}
	_, err := c.run(ctx, existsArgs(name))
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, ErrNotFound):
		return false, nil
	default:
		return false, err
	}
}

// Get returns properties of a dataset, snapshot or bookmark, each one asked
// for. An unset user property has the value "-" and SourceNone. ErrAmbiguous
// when a value has line breaks.
func (c *Client) Get(ctx context.Context, name string, props ...string) (map[string]Property, error) {
	if _, err := getArgs(name, props); err != nil {
		return nil, err
	}
	got, err := c.properties.askOne(ctx, strings.Join(props, ","), name, func(ctx context.Context, names []string) (map[string]map[string]Property, error) {
		if len(names) == 1 {
			return c.getOne(ctx, name, props)
		}
		args, err := getEachArgs(names, props)
		if err != nil {
			return nil, err
		}
		out, err := c.run(ctx, args)
		all, parseErr := parsePropertiesOf(out, told(names, err), props)
		return all, cmp.Or(err, parseErr)
	})
	return maps.Clone(got), err
}

func (c *Client) getOne(ctx context.Context, name string, props []string) (map[string]map[string]Property, error) {
	args, err := getArgs(name, props)
	if err != nil {
		return nil, err
	}
	out, err := c.run(ctx, args)
	if err != nil {
		return nil, err
	}
	got, err := parseProperties(out, props)
	return map[string]map[string]Property{name: got}, err
}

// GetEach is Get for several datasets, snapshots or bookmarks at once, by name.
func (c *Client) GetEach(ctx context.Context, names []string, props ...string) (map[string]map[string]Property, error) {
	all := make(map[string]map[string]Property, len(names))
	for chunk := range slices.Chunk(names, maxOperands) {
		args, err := getEachArgs(chunk, props)
		if err != nil {
			return nil, err
		}
		out, err := c.run(ctx, args)
		if err != nil {
			return nil, err
		}
		got, err := parsePropertiesOf(out, chunk, props)
		if err != nil {
			return nil, err
		}
		maps.Copy(all, got)
	}
	return all, nil
}

// UserProperties returns the properties of this project (UserNamespace) that
// are set on name itself: set here for SourceLocal, come with a stream for
// SourceReceived. Inherited ones are never among them.
func (c *Client) UserProperties(ctx context.Context, name string, source Source) (map[string]string, error) {
	if _, err := userNamesArgs(source, name); err != nil {
		return nil, err
	}
	// The first listing has no values, so no value can pass for a property.
	names, err := c.userNames.askOne(ctx, string(source), name, func(ctx context.Context, names []string) (map[string][]string, error) {
		args, err := userNamesArgs(source, names...)
		if err != nil {
			return nil, err
		}
		out, err := c.run(ctx, args)
		all, parseErr := parseUserNames(out, told(names, err))
		return all, cmp.Or(err, parseErr)
	})
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return map[string]string{}, nil
	}
	props, err := c.Get(ctx, name, names...)
	if err != nil {
		return nil, err
	}
	values := make(map[string]string, len(props))
	for k, p := range props {
		if p.Source == source {
			values[k] = p.Value
		}
	}
	return values, nil
}

// Received lists the properties of name whose values came with a stream, native
// ones included.
func (c *Client) Received(ctx context.Context, name string) ([]string, error) {
	args, err := userNamesArgs(SourceReceived, name)
	if err != nil {
		return nil, err
	}
	out, err := c.run(ctx, args)
	if err != nil {
		return nil, err
	}
	return lines(out), nil
}

// Tagged lists the datasets at and below root ("" for every pool) on which the
// user property prop is set locally, whatever its value.
func (c *Client) Tagged(ctx context.Context, root, prop string) ([]string, error) {
	args, err := taggedArgs(root, prop)
	if err != nil {
		return nil, err
	}
	out, err := c.run(ctx, args)
	if err != nil {
		return nil, err
	}
	return lines(out), nil
}

// Versions lists a dataset's own snapshots and bookmarks by createtxg; a
// snapshot comes before its bookmark.
func (c *Client) Versions(ctx context.Context, dataset string) ([]Version, error) {
	if err := ValidateDataset(dataset); err != nil {
		return nil, err
	}
	vs, err := c.versions.askOne(ctx, "", dataset, func(ctx context.Context, datasets []string) (map[string][]Version, error) {
		args, err := versionsArgs(datasets...)
		if err != nil {
			return nil, err
		}
		out, err := c.run(ctx, args)
		all, parseErr := parseVersions(out)
		return grouped(told(datasets, err), all, func(v Version) string { return v.Dataset }), cmp.Or(err, parseErr)
	})
	return slices.Clone(vs), err
}

// VersionsBelow lists the snapshots and bookmarks of root and of what lies below
// it, by createtxg.
func (c *Client) VersionsBelow(ctx context.Context, root string) ([]Version, error) {
	args, err := versionsBelowArgs(root)
	if err != nil {
		return nil, err
	}
	out, err := c.run(ctx, args)
	if err != nil {
		return nil, err
	}
	return parseVersions(out)
}

// Lookup returns one snapshot or bookmark by its full name.
func (c *Client) Lookup(ctx context.Context, name string) (Version, error) {
	vs, err := c.LookupAll(ctx, name)
	if err != nil {
		return Version{}, err
	}
	return vs[0], nil
}

// LookupAll returns snapshots or bookmarks of one pool by their full names, in
// that order, with one process. ErrNotFound when one is missing.
func (c *Client) LookupAll(ctx context.Context, names ...string) ([]Version, error) {
	if _, err := lookupArgs(names...); err != nil || len(names) == 0 {
		return nil, err
	}
	found, err := c.lookups.ask(ctx, "", names, func(ctx context.Context, names []string) (map[string]Version, error) {
		args, err := lookupArgs(names...)
		if err != nil {
			return nil, err
		}
		out, err := c.run(ctx, args)
		all, parseErr := parseVersions(out)
		return byName(all, Version.FullName), cmp.Or(err, parseErr)
	})
	if err != nil {
		return nil, err
	}
	vs := make([]Version, 0, len(names))
	for _, name := range names {
		v, ok := found[name]
		if !ok {
			return nil, fmt.Errorf("list %s: no answer", name)
		}
		vs = append(vs, v)
	}
	return vs, nil
}

// Unheld lists the snapshots of all pools that have the user property prop, and
// not the one called without, set on themselves and have no hold. Those that
// wait to be destroyed are left out.
func (c *Client) Unheld(ctx context.Context, prop, without string) ([]string, error) {
	args, err := snapshotTagsArgs(prop, without)
	if err != nil {
		return nil, err
	}
	out, err := c.run(ctx, args)
	if err != nil {
		return nil, err
	}
	tagged, err := parseTags(out, prop, without)
	if err != nil || len(tagged) == 0 {
		return nil, err
	}
	if out, err = c.run(ctx, unheldArgs()); err != nil {
		return nil, err
	}
	unheld, err := parseUnheld(out)
	return slices.DeleteFunc(unheld, func(name string) bool { return !tagged[name] }), err
}

// FindByGUID finds a snapshot by guid at and below the roots, in their order; a
// root that does not exist is passed over. Without roots it looks everywhere.
// ErrNotFound when there is none.
func (c *Client) FindByGUID(ctx context.Context, guid uint64, roots ...string) (Version, error) {
	return c.FindFirst(ctx, []uint64{guid}, roots...)
}

// FindFirst is FindByGUID for the first of several guids that is there. It looks
// at every root unless it finds the very first.
func (c *Client) FindFirst(ctx context.Context, guids []uint64, roots ...string) (Version, error) {
	if len(roots) == 0 {
		roots = []string{""}
	}
	found, left := "", guids
	for _, root := range roots {
		args, err := guidsArgs(root)
		if err != nil {
			return Version{}, err
		}
		out, err := c.run(ctx, args)
		if errors.Is(err, ErrNotFound) && root != "" {
			continue
		}
		if err != nil {
			return Version{}, err
		}
		m, err := parseGUIDs(out, left...)
		if err != nil {
			return Version{}, err
		}
		if m.name != "" {
			found, left = m.name, left[:m.place]
		}
		if len(left) == 0 {
			break
		}
	}
	if found == "" {
		return Version{}, fmt.Errorf("snapshot with guid %d: %w", guids[0], ErrNotFound)
	}
	return c.Lookup(ctx, found)
}

// Snapshot takes one atomic snapshot of a group: full names, all of one pool.
// Either all are made or none; ErrSeveralPools before anything is run,
// ErrExists when one of them exists. props are put on each.
func (c *Client) Snapshot(ctx context.Context, names []string, props map[string]string) error {
	args, err := snapshotArgs(names, props)
	return c.exec(ctx, args, err)
}

// TakeSnapshots is Snapshot, and returns what was taken, in the order of names, or
// nil where that is another command's to tell: only root may run the program that
// does both in one process (zfs-program(8)), and it does not word its errors.
func (c *Client) TakeSnapshots(ctx context.Context, names []string, props map[string]string) ([]Version, error) {
	if _, err := snapshotArgs(names, props); err != nil {
		return nil, err
	}
	taken, err := c.snapshotByProgram(ctx, names, props)
	if taken != nil || errors.Is(err, ErrPoolUnavailable) || err != nil && ctx.Err() != nil {
		return taken, err
	}
	return nil, c.Snapshot(ctx, names, props)
}

// snapshotByProgram returns nil when nothing was taken, or an earlier try of the
// same has taken it already.
func (c *Client) snapshotByProgram(ctx context.Context, names []string, props map[string]string) ([]Version, error) {
	if c.unprivileged.Load() {
		return nil, nil
	}
	args := snapshotProgramArgs(names, props)
	res, err := c.Runner.Run(ctx, Cmd{Args: args, Stdin: strings.NewReader(SnapshotProgram)})
	if err = result(args, res, err); err != nil {
		if errors.Is(err, ErrPermission) {
			c.unprivileged.Store(true)
		}
		return nil, err
	}
	return parseTaken(res.Stdout, names)
}

// Hold holds snapshots of one pool under a tag. A snapshot that already has the
// tag is success.
func (c *Client) Hold(ctx context.Context, tag string, snapshots ...string) error {
	return c.eachHold(ctx, &c.holding, "hold", tag, snapshots, ErrTagExists)
}

// Release removes a tag from snapshots of one pool. A snapshot without that tag
// is success, a missing snapshot is ErrNotFound.
func (c *Client) Release(ctx context.Context, tag string, snapshots ...string) error {
	return c.eachHold(ctx, &c.releasing, "release", tag, snapshots, ErrNoTag)
}

// eachHold shares processes with what else is held or released meanwhile:
// zfs(8) goes on to the next snapshot when there is nothing to do for one.
func (c *Client) eachHold(ctx context.Context, g *gather[struct{}], verb, tag string, snapshots []string, fine error) error {
	if _, err := holdArgs(verb, tag, snapshots); err != nil {
		return err
	}
	for chunk := range slices.Chunk(snapshots, maxGathered) {
		_, err := g.ask(ctx, tag, chunk, func(ctx context.Context, names []string) (map[string]struct{}, error) {
			args, err := holdArgs(verb, tag, names)
			if err = unlessAll(c.exec(ctx, args, err), fine); err != nil {
				return nil, err
			}
			done := make(map[string]struct{}, len(names))
			for _, n := range names {
				done[n] = struct{}{}
			}
			return done, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Holds lists the holds on snapshots, by the names of these.
func (c *Client) Holds(ctx context.Context, snapshots ...string) ([]Hold, error) {
	if _, err := holdsArgs(snapshots); err != nil {
		return nil, err
	}
	var all []Hold
	for chunk := range slices.Chunk(slices.Compact(slices.Sorted(slices.Values(snapshots))), maxOperands) {
		found, err := c.holds.ask(ctx, "", chunk, func(ctx context.Context, snapshots []string) (map[string][]Hold, error) {
			args, err := holdsArgs(snapshots)
			if err != nil {
				return nil, err
			}
			out, err := c.run(ctx, args)
			all, parseErr := parseHolds(out)
			return grouped(told(snapshots, err), all, func(h Hold) string { return h.Snapshot }), cmp.Or(err, parseErr)
		})
		if err != nil {
			return nil, err
		}
		for _, s := range chunk {
			all = append(all, found[s]...)
		}
	}
	return all, nil
}

// Bookmark makes a bookmark of a snapshot (full names, same dataset). A
// bookmark of that name with the same guid is success, with another ErrExists.
func (c *Client) Bookmark(ctx context.Context, snapshot, bookmark string) error {
	args, err := bookmarkArgs(snapshot, bookmark)
	err = c.exec(ctx, args, err)
	if !errors.Is(err, ErrExists) {
		return err
	}
	s, lookupErr := c.Lookup(ctx, snapshot)
	if lookupErr != nil {
		return lookupErr
	}
	b, lookupErr := c.Lookup(ctx, bookmark)
	if lookupErr != nil {
		return lookupErr
	}
	if s.GUID == b.GUID {
		return nil
	}
	return err
}

// Send writes a stream to w. ErrNoBase when From does not exist or is not an
// earlier version of the same dataset or its origin; ErrResumeStale when a
// token's snapshot is gone; an error of w is returned as it is.
func (c *Client) Send(ctx context.Context, o SendOptions, w io.Writer) error {
	args, err := sendArgs(o)
	if err != nil {
		return err
	}
	// Never the writer itself: handed an *os.File a child process would write
	// to it directly, and zfs send needs a pipe.
	out := &errWriter{w: w}
	res, err := c.Runner.Run(ctx, Cmd{Args: args, Stdout: out})
	if writeErr := out.get(); writeErr != nil {
		// The broken pipe that follows is only a consequence.
		return fmt.Errorf("%s: write stream: %w", verb(args), writeErr)
	}
	return baseMissing(result(args, res, err), o)
}

// baseMissing tells a missing base from a missing snapshot to send: both are
// ErrNotFound in the words of zfs(8).
func baseMissing(err error, o SendOptions) error {
	var failed *CommandError
	if o.From != "" && errors.As(err, &failed) && failed.Err == ErrNotFound &&
		strings.Contains(failed.Stderr, "'"+o.From+"'") {
		failed.Err = ErrNoBase
	}
	return err
}

// SendSize estimates a send. With a token it also tells what the token
// contains: ErrResumeStale comes with the decoded token when the snapshot it
// names is gone.
func (c *Client) SendSize(ctx context.Context, o SendOptions) (Estimate, error) {
	args, err := sendSizeArgs(o)
	if err != nil {
		return Estimate{}, err
	}
	res, err := c.Runner.Run(ctx, Cmd{Args: args})
	err = baseMissing(result(args, res, err), o)
	est, parseErr := parseEstimate(append(res.Stdout, res.Stderr...), o.Token != "")
	if err == nil {
		err = parseErr
	}
	return est, err
}

// Receive reads one stream from r. It never rolls back: a target that does not
// match the base of an incremental is ErrDiverged, one that exists when a full
// stream comes, or that has another snapshot of the name, is ErrExists, and
// either is left as it was. A snapshot that is
// there already with the same guid is success for an incremental. ErrPartial
// when an interrupted receive must be resumed or aborted first, ErrIncomplete
// when r ended early; with Resumable the dataset then has a resume token.
//
// Taking a snapshot of a dataset with an interrupted receive makes its token
// stale.
//
// An error of r is returned along with what zfs(8) said. It does not mean that
// nothing was received: look for the snapshot by guid.
func (c *Client) Receive(ctx context.Context, o ReceiveOptions, r io.Reader) error {
	args, err := receiveArgs(o)
	if err != nil {
		return err
	}
	in := &errReader{r: r}
	res, err := c.Runner.Run(ctx, Cmd{Args: args, Stdin: in})
	err = result(args, res, err)
	if readErr := in.get(); readErr != nil && !errors.Is(err, readErr) {
		readErr = fmt.Errorf("read stream: %w", readErr)
		if err == nil {
			return fmt.Errorf("%s: %w", verb(args), readErr)
		}
		return fmt.Errorf("%w: %w", err, readErr)
	}
	return err
}

// AbortReceive drops the state of an interrupted receive. None is success.
func (c *Client) AbortReceive(ctx context.Context, dataset string) error {
	args, err := abortArgs(dataset)
	return unless(c.exec(ctx, args, err), errNoPartial)
}

// Clone makes a writable dataset of a snapshot of the same pool.
func (c *Client) Clone(ctx context.Context, snapshot, dataset string, props map[string]string) error {
	args, err := cloneArgs(snapshot, dataset, props)
	return c.exec(ctx, args, err)
}

// Promote makes a clone independent of its origin, whose snapshots up to that
// point move to it.
func (c *Client) Promote(ctx context.Context, dataset string) error {
	args, err := datasetArgs(dataset, "promote")
	return c.exec(ctx, args, err)
}

// Create makes a filesystem or volume.
func (c *Client) Create(ctx context.Context, dataset string, o CreateOptions) error {
	args, err := createArgs(dataset, o)
	return c.exec(ctx, args, err)
}

// Destroy destroys a filesystem or volume. Without Recursive one that has
// children or snapshots is ErrHasChildren. Clones are never destroyed:
// ErrHasClones.
func (c *Client) Destroy(ctx context.Context, dataset string, o DestroyOptions) error {
	args, err := destroyArgs(dataset, o)
	return c.exec(ctx, args, err)
}

// DestroySnapshots destroys snapshots of one dataset, named by what follows
// '@'. Deferred marks those that are held or have clones (ErrHeld, ErrHasClones
// otherwise) to go when the last of them is gone.
func (c *Client) DestroySnapshots(ctx context.Context, dataset string, names []string, deferred bool) error {
	args, err := destroySnapshotsArgs(dataset, names, deferred)
	return c.exec(ctx, args, err)
}

// DestroyBookmark destroys a bookmark by its full name.
func (c *Client) DestroyBookmark(ctx context.Context, bookmark string) error {
	if err := ValidateBookmark(bookmark); err != nil {
		return err
	}
	return c.exec(ctx, []string{"zfs", "destroy", bookmark}, nil)
}

// Rename renames a dataset or a snapshot within its pool.
func (c *Client) Rename(ctx context.Context, from, to string) error {
	args, err := renameArgs(from, to)
	return c.exec(ctx, args, err)
}

// Set sets properties of a dataset or snapshot, all in one change.
func (c *Client) Set(ctx context.Context, name string, props map[string]string) error {
	args, err := setArgs(name, props)
	return c.exec(ctx, args, err)
}

// Inherit removes a property's local value. One without is success.
func (c *Client) Inherit(ctx context.Context, name, prop string) error {
	args, err := inheritArgs(name, prop)
	return c.exec(ctx, args, err)
}

// Mount mounts a filesystem at its mountpoint. One that is mounted is success.
func (c *Client) Mount(ctx context.Context, dataset string) error {
	args, err := datasetArgs(dataset, "mount")
	return unless(c.exec(ctx, args, err), errMounted)
}

// Unmount unmounts a filesystem. One that is not mounted is success; ErrBusy
// when it is in use.
func (c *Client) Unmount(ctx context.Context, dataset string) error {
	args, err := datasetArgs(dataset, "unmount")
	return unless(c.exec(ctx, args, err), errNotMounted)
}

// unlessAll is unless for a command on several names, which says something of
// each that is not as it should be: what is fine is left out of the error.
func unlessAll(err, fine error) error {
	var failed *CommandError
	if !errors.As(err, &failed) {
		return err
	}
	var rest strings.Builder
	for line := range strings.Lines(failed.Stderr) {
		if !errors.Is(Classify(line), fine) {
			rest.WriteString(line)
		}
	}
	if rest.Len() == 0 && failed.Stderr != "" {
		return nil
	}
	left := *failed
	left.Stderr, left.Err = rest.String(), Classify(rest.String())
	return &left
}

// unless returns err, or nil when it is the one that is fine.
func unless(err, fine error) error {
	if errors.Is(err, fine) {
		return nil
	}
	return err
}
