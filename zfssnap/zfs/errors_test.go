package zfs

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestMessagesOfZFSHaveACause(t *testing.T) {
	t.Parallel()
	want := map[string]error{
		"list-missing": ErrNotFound, "lookup-missing-bm": ErrNotFound, "snapshot-missing": ErrNotFound,
		"bookmark-nosnap": ErrNotFound, "hold-missing": ErrNotFound, "hold-missing-ds": ErrNotFound,
		"holds-missing": ErrNotFound, "release-missing": ErrNotFound, "destroy-missing": ErrNotFound,
		"destroy-snap-missing": ErrNotFound, "destroy-bm-missing": ErrNotFound, "clone-noorigin": ErrNotFound,
		"clone-noparent": ErrNotFound, "create-noparent": ErrNotFound, "promote-missing": ErrNotFound,
		"rename-missing": ErrNotFound, "rename-noparent": ErrNotFound, "set-missing": ErrNotFound,
		"get-missing": ErrNotFound, "inherit-missing": ErrNotFound, "mount-missing": ErrNotFound,
		"send-missing": ErrNotFound, "size-missing": ErrNotFound, "recv-inc-nods": ErrNotFound,
		"recv-full-noparent": ErrNotFound, "recv-origin-missing": ErrNotFound, "recv-other-resume-target": ErrNotFound,

		"snapshot-exists": ErrExists, "bookmark-exists": ErrExists, "clone-exists": ErrExists, "create-exists": ErrExists,
		"rename-exists": ErrExists, "recv-full-again": ErrExists, "recv-name-taken": ErrExists, "promote-conflict": ErrExists,

		"destroy-held": ErrHeld, "destroy-children": ErrHasChildren,
		"destroy-cloned": ErrHasClones, "destroy-cloned-r": ErrHasClones,
		"hold-again": ErrTagExists, "release-notag": ErrNoTag,

		"import-active": ErrPoolActive, "import-active-f": ErrPoolActive, "import-elsewhere": ErrPoolElsewhere,
		"import-nohostid": ErrNoHostID, "import-nohostid-f": ErrNoHostID, "import-exists": ErrExists,
		"import-missing": ErrNotFound, "export-missing": ErrNotFound, "label-missing": ErrNotFound, "export-busy": ErrBusy,

		"unmount-busy": ErrBusy, "destroy-busy": ErrBusy, "rename-busy": ErrBusy,
		"destroy-receiving": ErrBusy, "abort-receiving": ErrBusy,
		"mount-again": errMounted, "unmount-again": errNotMounted, "abort-none": errNoPartial,

		"send-base-bm-missing": ErrNoBase, "send-base-later": ErrNoBase, "size-bm-missing": ErrNoBase, "size-later": ErrNoBase,
		"recv-inc-nobase": ErrDiverged, "recv-inc-again-other": ErrDiverged,
		"recv-partial-inc-other": ErrPartial,
		"recv-cut":               ErrIncomplete, "recv-resume-cut": ErrIncomplete, "recv-inc-cut": ErrIncomplete,
		"recv-resume-nostate": ErrIncomplete, "recv-cut-nos": ErrIncomplete,
		"recv-garbage": ErrIncomplete, "recv-empty": ErrIncomplete,
		"recv-resume-stale-stream": ErrResumeStale, "stale-base-send": ErrResumeStale, "stale-base-size": ErrResumeStale,
		"stale-to": ErrResumeStale, "stale-to-send": ErrResumeStale, "stale-to-other": ErrResumeStale,
		"stale-to-other-send": ErrResumeStale, "corrupt-token": ErrResumeStale, "corrupt-token2": ErrResumeStale,
		"send-base-elsewhere": ErrResumeStale,

		"recv-no-large-blocks": ErrStreamMode, "recv-raw-on-plain": ErrStreamMode, "recv-raw-after-plain": ErrStreamMode,
		"recv-plain-on-raw": ErrKeyUnavailable,

		"recv-quota": ErrNoSpace, "set-nospace": ErrNoSpace, "full-recv": ErrNoSpace, "full-snapshot": ErrNoSpace,
		"full-create": ErrNoSpace, "create-nospace": ErrNoSpace,
		"mount-nokey": ErrKeyUnavailable, "send-nokey": ErrKeyUnavailable, "create-nokey": ErrKeyUnavailable,
		"recv-into-encparent": ErrKeyUnavailable,

		"perm-snapshot": ErrPermission, "perm-destroy": ErrPermission, "perm-hold": ErrPermission,
		"perm-bookmark": ErrPermission, "perm-create": ErrPermission, "perm-clone": ErrPermission,
		"perm-set": ErrPermission, "perm-inherit": ErrPermission, "perm-rename": ErrPermission,
		"perm-send": ErrPermission, "perm-recv": ErrPermission, "perm-unmount": ErrPermission,
		"perm-abort": ErrPermission, "perm-nodev": ErrPermission,

		"no-dev": ErrPoolUnavailable, "ro-snapshot": ErrPoolUnavailable, "ro-set": ErrPoolUnavailable,
		"ro-recv2": ErrPoolUnavailable, "ro-create": ErrPoolUnavailable, "ro-rename": ErrPoolUnavailable,
		"suspended-list": ErrPoolUnavailable, "suspended-get": ErrPoolUnavailable, "suspended-snapshot": ErrPoolUnavailable,
		"suspended-hold": ErrPoolUnavailable, "suspended-holds": ErrPoolUnavailable, "suspended-bookmark": ErrPoolUnavailable,
		"suspended-destroy": ErrPoolUnavailable, "suspended-create": ErrPoolUnavailable, "suspended-clone": ErrPoolUnavailable,
		"suspended-set": ErrPoolUnavailable, "suspended-send": ErrPoolUnavailable, "suspended-recv": ErrPoolUnavailable,

		// Mistakes of the caller, which nothing branches on.
		"snapshot-two-pools": nil, "bookmark-otherds": nil, "destroy-pool": nil, "clone-otherpool": nil,
		"create-badprop": nil, "create-badvalue": nil, "promote-no": nil, "rename-otherpool": nil, "set-bm": nil,
		"set-bad": nil, "set-readonlyprop": nil, "set-snap-native": nil, "mount-none": nil, "mount-legacy": nil,
		"mount-vol": nil, "recv-vol": nil, "unload-busy": nil,
		"recv-embedded-in-encrypted": nil,
	}
	for name, stderr := range fixtures(t, "errors.txt") {
		cause, known := want[name]
		if assert.True(t, known, "no cause is expected for %s", name) {
			assert.Equal(t, cause, Classify(stderr), "%s: %s", name, stderr)
		}
		delete(want, name)
	}
	assert.Empty(t, want, "causes without a message")
}

