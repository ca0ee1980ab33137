package zfs

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Causes that callers tell apart with errors.Is.
var (
	// ErrInvalidName: a name, tag, property or value was refused before
	// anything ran.
	ErrInvalidName = errors.New("invalid name")
	// ErrNotFound: the dataset, snapshot, bookmark or pool does not exist, or
	// the parent of what was to be made.
	ErrNotFound = errors.New("not found")
	// ErrExists: there is something of that name already.
	ErrExists = errors.New("already exists")
	// ErrBusy: the dataset is mounted and in use, or is receiving.
	ErrBusy = errors.New("busy")
	// ErrHasClones: clones depend on the snapshot.
	ErrHasClones = errors.New("has dependent clones")
	// ErrHasChildren: the dataset has children or snapshots.
	ErrHasChildren = errors.New("has children")
	// ErrHeld: the snapshot is held by a tag, or being sent.
	ErrHeld = errors.New("held")
	// ErrNoSpace: the pool or a quota is full.
	ErrNoSpace = errors.New("out of space")
	// ErrDiverged: the receiving dataset's newest snapshot is not the stream's
	// base, or it was modified since.
	ErrDiverged = errors.New("destination has diverged")
	// ErrNoBase: the base of an incremental does not exist here.
	ErrNoBase = errors.New("incremental base is missing")
	// ErrResumeStale: a resume token no longer matches what is there, on the
	// sender or the receiver. Abort the receive and send anew.
	ErrResumeStale = errors.New("resume token is stale")
	// ErrPartial: the dataset holds the state of an interrupted receive, which
	// must be resumed or aborted first.
	ErrPartial = errors.New("holds an interrupted receive")
	// ErrStreamMode: the stream was sent with other flags than those the
	// receiving dataset has: raw onto plain, plain onto raw, or without -L.
	ErrStreamMode = errors.New("stream mode does not fit")
	// ErrIncomplete: a stream ended early or was damaged. With
	// ReceiveOptions.Resumable what arrived is kept.
	ErrIncomplete = errors.New("stream is incomplete")
	// ErrPermission: the caller may not do that.
	ErrPermission = errors.New("permission denied")
	// ErrPoolUnavailable: the pool is suspended or read-only, a command on it
	// hangs, or the kernel module is not loaded.
	ErrPoolUnavailable = errors.New("pool is unavailable")
	// ErrPoolActive: another host has the pool imported.
	ErrPoolActive = errors.New("pool is in use by another host")
	// ErrPoolElsewhere: another host had the pool imported, and did not export it.
	ErrPoolElsewhere = errors.New("pool was in use by another host")
	// ErrNoHostID: the pool's multihost is on, and this host has no hostid.
	ErrNoHostID = errors.New("host has no hostid")
	// ErrTagExists: the snapshot has a hold of that tag. Client.Hold takes it
	// for success.
	ErrTagExists = errors.New("hold tag already exists")
	// ErrNoTag: the snapshot has no hold of that tag. Client.Release takes it
	// for success.
	ErrNoTag = errors.New("hold tag does not exist")
	// ErrKeyUnavailable: the dataset is encrypted and its key is not loaded.
	ErrKeyUnavailable = errors.New("encryption key is not loaded")
	// ErrSeveralPools: a group of snapshots over more than one pool cannot be
	// atomic.
	ErrSeveralPools = errors.New("group spans several pools")
	// ErrAmbiguous: a property value has line breaks, so the output cannot be
	// told apart.
	ErrAmbiguous = errors.New("ambiguous output")
)

// CommandError is a command that failed.
type CommandError struct {
	Args     []string
	Stderr   string
	ExitCode int
	Err      error // one of the causes above, or nil when the message is not known
}

// Error names the command's verb and gives its own message.
func (e *CommandError) Error() string {
	// Some failures are followed by how the command is used.
	said, _, _ := strings.Cut(e.Stderr, "\nusage:\n")
	msg := strings.Join(strings.Fields(said), " ")
	if msg == "" {
		msg = fmt.Sprintf("exit status %d", e.ExitCode)
	}
	return verb(e.Args) + ": " + msg
}

// Unwrap returns the cause.
func (e *CommandError) Unwrap() error { return e.Err }

