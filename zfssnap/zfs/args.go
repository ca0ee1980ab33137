package zfs

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// verb names a command in errors.
func verb(args []string) string { return strings.Join(args[:min(2, len(args))], " ") }

func poolsArgs() []string {
	return []string{"zpool", "list", "-Hp", "-o", "name,health,size,free"}
}

func poolFeaturesArgs(pool string) ([]string, error) {
	if strings.Contains(pool, "/") {
		return nil, fmt.Errorf("pool %q: %w: has a slash", pool, ErrInvalidName)
	}
	return []string{"zpool", "get", "-Hp", "-o", "property,value", "all", pool}, ValidateDataset(pool)
}

func creationArgs(name string) []string {
	return []string{"zfs", "get", "-Hp", "-o", "value", "creation", name}
}

// datasetColumns ends in the mountpoint, the one column that is free text.
const datasetColumns = "name,type,guid,used,referenced,origin,mounted,readonly," +
	"receive_resume_token,encryption,keystatus,volsize,mountpoint"

// datasetsArgs lists roots; "" alone stands for every pool.
func datasetsArgs(recursive bool, roots ...string) ([]string, error) {
	args := []string{"zfs", "list", "-Hp", "-t", "filesystem,volume", "-o", datasetColumns}
	if len(roots) == 1 && roots[0] == "" {
		if !recursive {
			args = append(args, "-d", "0")
		}
		return args, nil
	}
	if recursive {
		args = append(args, "-r")
	}
	return append(args, roots...), validateAll(ValidateDataset, roots)
}

func validateAll(validate func(string) error, names []string) error {
	for _, n := range names {
		if err := validate(n); err != nil {
			return err
		}
	}
	return nil
}

func existsArgs(name string) []string {
	return []string{"zfs", "list", "-H", "-t", "filesystem,volume,snapshot,bookmark", "-d", "0", "-o", "name", name}
}

func getArgs(name string, props []string) ([]string, error) {
	return getArgsWith("property,source,value", []string{name}, props)
}

// getEachArgs puts the name first: it is the column that cannot hold a TAB.
func getEachArgs(names, props []string) ([]string, error) {
	return getArgsWith("name,property,source,value", names, props)
}

func getArgsWith(columns string, names, props []string) ([]string, error) {
	if len(props) == 0 {
		return nil, fmt.Errorf("get properties of %s: %w: none named", strings.Join(names, ", "), ErrInvalidName)
	}
	for i, p := range props {
		if err := checkProperty(p); err != nil {
			return nil, fmt.Errorf("property %q: %w", p, err)
		}
		if slices.Contains(props[:i], p) {
			return nil, fmt.Errorf("property %q: %w: named twice", p, ErrInvalidName)
		}
	}
	return append([]string{"zfs", "get", "-Hp", "-o", columns, strings.Join(props, ",")}, names...), validateAll(ValidateName, names)
}

func userNamesArgs(source Source, names ...string) ([]string, error) {
	if source != SourceLocal && source != SourceReceived {
		return nil, fmt.Errorf("user properties of %s: %w: source %q", strings.Join(names, ", "), ErrInvalidName, source)
	}
	columns := "property"
	if len(names) > 1 {
		columns = "name,property"
	}
	return append([]string{"zfs", "get", "-Hp", "-s", string(source), "-o", columns, "all"}, names...), validateAll(ValidateName, names)
}

func taggedArgs(root, prop string) ([]string, error) {
	if err := ValidateUserProperty(prop); err != nil {
		return nil, err
	}
	args := []string{"zfs", "get", "-Hp", "-r", "-t", "filesystem,volume", "-s", "local", "-o", "name", prop}
	if root == "" {
		return args, nil
	}
	return append(args, root), ValidateDataset(root)
}

// VersionProperties are the properties of a snapshot that VersionOf reads.
var VersionProperties = []string{"createtxg", "guid", "creation", "used", "referenced", "written", "userrefs"}

var versionColumns = strings.Join(VersionProperties, ",") + ",name"

func versionsArgs(datasets ...string) ([]string, error) {
	return append([]string{"zfs", "list", "-Hp", "-t", "snapshot,bookmark", "-d", "1", "-o", versionColumns}, datasets...),
		validateAll(ValidateDataset, datasets)
}

func versionsBelowArgs(root string) ([]string, error) {
	return []string{"zfs", "list", "-Hp", "-t", "snapshot,bookmark", "-o", versionColumns, "-r", root}, ValidateDataset(root)
}

func lookupArgs(names ...string) ([]string, error) {
	for _, n := range names {
		if _, sep, _ := SplitVersion(n); sep == "" {
			return nil, fmt.Errorf("version %q: %w: neither a snapshot nor a bookmark", n, ErrInvalidName)
		}
	}
	return append([]string{"zfs", "list", "-Hp", "-t", "snapshot,bookmark", "-d", "0", "-o", versionColumns}, names...),
		validateAll(ValidateName, names)
}

