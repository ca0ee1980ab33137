package zfs

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestArguments(t *testing.T) {
	t.Parallel()
	props := map[string]string{"io.kubectl-dr:managed": "true", "compression": "lz4"}
	tests := []struct {
		want string
		args func() ([]string, error)
	}{
		{"zfs list -Hp -t filesystem,volume -o " + datasetColumns + " -d 0", func() ([]string, error) { return datasetsArgs(false, "") }},
		{"zfs list -Hp -t filesystem,volume -o " + datasetColumns, func() ([]string, error) { return datasetsArgs(true, "") }},
		{"zfs list -Hp -t filesystem,volume -o " + datasetColumns + " -r tank", func() ([]string, error) { return datasetsArgs(true, "tank") }},
		{"zfs list -Hp -t snapshot,bookmark -d 1 -o " + versionColumns + " tank/a", func() ([]string, error) { return versionsArgs("tank/a") }},
		{"zfs list -Hp -t snapshot,bookmark -d 0 -o " + versionColumns + " tank/a#b", func() ([]string, error) { return lookupArgs("tank/a#b") }},
		{"zfs list -Hp -t snapshot,bookmark -d 0 -o " + versionColumns + " tank/a@s tank/b@s", func() ([]string, error) { return lookupArgs("tank/a@s", "tank/b@s") }},
		{"zfs get -Hp -t snapshot -s local -o name,property a:b,c:d", func() ([]string, error) { return snapshotTagsArgs("a:b", "c:d") }},
		{"zfs list -Hp -t snapshot -o guid,name -r tank", func() ([]string, error) { return guidsArgs("tank") }},
		{"zfs get -Hp -o property,source,value used,a:b tank", func() ([]string, error) { return getArgs("tank", []string{"used", "a:b"}) }},
		{"zfs get -Hp -o name,property,source,value used,a:b tank back", func() ([]string, error) { return getEachArgs([]string{"tank", "back"}, []string{"used", "a:b"}) }},
		{"zfs get -Hp -s local -o name,property all tank@s tank", func() ([]string, error) { return userNamesArgs(SourceLocal, "tank@s", "tank") }},
		{"zfs list -Hp -t snapshot,bookmark -d 1 -o " + versionColumns + " tank/a tank/b", func() ([]string, error) { return versionsArgs("tank/a", "tank/b") }},
		{"zfs list -Hp -t filesystem,volume -o " + datasetColumns + " tank/a tank/b", func() ([]string, error) { return datasetsArgs(false, "tank/a", "tank/b") }},
		{"zfs get -Hp -s local -o property all tank@s", func() ([]string, error) { return userNamesArgs(SourceLocal, "tank@s") }},
		{"zfs get -Hp -r -t filesystem,volume -s local -o name a:b tank", func() ([]string, error) { return taggedArgs("tank", "a:b") }},
		{"zfs snapshot -o compression=lz4 -o io.kubectl-dr:managed=true tank/a@s tank/b@s",
			func() ([]string, error) { return snapshotArgs([]string{"tank/a@s", "tank/b@s"}, props) }},
		{"zfs hold t tank@s tank@r", func() ([]string, error) { return holdArgs("hold", "t", []string{"tank@s", "tank@r"}) }},
		{"zfs holds -H tank@s tank@r", func() ([]string, error) { return holdsArgs([]string{"tank@s", "tank@r"}) }},
		{"zfs bookmark tank@s tank#b", func() ([]string, error) { return bookmarkArgs("tank@s", "tank#b") }},
		{"zfs send tank@s", func() ([]string, error) { return sendArgs(SendOptions{To: "tank@s"}) }},
		{"zfs send -w -L -c -e -i tank#b tank@s", func() ([]string, error) {
			return sendArgs(SendOptions{From: "tank#b", To: "tank@s", Raw: true, LargeBlock: true, Compressed: true, Embedded: true})
		}},
		{"zfs send -L -t 1-ab-c0-ff", func() ([]string, error) {
			return sendArgs(SendOptions{Token: "1-ab-c0-ff", Raw: true, LargeBlock: true})
		}},
		{"zfs send -n -v -P -i tank@r tank@s", func() ([]string, error) { return sendSizeArgs(SendOptions{From: "tank@r", To: "tank@s"}) }},
		{"zfs receive tank/a", func() ([]string, error) { return receiveArgs(ReceiveOptions{Target: "tank/a"}) }},
		{"zfs receive -s -u -o origin=tank/o@s -o compression=lz4 -o io.kubectl-dr:managed=true -x mountpoint -x sharenfs tank/a@s",
			func() ([]string, error) {
				return receiveArgs(ReceiveOptions{Target: "tank/a@s", Resumable: true, Unmounted: true, Set: props,
					Exclude: []string{"sharenfs", "mountpoint"}, Origin: "tank/o@s"})
			}},
		{"zfs receive -A tank/a", func() ([]string, error) { return abortArgs("tank/a") }},
		{"zfs clone -o compression=lz4 -o io.kubectl-dr:managed=true tank@s tank/c", func() ([]string, error) { return cloneArgs("tank@s", "tank/c", props) }},
		{"zfs create -p -u -s -V 1048576 tank/v",
			func() ([]string, error) {
				return createArgs("tank/v", CreateOptions{Parents: true, Unmounted: true, VolumeSize: 1 << 20, Sparse: true})
			}},
		{"zfs destroy -r tank/a", func() ([]string, error) { return destroyArgs("tank/a", DestroyOptions{Recursive: true}) }},
		{"zfs destroy -d tank/a@s,r", func() ([]string, error) { return destroySnapshotsArgs("tank/a", []string{"s", "r"}, true) }},
		{"zfs rename tank/a tank/b", func() ([]string, error) { return renameArgs("tank/a", "tank/b") }},
		{"zfs set compression=lz4 io.kubectl-dr:managed=true tank/a", func() ([]string, error) { return setArgs("tank/a", props) }},
		{"zfs inherit a:b tank/a", func() ([]string, error) { return inheritArgs("tank/a", "a:b") }},
	}
	for _, tt := range tests {
		args, err := tt.args()
		require.NoError(t, err, tt.want)
		assert.Equal(t, tt.want, strings.Join(args, " "))
	}
}

