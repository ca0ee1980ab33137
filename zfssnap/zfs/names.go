package zfs

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of ZFS (include/sys/fs/zfs.h, module/zcommon/zfs_namecheck.c).
const (
	// MaxName is the longest full name, "pool/fs@snap", in bytes.
	MaxName = 255
	// MaxDepth is the number of '/' a dataset name must stay below.
	MaxDepth = 50
	// MaxHoldTag is the longest hold tag in bytes.
	MaxHoldTag = 255
	// MaxPropertyName and MaxPropertyValue bound user properties, in bytes.
	MaxPropertyName  = 255
	MaxPropertyValue = 8191
)

// UserNamespace is the prefix of every user property this project sets.
const UserNamespace = "io.kubectl-dr:"

// ValidateDataset checks the name of a filesystem or volume.
func ValidateDataset(name string) error {
	if err := checkDataset(name); err != nil {
		return fmt.Errorf("dataset %q: %w", name, err)
	}
	return nil
}

// ValidateSnapshot checks a full snapshot name, "dataset@snapshot".
func ValidateSnapshot(name string) error { return checkVersionName("snapshot", name, "@") }

// ValidateBookmark checks a full bookmark name, "dataset#bookmark".
func ValidateBookmark(name string) error { return checkVersionName("bookmark", name, "#") }

// ValidateName checks a dataset, snapshot or bookmark name.
func ValidateName(name string) error {
	switch {
	case strings.Contains(name, "@"):
		return ValidateSnapshot(name)
	case strings.Contains(name, "#"):
		return ValidateBookmark(name)
	default:
		return ValidateDataset(name)
	}
}

// ValidateComponent checks one part of a name: what lies between slashes, or
// after '@' or '#'.
func ValidateComponent(name string) error {
	if err := checkComponent(name); err != nil {
		return fmt.Errorf("name %q: %w", name, err)
	}
	return nil
}

// ValidateHoldTag checks a hold tag. It is stricter than ZFS, which takes any
// bytes: a tag of ours is printable ASCII without spaces.
func ValidateHoldTag(tag string) error {
	if err := checkHoldTag(tag); err != nil {
		return fmt.Errorf("hold tag %q: %w", tag, err)
	}
	return nil
}

// ValidateUserProperty checks the name of a user property.
func ValidateUserProperty(name string) error {
	if err := checkProperty(name); err != nil {
		return fmt.Errorf("property %q: %w", name, err)
	}
	if !strings.Contains(name, ":") {
		return fmt.Errorf("property %q: %w: a user property contains a colon", name, ErrInvalidName)
	}
	return nil
}

// ValidateValue checks a property value. It is stricter than ZFS, which takes
// any bytes: control characters would make the listings of zfs(8) ambiguous.
func ValidateValue(value string) error {
	if len(value) > MaxPropertyValue {
		return fmt.Errorf("property value of %d bytes: %w: longer than %d", len(value), ErrInvalidName, MaxPropertyValue)
	}
	if !utf8.ValidString(value) {
		return fmt.Errorf("property value %q: %w: not UTF-8", value, ErrInvalidName)
	}
	for _, r := range value {
		if r < ' ' || r == 0x7f {
			return fmt.Errorf("property value %q: %w: has a control character", value, ErrInvalidName)
		}
	}
	return nil
}

// Pool returns the pool part of any name.
func Pool(name string) string {
	if i := strings.IndexAny(name, "/@#"); i >= 0 {
		return name[:i]
	}
	return name
}

// Parent returns the dataset above, "" for a pool.
func Parent(dataset string) string {
	if i := strings.LastIndexByte(dataset, '/'); i >= 0 {
		return dataset[:i]
	}
	return ""
}

// SplitVersion cuts a snapshot or bookmark name in the dataset, the separator
// ("@" or "#", "" for neither) and the rest.
func SplitVersion(name string) (dataset, sep, version string) {
	if i := strings.IndexAny(name, "@#"); i >= 0 {
		return name[:i], name[i : i+1], name[i+1:]
	}
	return name, "", ""
}

func checkVersionName(kind, name, want string) error {
	dataset, sep, version := SplitVersion(name)
	bad := func(err error) error { return fmt.Errorf("%s %q: %w", kind, name, err) }
	if sep != want {
		return bad(fmt.Errorf("%w: want <dataset>%s<%s>", ErrInvalidName, want, kind))
	}
	if len(name) > MaxName {
		return bad(fmt.Errorf("%w: %d bytes, the limit is %d", ErrInvalidName, len(name), MaxName))
	}
	if err := checkDataset(dataset); err != nil {
		return bad(err)
	}
	if err := checkComponent(version); err != nil {
		return bad(err)
	}
	return nil
}

func checkDataset(name string) error {
	if len(name) > MaxName {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrInvalidName, len(name), MaxName)
	}
	if strings.Count(name, "/") >= MaxDepth {
		return fmt.Errorf("%w: nested %d deep or more", ErrInvalidName, MaxDepth)
	}
	for part := range strings.SplitSeq(name, "/") {
		if err := checkComponent(part); err != nil {
			return err
		}
	}
	// A pool begins with a letter, which also keeps '-' from the front.
	if c := name[0]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
		return fmt.Errorf("%w: does not begin with a letter", ErrInvalidName)
	}
	return nil
}

func checkComponent(part string) error {
	switch part {
	case "":
		return fmt.Errorf("%w: has an empty part", ErrInvalidName)
	case ".", "..":
		return fmt.Errorf("%w: has a part %q", ErrInvalidName, part)
	}
	if len(part) > MaxName {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrInvalidName, len(part), MaxName)
	}
	for i := range len(part) {
		switch c := part[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '-', c == '_', c == '.', c == ':', c == ' ':
		default:
			return fmt.Errorf("%w: has character %q", ErrInvalidName, c)
		}
	}
	return nil
}

func checkHoldTag(tag string) error {
	switch {
	case tag == "":
		return fmt.Errorf("%w: empty", ErrInvalidName)
	case len(tag) > MaxHoldTag:
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrInvalidName, len(tag), MaxHoldTag)
	case tag[0] == '.':
		return fmt.Errorf("%w: a leading dot is reserved", ErrInvalidName)
	case tag[0] == '-':
		return fmt.Errorf("%w: begins with '-'", ErrInvalidName)
	}
	for i := range len(tag) {
		if tag[i] <= ' ' || tag[i] >= 0x7f {
			return fmt.Errorf("%w: has character %q", ErrInvalidName, tag[i])
		}
	}
	return nil
}

// checkProperty checks the name of any property, native or user.
func checkProperty(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: empty", ErrInvalidName)
	case len(name) > MaxPropertyName:
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrInvalidName, len(name), MaxPropertyName)
	case name[0] == '-':
		return fmt.Errorf("%w: begins with '-'", ErrInvalidName)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c == '.', c == ':':
		default:
			return fmt.Errorf("%w: has character %q", ErrInvalidName, c)
		}
	}
	return nil
}