// snapshotTagsArgs lists which of two user properties every snapshot has of its
// own.
func snapshotTagsArgs(prop, without string) ([]string, error) {
	for _, p := range []string{prop, without} {
		if err := ValidateUserProperty(p); err != nil {
			return nil, err
		}
	}
	return []string{"zfs", "get", "-Hp", "-t", "snapshot", "-s", "local", "-o", "name,property", prop + "," + without}, nil
}

func unheldArgs() []string {
	return []string{"zfs", "list", "-Hp", "-t", "snapshot", "-o", "userrefs,defer_destroy,name"}
}

func guidsArgs(root string) ([]string, error) {
	args := []string{"zfs", "list", "-Hp", "-t", "snapshot", "-o", "guid,name"}
	if root == "" {
		return args, nil
	}
	return append(args, "-r", root), ValidateDataset(root)
}

func snapshotArgs(names []string, props map[string]string) ([]string, error) {
	if len(names) == 0 {
		return nil, fmt.Errorf("snapshot: %w: no names", ErrInvalidName)
	}
	args, err := propertyArgs([]string{"zfs", "snapshot"}, props)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if err := ValidateSnapshot(n); err != nil {
			return nil, err
		}
		if Pool(n) != Pool(names[0]) {
			return nil, fmt.Errorf("snapshot %s and %s: %w", names[0], n, ErrSeveralPools)
		}
	}
	return append(args, names...), nil
}

// SnapshotProgram takes snapshots of a group in one transaction, or none of them,
// and returns what they are: an errno, and the properties of each by name. Its
// arguments are how many properties the snapshots get, the name and value of each,
// and the snapshots. Programs accept names that nothing else does.
//
//go:embed snapshot.lua
var SnapshotProgram string

// snapshotProgramArgs are for what snapshotArgs accepts.
func snapshotProgramArgs(names []string, props map[string]string) []string {
	args := []string{"zfs", "program", "-j", Pool(names[0]), "-", strconv.Itoa(len(props))}
	for _, name := range slices.Sorted(maps.Keys(props)) {
		args = append(args, name, props[name])
	}
	return append(args, names...)
}

func holdArgs(verb, tag string, snapshots []string) ([]string, error) {
	if err := ValidateHoldTag(tag); err != nil {
		return nil, err
	}
	return append([]string{"zfs", verb, tag}, snapshots...), validateAll(ValidateSnapshot, snapshots)
}

func holdsArgs(snapshots []string) ([]string, error) {
	return append([]string{"zfs", "holds", "-H"}, snapshots...), validateAll(ValidateSnapshot, snapshots)
}

func bookmarkArgs(snapshot, bookmark string) ([]string, error) {
	if err := ValidateSnapshot(snapshot); err != nil {
		return nil, err
	}
	return []string{"zfs", "bookmark", snapshot, bookmark}, ValidateBookmark(bookmark)
}

func sendArgs(o SendOptions) ([]string, error) { return sendArgsWith([]string{"zfs", "send"}, o) }

func sendSizeArgs(o SendOptions) ([]string, error) {
	return sendArgsWith([]string{"zfs", "send", "-n", "-v", "-P"}, o)
}

func sendArgsWith(args []string, o SendOptions) ([]string, error) {
	for _, f := range []struct {
		on   bool
		flag string
	}{{o.Raw, "-w"}, {o.LargeBlock, "-L"}, {o.Compressed, "-c"}, {o.Embedded, "-e"}} {
		// A token carries the flags of its stream, and zfs send -t refuses -w.
		if f.on && (o.Token == "" || f.flag != "-w") {
			args = append(args, f.flag)
		}
	}
	if o.Token != "" {
		if o.From != "" || o.To != "" {
			return nil, fmt.Errorf("send: %w: a token stands alone", ErrInvalidName)
		}
		return append(args, "-t", o.Token), checkToken(o.Token)
	}
	if err := ValidateSnapshot(o.To); err != nil {
		return nil, err
	}
	if o.From != "" {
		if _, sep, _ := SplitVersion(o.From); sep == "" {
			return nil, fmt.Errorf("send from %q: %w: neither a snapshot nor a bookmark", o.From, ErrInvalidName)
		}
		if err := ValidateName(o.From); err != nil {
			return nil, err
		}
		args = append(args, "-i", o.From)
	}
	return append(args, o.To), nil
}

// checkToken checks the outer form of a resume token, "1-<hex>-<hex>-<hex>".
func checkToken(token string) error {
	if token[0] == '-' || strings.Trim(token, "0123456789abcdef-") != "" {
		return fmt.Errorf("resume token: %w", ErrInvalidName)
	}
	return nil
}