func TestTheirPool(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"zfs version": "",
		"zpool list -Hp -o name,health,size,free":              "",
		"zfs list -Hp -t filesystem,volume -o name":            "",
		"zfs list -Hp -o name -d 0":                            "",
		"zfs list -Hp -o name -r tank":                         "tank",
		"zfs list -Hp -d 0 -o guid,name tank/a#b":              "tank",
		"zfs get -Hp -r -s local -o name a:b":                  "",
		"zfs get -Hp -r -s local -o name a:b tank/a":           "tank",
		"zfs get -Hp -o property,source,value used,a:b tank@s": "tank",
		"zfs send -n -v -P -t 1-ab-c0-ff":                      "",
		"zfs send -L -c -e -i tank/a#b tank/a@s":               "tank",
		"zfs receive -s -u -o a:b=back/x -x mountpoint tank/a": "tank",
		"zfs snapshot -o a:b=c tank/a@s tank/b@s":              "tank",
		"zfs rename tank/a tank/b":                             "tank",
	}
	for args, want := range tests {
		assert.Equal(t, want, pool(strings.Fields(args)), args)
	}
}

func TestArgumentsThatAreRefused(t *testing.T) {
	t.Parallel()
	bad := map[string]string{"a:b": "x\ny"}
	tests := []struct {
		name string
		args func() ([]string, error)
	}{
		{"an option for a dataset", func() ([]string, error) { return datasetArgs("-a", "promote") }},
		{"an option for a root", func() ([]string, error) { return datasetsArgs(true, "-r") }},
		{"an option among datasets", func() ([]string, error) { return datasetsArgs(false, "tank", "-r") }},
		{"an option among the listed", func() ([]string, error) { return versionsArgs("tank", "-r") }},
		{"no properties to get", func() ([]string, error) { return getArgs("tank", nil) }},
		{"a property twice", func() ([]string, error) { return getArgs("tank", []string{"a:b", "a:b"}) }},
		{"a list for a property", func() ([]string, error) { return getArgs("tank", []string{"a:b,c:d"}) }},
		{"another source", func() ([]string, error) { return userNamesArgs(SourceDefault, "tank") }},
		{"a native property as a tag", func() ([]string, error) { return taggedArgs("tank", "quota") }},
		{"a native property as a snapshot's tag", func() ([]string, error) { return snapshotTagsArgs("a:b", "used") }},
		{"a dataset as a version", func() ([]string, error) { return lookupArgs("tank/a") }},
		{"no snapshots", func() ([]string, error) { return snapshotArgs(nil, nil) }},
		{"a dataset as a snapshot", func() ([]string, error) { return snapshotArgs([]string{"tank"}, nil) }},
		{"a value with a line break", func() ([]string, error) { return snapshotArgs([]string{"tank@s"}, bad) }},
		{"an option for a tag", func() ([]string, error) { return holdArgs("hold", "-r", []string{"tank@s"}) }},
		{"a send of nothing", func() ([]string, error) { return sendArgs(SendOptions{}) }},
		{"a send from a dataset", func() ([]string, error) { return sendArgs(SendOptions{From: "tank", To: "tank@s"}) }},
		{"a token and a snapshot", func() ([]string, error) { return sendArgs(SendOptions{Token: "1-a", To: "tank@s"}) }},
		{"an option for a token", func() ([]string, error) { return sendArgs(SendOptions{Token: "-R"}) }},
		{"a token of other characters", func() ([]string, error) { return sendArgs(SendOptions{Token: "1-xyz"}) }},
		{"a receive into a bookmark", func() ([]string, error) { return receiveArgs(ReceiveOptions{Target: "tank#b"}) }},
		{"a receive into nothing", func() ([]string, error) { return receiveArgs(ReceiveOptions{}) }},
		{"an origin that is no snapshot", func() ([]string, error) { return receiveArgs(ReceiveOptions{Target: "tank/a", Origin: "tank"}) }},
		{"an option to exclude", func() ([]string, error) {
			return receiveArgs(ReceiveOptions{Target: "tank/a", Exclude: []string{"-F"}})
		}},
		{"a bad value to receive with", func() ([]string, error) { return receiveArgs(ReceiveOptions{Target: "tank/a", Set: bad}) }},
		{"no snapshots to destroy", func() ([]string, error) { return destroySnapshotsArgs("tank", nil, false) }},
		{"a range of snapshots to destroy", func() ([]string, error) { return destroySnapshotsArgs("tank", []string{"a%b"}, false) }},
		{"nothing to set", func() ([]string, error) { return setArgs("tank", nil) }},
		{"a bad value to set", func() ([]string, error) { return setArgs("tank", bad) }},
		{"an option to inherit", func() ([]string, error) { return inheritArgs("tank", "-S") }},
		{"a bad name to rename to", func() ([]string, error) { return renameArgs("tank/a", "tank/%b") }},
		{"a clone under an option", func() ([]string, error) { return cloneArgs("tank@s", "-p", nil) }},
		{"a volume under a bad name", func() ([]string, error) { return createArgs("tank/a b/", CreateOptions{}) }},
	}
	for _, tt := range tests {
		_, err := tt.args()
		assert.ErrorIs(t, err, ErrInvalidName, tt.name)
	}
	_, err := snapshotArgs([]string{"tank@s", "back@s"}, nil)
	assert.ErrorIs(t, err, ErrSeveralPools)
}