func TestNewerWordingOfAHeldSnapshot(t *testing.T) {
	t.Parallel()
	assert.Equal(t, ErrHeld, Classify("cannot destroy snapshot tank/a@s1: it's being held. Run 'zfs holds -r tank/a@s1' to see holders.\n"))
}

func TestCommandErrorNamesTheVerbAndTheMessage(t *testing.T) {
	t.Parallel()
	err := &CommandError{
		Args: []string{"zfs", "destroy", "tank/a"}, ExitCode: 1, Err: ErrHasChildren,
		Stderr: "cannot destroy 'tank/a': filesystem has children\nuse '-r' to destroy the following datasets:\ntank/a@s1\n",
	}
	assert.EqualError(t, err, "zfs destroy: cannot destroy 'tank/a': filesystem has children "+
		"use '-r' to destroy the following datasets: tank/a@s1")
	assert.True(t, errors.Is(err, ErrHasChildren))
	err.Stderr = "cannot open 'tank/none': dataset does not exist\nusage:\n\tsnapshot [-r] ...\n"
	assert.EqualError(t, err, "zfs destroy: cannot open 'tank/none': dataset does not exist")
	assert.EqualError(t, &CommandError{Args: []string{"zfs"}, ExitCode: 2}, "zfs: exit status 2")
}

func FuzzClassify(f *testing.F) {
	for _, stderr := range fixtures(f, "errors.txt") {
		f.Add(stderr)
	}
	f.Fuzz(func(_ *testing.T, stderr string) { _ = Classify(stderr) })
}