func receiveArgs(o ReceiveOptions) ([]string, error) {
	args := []string{"zfs", "receive"}
	if o.Resumable {
		args = append(args, "-s")
	}
	if o.Unmounted {
		args = append(args, "-u")
	}
	if o.Origin != "" {
		if err := ValidateSnapshot(o.Origin); err != nil {
			return nil, err
		}
		args = append(args, "-o", "origin="+o.Origin)
	}
	args, err := propertyArgs(args, o.Set)
	if err != nil {
		return nil, err
	}
	for _, p := range slices.Sorted(slices.Values(o.Exclude)) {
		if err := checkProperty(p); err != nil {
			return nil, fmt.Errorf("property %q: %w", p, err)
		}
		args = append(args, "-x", p)
	}
	if strings.Contains(o.Target, "#") {
		return nil, fmt.Errorf("receive into %q: %w", o.Target, ErrInvalidName)
	}
	return append(args, o.Target), ValidateName(o.Target)
}

func abortArgs(dataset string) ([]string, error) {
	return []string{"zfs", "receive", "-A", dataset}, ValidateDataset(dataset)
}

func cloneArgs(snapshot, dataset string, props map[string]string) ([]string, error) {
	if err := ValidateSnapshot(snapshot); err != nil {
		return nil, err
	}
	args, err := propertyArgs([]string{"zfs", "clone"}, props)
	if err != nil {
		return nil, err
	}
	return append(args, snapshot, dataset), ValidateDataset(dataset)
}

func datasetArgs(dataset, verb string) ([]string, error) {
	return []string{"zfs", verb, dataset}, ValidateDataset(dataset)
}

func createArgs(dataset string, o CreateOptions) ([]string, error) {
	args := []string{"zfs", "create"}
	if o.Parents {
		args = append(args, "-p")
	}
	if o.Unmounted {
		args = append(args, "-u")
	}
	if o.VolumeSize > 0 {
		if o.Sparse {
			args = append(args, "-s")
		}
		args = append(args, "-V", strconv.FormatUint(o.VolumeSize, 10))
	}
	args, err := propertyArgs(args, o.Properties)
	if err != nil {
		return nil, err
	}
	return append(args, dataset), ValidateDataset(dataset)
}

func destroyArgs(dataset string, o DestroyOptions) ([]string, error) {
	args := []string{"zfs", "destroy"}
	if o.Recursive {
		args = append(args, "-r")
	}
	return append(args, dataset), ValidateDataset(dataset)
}

func destroySnapshotsArgs(dataset string, names []string, deferred bool) ([]string, error) {
	if len(names) == 0 {
		return nil, fmt.Errorf("destroy snapshots of %s: %w: none named", dataset, ErrInvalidName)
	}
	for _, n := range names {
		if err := ValidateSnapshot(dataset + "@" + n); err != nil {
			return nil, err
		}
	}
	args := []string{"zfs", "destroy"}
	if deferred {
		args = append(args, "-d")
	}
	return append(args, dataset+"@"+strings.Join(names, ",")), nil
}

func renameArgs(from, to string) ([]string, error) {
	for _, n := range []string{from, to} {
		if err := ValidateName(n); err != nil {
			return nil, err
		}
	}
	return []string{"zfs", "rename", from, to}, nil
}

func setArgs(name string, props map[string]string) ([]string, error) {
	if len(props) == 0 {
		return nil, fmt.Errorf("set properties of %s: %w: none given", name, ErrInvalidName)
	}
	pairs, err := propertyPairs(props)
	if err != nil {
		return nil, err
	}
	return append(append([]string{"zfs", "set"}, pairs...), name), ValidateName(name)
}

func inheritArgs(name, prop string) ([]string, error) {
	if err := checkProperty(prop); err != nil {
		return nil, fmt.Errorf("property %q: %w", prop, err)
	}
	return []string{"zfs", "inherit", prop, name}, ValidateName(name)
}

// propertyArgs appends "-o name=value" for each property, by name.
func propertyArgs(args []string, props map[string]string) ([]string, error) {
	pairs, err := propertyPairs(props)
	for _, p := range pairs {
		args = append(args, "-o", p)
	}
	return args, err
}

func propertyPairs(props map[string]string) ([]string, error) {
	pairs := make([]string, 0, len(props))
	for name, value := range props {
		if err := checkProperty(name); err != nil {
			return nil, fmt.Errorf("property %q: %w", name, err)
		}
		if err := ValidateValue(value); err != nil {
			return nil, fmt.Errorf("property %q: %w", name, err)
		}
		pairs = append(pairs, name+"="+value)
	}
	slices.Sort(pairs)
	return pairs, nil
}

// firstError is kept under a lock: a Runner may leave a reader or writer behind
// that still blocks.
type firstError struct {
	mu  sync.Mutex
	err error
}

func (f *firstError) keep(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *firstError) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// errWriter keeps the first error of w.
type errWriter struct {
	w io.Writer
	firstError
}

func (e *errWriter) Write(p []byte) (int, error) {
	n, err := e.w.Write(p)
	e.keep(err)
	return n, err
}

// errReader keeps the error of r that is not its end.
type errReader struct {
	r io.Reader
	firstError
}

func (e *errReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if !errors.Is(err, io.EOF) {
		e.keep(err)
	}
	return n, err
}