// Causes that the client itself takes for success.
var (
	errNoPartial  = errors.New("no interrupted receive")
	errMounted    = errors.New("already mounted")
	errNotMounted = errors.New("not mounted")
)

// messages maps the wording of zfs(8), a line at a time, to a cause. The first
// match of the first line that has one wins, so a narrow pattern stands before
// a wide one.
var messages = []struct {
	re  *regexp.Regexp
	err error
}{
	{regexp.MustCompile(`: pool I/O is currently suspended$`), ErrPoolUnavailable},
	{regexp.MustCompile(`: pool is read-only$`), ErrPoolUnavailable},
	{regexp.MustCompile(`^/dev/zfs and /proc/self/mounts are required\.$`), ErrPoolUnavailable},
	{regexp.MustCompile(`: permission denied$`), ErrPermission},
	{regexp.MustCompile(`^Permission denied the ZFS utilities must be run as root\.$`), ErrPermission},

	{regexp.MustCompile(`^cannot hold snapshot '[^']+': tag already exists on this dataset$`), ErrTagExists},
	{regexp.MustCompile(`^cannot release hold from snapshot '[^']+': no such tag on this dataset$`), ErrNoTag},
	// The snapshot's name is unquoted in this message only; a dataset that is
	// busy has quotes.
	{regexp.MustCompile(`^cannot destroy snapshot [^' ][^']*@[^']*: dataset is busy$`), ErrHeld},
	{regexp.MustCompile(`^cannot destroy snapshot [^' ][^']*@[^']*: it's being held\. Run 'zfs holds -r [^']+' to see holders\.$`), ErrHeld},
	{regexp.MustCompile(`^cannot destroy '[^']+': (snapshot|filesystem|volume) has dependent clones$`), ErrHasClones},
	{regexp.MustCompile(`^cannot destroy '[^']+': (filesystem|volume) has children$`), ErrHasChildren},

	{regexp.MustCompile(`^cannot receive (incremental|resume) stream: most recent snapshot of .+ does not( match incremental source)?$`), ErrDiverged},
	{regexp.MustCompile(`^cannot receive (incremental|resume) stream: destination .+ has been modified( since most recent snapshot)?$`), ErrDiverged},
	{regexp.MustCompile(`^cannot receive .+ stream: destination .+ contains partially-complete state from "zfs receive -s"\.$`), ErrPartial},
	{regexp.MustCompile(`^'[^']+' does not have any resumable receive state to abort$`), errNoPartial},
	{regexp.MustCompile(`^cannot resume send: '[^']+' used in the initial send no longer exists$`), ErrResumeStale},
	{regexp.MustCompile(`^cannot resume send: '[^']+' is no longer the same snapshot used in the initial send$`), ErrResumeStale},
	{regexp.MustCompile(`^cannot resume send: incremental source 0x[0-9a-f]+ no longer exists$`), ErrResumeStale},
	{regexp.MustCompile(`^cannot resume send: resume token is corrupt \(.+\)$`), ErrResumeStale},
	// The base's guid was found on another dataset of the pool, a replica.
	{regexp.MustCompile(`^warning: cannot send '[^']+': Invalid cross-device link$`), ErrResumeStale},
	// What the kernel says when the stream does not continue where the state
	// of the target stopped.
	{regexp.MustCompile(`^cannot receive resume stream: kernel modules must be upgraded to receive this stream\.$`), ErrResumeStale},
	{regexp.MustCompile(`^warning: cannot send '[^']+': incremental source \([^)]+\) does not exist$`), ErrNoBase},
	{regexp.MustCompile(`^warning: cannot send '[^']+': not an earlier snapshot from the same fs$`), ErrNoBase},
	// The estimate's wording for a base bookmark that is missing.
	{regexp.MustCompile(`^warning: cannot send '[^']+': No such process$`), ErrNoBase},

	{regexp.MustCompile(`^cannot receive .+: cannot perform raw receive on top of existing unencrypted dataset$`), ErrStreamMode},
	{regexp.MustCompile(`^cannot receive .+: IV set guid (mismatch|missing)\. See .+$`), ErrStreamMode},
	{regexp.MustCompile(`^cannot receive .+: incremental send stream requires -L \(--large-block\), to match previous receive\.$`), ErrStreamMode},

	{regexp.MustCompile(`: out of space$`), ErrNoSpace},
	{regexp.MustCompile(`: destination .+ space quota exceeded\.$`), ErrNoSpace},
	{regexp.MustCompile(`: size is greater than available space$`), ErrNoSpace},
	{regexp.MustCompile(`: dataset key must be loaded$`), ErrKeyUnavailable},
	{regexp.MustCompile(`: inherited key must be loaded$`), ErrKeyUnavailable},
	{regexp.MustCompile(`: encryption root's key is not loaded or provided$`), ErrKeyUnavailable},
	{regexp.MustCompile(`: encryption key not loaded$`), ErrKeyUnavailable},

	{regexp.MustCompile(`^cannot receive .+: checksum mismatch or incomplete stream\.$`), ErrIncomplete},
	{regexp.MustCompile(`^cannot receive .+: incomplete stream$`), ErrIncomplete},
	{regexp.MustCompile(`^cannot receive: failed to read from stream$`), ErrIncomplete},
	{regexp.MustCompile(`^cannot receive: invalid stream \(.+\)$`), ErrIncomplete},
	{regexp.MustCompile(`^cannot receive .+: invalid backup stream$`), ErrIncomplete},

	{regexp.MustCompile(`^cannot import '[^']+': pool is imported on `), ErrPoolActive},
	{regexp.MustCompile(`^cannot import '[^']+': pool was previously in use from another system\.$`), ErrPoolElsewhere},
	{regexp.MustCompile(`^[Cc]annot import '[^']+': pool has the multihost property on and the$`), ErrNoHostID},
	{regexp.MustCompile(`^cannot import '[^']+': a pool with that name already exists$`), ErrExists},
	{regexp.MustCompile(`^cannot import '[^']+': no such pool available$`), ErrNotFound},
	{regexp.MustCompile(`^zdb: can't open '[^']+': No such file or directory$`), ErrNotFound},
	{regexp.MustCompile(`^cannot export '[^']+': pool is busy$`), ErrBusy},

	{regexp.MustCompile(`^cannot mount '[^']+': filesystem already mounted$`), errMounted},
	{regexp.MustCompile(`^cannot unmount '[^']+': not currently mounted$`), errNotMounted},
	{regexp.MustCompile(`^cannot (destroy|unmount|rename|receive) .+: (pool or )?dataset is busy$`), ErrBusy},

	{regexp.MustCompile(`^cannot (create|create snapshot|rename|create bookmark) '[^']+': (dataset already|bookmark) exists$`), ErrExists},
	{regexp.MustCompile(`^cannot receive new filesystem stream: destination '[^']+' exists$`), ErrExists},
	{regexp.MustCompile(`^cannot restore to .+@.+: destination already exists$`), ErrExists},
	{regexp.MustCompile(`^cannot promote '[^']+': conflicting snapshot '[^']+' from parent '[^']+'$`), ErrExists},

	{regexp.MustCompile(`^cannot open '[^']+': (dataset does not exist|no such pool|no such pool or dataset)$`), ErrNotFound},
	{regexp.MustCompile(`^cannot (hold|release hold from) snapshot '[^']+': dataset does not exist$`), ErrNotFound},
	{regexp.MustCompile(`^cannot create '[^']+': (parent does not exist|no such pool '[^']+')$`), ErrNotFound},
	{regexp.MustCompile(`^cannot receive (incremental|resume) stream: destination '[^']+' does not exist$`), ErrNotFound},
	{regexp.MustCompile(`^cannot receive: specified origin fs \([^)]+\) does not exist$`), ErrNotFound},
	{regexp.MustCompile(`^could not find any snapshots to destroy; check snapshot names\.$`), ErrNotFound},
	{regexp.MustCompile(`^bookmark '[^']+' does not exist\.$`), ErrNotFound},
}

// Classify returns the cause that stderr tells, nil when it is not known.
func Classify(stderr string) error {
	for line := range strings.Lines(stderr) {
		line = strings.TrimRight(line, "\n")
		for _, m := range messages {
			if m.re.MatchString(line) {
				return m.err
			}
		}
	}
	return nil
}
