package zfs

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestNames(t *testing.T) {
	t.Parallel()
	long := func(n int) string { return "t" + strings.Repeat("a", n-1) }
	tests := []struct {
		name  string
		check func(string) error
		value string
		ok    bool
	}{
		{"a pool is a dataset", ValidateDataset, "tank", true},
		{"all characters ZFS knows are allowed", ValidateDataset, "tank/k3s/pvc-0_a.b:c d", true},
		{"255 bytes are allowed", ValidateDataset, long(255), true},
		{"256 bytes are not", ValidateDataset, long(256), false},
		{"49 slashes are allowed", ValidateDataset, "t" + strings.Repeat("/a", 49), true},
		{"50 slashes are not", ValidateDataset, "t" + strings.Repeat("/a", 50), false},
		{"nothing is not a name", ValidateDataset, "", false},
		{"an option is not a name", ValidateDataset, "-r", false},
		{"a pool begins with a letter", ValidateDataset, "1tank", false},
		{"no leading slash", ValidateDataset, "/tank", false},
		{"no trailing slash", ValidateDataset, "tank/", false},
		{"no empty part", ValidateDataset, "tank//a", false},
		{"no part of one dot", ValidateDataset, "tank/./a", false},
		{"no part of two dots", ValidateDataset, "tank/../a", false},
		{"no percent", ValidateDataset, "tank/%recv", false},
		{"no comma", ValidateDataset, "tank/a,b", false},
		{"no TAB", ValidateDataset, "tank/a\tb", false},
		{"no line break", ValidateDataset, "tank/a\n", false},
		{"no letter beyond ASCII", ValidateDataset, "tank/ä", false},
		{"a snapshot is not a dataset", ValidateDataset, "tank@a", false},
		{"a snapshot", ValidateSnapshot, "tank/a@s:1", true},
		{"a snapshot may begin with a dash", ValidateSnapshot, "tank/a@-s", true},
		{"a snapshot of 256 bytes", ValidateSnapshot, "tank@" + long(251), false},
		{"a snapshot without a name", ValidateSnapshot, "tank@", false},
		{"a snapshot without a dataset", ValidateSnapshot, "@s", false},
		{"a snapshot with two names", ValidateSnapshot, "tank@a@b", false},
		{"a snapshot range", ValidateSnapshot, "tank@a%b", false},
		{"a snapshot list", ValidateSnapshot, "tank@a,b", false},
		{"a snapshot with a slash", ValidateSnapshot, "tank@a/b", false},
		{"a bookmark is not a snapshot", ValidateSnapshot, "tank#a", false},
		{"a dataset is not a snapshot", ValidateSnapshot, "tank/a", false},
		{"a bookmark", ValidateBookmark, "tank/a#b", true},
		{"a snapshot is not a bookmark", ValidateBookmark, "tank/a@b", false},
		{"any kind of name", ValidateName, "tank/a#b", true},
		{"a part with a slash", ValidateComponent, "a/b", false},
		{"a part", ValidateComponent, "pvc-1", true},
		{"a hold tag", ValidateHoldTag, "kubectl-dr:backup", true},
		{"a hold tag of 255 bytes", ValidateHoldTag, long(255), true},
		{"a hold tag of 256 bytes", ValidateHoldTag, long(256), false},
		{"a hold tag that ZFS reserves", ValidateHoldTag, ".send-1", false},
		{"a hold tag that looks like an option", ValidateHoldTag, "-r", false},
		{"an empty hold tag", ValidateHoldTag, "", false},
		{"a hold tag with a TAB", ValidateHoldTag, "a\tb", false},
		{"a user property", ValidateUserProperty, "io.kubectl-dr:managed", true},
		{"a user property without a colon", ValidateUserProperty, "managed", false},
		{"a user property in capitals", ValidateUserProperty, "IO:x", false},
		{"a user property with an equals sign", ValidateUserProperty, "a:b=c", false},
		{"a user property with a comma", ValidateUserProperty, "a:b,c", false},
		{"a user property that looks like an option", ValidateUserProperty, "-a:b", false},
		{"a user property of 256 bytes", ValidateUserProperty, "a:" + long(254), false},
		{"a value", ValidateValue, "hassio:znvm/k3s, \"x\" = é", true},
		{"an empty value", ValidateValue, "", true},
		{"a value of 8192 bytes", ValidateValue, strings.Repeat("v", 8192), false},
		{"a value with a TAB", ValidateValue, "a\tb", false},
		{"a value with a line break", ValidateValue, "a\nb", false},
		{"a value that is not UTF-8", ValidateValue, "\xff", false},
	}
	for _, tt := range tests {
		err := tt.check(tt.value)
		if tt.ok {
			assert.NoError(t, err, tt.name)
		} else {
			assert.ErrorIs(t, err, ErrInvalidName, tt.name)
		}
	}
}

func TestPartsOfNames(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "tank", Pool("tank/a@s"))
	assert.Equal(t, "tank", Pool("tank#b"))
	assert.Equal(t, "tank", Pool("tank"))
	assert.Equal(t, "tank/a", Parent("tank/a/b"))
	assert.Empty(t, Parent("tank"))
	dataset, sep, version := SplitVersion("tank/a#b")
	assert.Equal(t, []string{"tank/a", "#", "b"}, []string{dataset, sep, version})
	dataset, sep, version = SplitVersion("tank/a")
	assert.Equal(t, []string{"tank/a", "", ""}, []string{dataset, sep, version})
}

// A name that passes can neither be an option nor break a line of output.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"tank", "tank/a@s", "tank#b", "-r", "tank/a,b", "tank/%recv", "a\tb", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if ValidateName(name) == nil {
			if name[0] == '-' || len(name) > MaxName || strings.ContainsAny(name, "\t\n\x00,%=") ||
				strings.Count(name, "@")+strings.Count(name, "#") > 1 {
				t.Errorf("%q passes", name)
			}
		}
		if ValidateHoldTag(name) == nil && (name[0] == '-' || name[0] == '.' || strings.ContainsAny(name, "\t\n\x00 ")) {
			t.Errorf("hold tag %q passes", name)
		}
		if ValidateUserProperty(name) == nil && (name[0] == '-' || strings.ContainsAny(name, "\t\n\x00 =,@")) {
			t.Errorf("property %q passes", name)
		}
	})
}
