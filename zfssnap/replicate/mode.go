package replicate

import (
	"fmt"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// ErrStreamMode: the replica was received from streams of another mode.
var ErrStreamMode = zfs.ErrStreamMode

// Mode is how the streams of a replica are sent, as the flags of zfs send. It
// is chosen with the first stream and never changes: raw and other streams
// cannot follow one another (zfs-receive(8), "raw"), and one without -L or -c
// after one with it has lost data in the past (zfs-send(8), -L).
type Mode string

// The modes.
const (
	// Plain sends blocks as they lie on disk, and small ones embedded in others.
	Plain Mode = "Lce"
	// Unembedded is Plain for a replica below an encrypted dataset, which
	// cannot take embedded blocks (zfs-send(8), -e).
	Unembedded Mode = "Lc"
	// Raw sends an encrypted dataset without decrypting it.
	Raw Mode = "w"
)

// ParseMode reads a mode that was recorded or sent.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case Plain, Unembedded, Raw:
		return m, nil
	default:
		return "", fmt.Errorf("stream mode %q: %w: it is none of %s, %s and %s", s, zfs.ErrInvalidName, Plain, Unembedded, Raw)
	}
}

// ModeFor returns the mode for a new copy of a dataset. encrypted is whether the
// dataset that the copy will lie below is.
func ModeFor(source zfs.Dataset, encrypted bool) Mode {
	switch {
	case source.Encrypted():
		return Raw
	case encrypted:
		return Unembedded
	default:
		return Plain
	}
}

// Send returns the options of a send in this mode, from a base or "" for a full
// stream.
func (m Mode) Send(from, to string) zfs.SendOptions {
	return zfs.SendOptions{
		From: from, To: to,
		Raw: m.has("w"), LargeBlock: m.has("L"), Compressed: m.has("c"), Embedded: m.has("e"),
	}
}

func (m Mode) has(flag string) bool { return strings.Contains(string(m), flag) }

// continues reports whether an interrupted stream was sent in this mode. A
// token tells of large and embedded blocks only when there are some.
func (m Mode) continues(r *zfs.Resume) bool {
	if m == Raw || r.Raw {
		return m == Raw && r.Raw
	}
	return r.Compressed && (m.has("L") || !r.LargeBlock) && (m.has("e") || !r.Embedded)
}

// ModeError says that a stream does not fit the replica it is for.
type ModeError struct {
	Source, Target string
	Was            string // the replica's mode
	Now            Mode   // the stream's
}

func (e *ModeError) Error() string {
	return fmt.Sprintf("%v: replica %s was received from zfs send -%s, and %s would be sent with -%s", ErrStreamMode, e.Target, e.Was, e.Source, e.Now)
}

// Unwrap returns ErrStreamMode.
func (e *ModeError) Unwrap() error { return ErrStreamMode }

// Hint says how to go on.
func (e *ModeError) Hint() string {
	return fmt.Sprintf("nothing was changed; such streams cannot follow one another, so rename %s out of the way on the target to start a new replica beside it", e.Target)
}
