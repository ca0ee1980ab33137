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
	// ErrNotFound: the dataset, snapshot, bookmark or pool does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists: there is something of that name already.
	ErrExists = errors.New("already exists")
	// ErrBusy: the dataset is mounted and in use, or is receiving.
	ErrBusy = errors.New("busy")
	// ErrHasClones: clones depend on the snapshot.
	ErrHasClones = errors.New("has dependent clones")
	// ErrHasChildren: the dataset has children or snapshots.
	ErrHasChildren = errors.New("has children")
	// ErrHeld: the snapshot is held.
	ErrHeld = errors.New("held")
	// ErrNoSpace: the pool or a quota is full.
	ErrNoSpace = errors.New("out of space")
	// ErrDiverged: the receiving dataset's newest snapshot is not the stream's
	// base, or it was modified since.
	ErrDiverged = errors.New("destination has diverged")
	// ErrNoBase: the base of an incremental does not exist here.
	ErrNoBase = errors.New("incremental base is missing")
	// ErrResumeStale: a resume token no longer matches what is there.
	ErrResumeStale = errors.New("resume token is stale")
	// ErrPartial: the dataset holds the state of an interrupted receive, which
	// must be resumed or aborted first.
	ErrPartial = errors.New("holds an interrupted receive")
	// ErrIncomplete: a stream ended early or was damaged. With
	// ReceiveOptions.Resumable what arrived is kept.
	ErrIncomplete = errors.New("stream is incomplete")
	// ErrPermission: the caller may not do that.
	ErrPermission = errors.New("permission denied")
	// ErrPoolUnavailable: the pool is suspended or a command on it hangs.
	ErrPoolUnavailable = errors.New("pool is unavailable")
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
	verb := strings.Join(e.Args[:min(2, len(e.Args))], " ")
	msg := strings.Join(strings.Fields(strings.ReplaceAll(e.Stderr, "\n", "; ")), " ")
	msg = strings.TrimSuffix(msg, ";")
	if msg == "" {
		msg = fmt.Sprintf("exit status %d", e.ExitCode)
	}
	return verb + ": " + msg
}

// Unwrap returns the cause.
func (e *CommandError) Unwrap() error { return e.Err }

// errNoPartial: there was no interrupted receive to abort.
var errNoPartial = errors.New("no interrupted receive")

// messages maps the wording of zfs(8), a line at a time, to a cause. The first
// match of the first line that has one wins.
var messages = []struct {
	re  *regexp.Regexp
	err error
}{}

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
