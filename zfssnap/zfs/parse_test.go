package zfs

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func importable(b []byte) (any, error) { return parseImportable(b) }
func label(b []byte) (any, error)      { return parseLabel(b) }

func TestOutputOfZFS(t *testing.T) {
	t.Parallel()
	out := fixtures(t, "outputs.txt")
	tests := []struct {
		record string
		parse  func([]byte) (any, error)
		want   any
	}{
		{"version", func(b []byte) (any, error) { return parseRelease(b) },
			Release{Userland: "2.1.11-1+deb12u1", Module: "2.1.11-1+deb12u1"}},
		{"pools", func(b []byte) (any, error) { return parsePools(b) },
			[]PoolInfo{{"back", "ONLINE", 402653184, 402516992}, {"tank", "ONLINE", 402653184, 402513920}}},
		{"pool", func(b []byte) (any, error) { return parsePool(b) },
			PoolState{GUID: 15485559303183191299, Health: "ONLINE", Multihost: true}},
		{"import-active", importable, []Importable{{Name: "metro", GUID: 8841585631787251925, Health: "UNAVAIL", Active: true, Host: "hassio", HostID: 1}}},
		{"import-elsewhere", importable, []Importable{{Name: "metro", GUID: 8841585631787251925, Health: "ONLINE"}}},
		{"import-exported", importable, []Importable{{Name: "metro", GUID: 8841585631787251925, Health: "ONLINE"}}},
		{"import-offline", importable, []Importable{{Name: "metro", GUID: 8841585631787251925, Health: "DEGRADED"}}},
		{"import-unseen", importable, []Importable{{Name: "dg", GUID: 15380689879301440263, Health: "DEGRADED", Unseen: []string{"/tmp/dg/b"}}}},
		{"label-active", label, PoolLabel{GUID: 8841585631787251925, Host: "hassio", HostID: 1, Multihost: true}},
		{"label-exported", label, PoolLabel{GUID: 8841585631787251925, Exported: true, Host: "remote", HostID: 2, Multihost: true}},
		{"label-no-multihost", label, PoolLabel{GUID: 8841585631787251925, Host: "hassio", HostID: 1}},
		{"datasets", func(b []byte) (any, error) { return parseDatasets(b) }, []Dataset{
			{Name: "tank", Type: Filesystem, GUID: 8553842014844178422, Used: 4496384, Referenced: 24576, Encryption: "off", Mountpoint: "none"},
			{Name: "tank/a", Type: Filesystem, GUID: 5434976027974122621, Used: 4222976, Referenced: 4222976, Encryption: "off", Mounted: true, Mountpoint: "/mnt/a"},
			{Name: "tank/p", Type: Filesystem, GUID: 9192480435974301497, Used: 49152, Referenced: 24576, Encryption: "off", ReadOnly: true, Mountpoint: "none"},
			{Name: "tank/p/c", Type: Filesystem, GUID: 7646175394515725911, Used: 24576, Referenced: 24576, Encryption: "off", ReadOnly: true, Mountpoint: "none"},
			{Name: "tank/vol", Type: Volume, GUID: 5663294469707562216, Used: 12288, Referenced: 12288, Encryption: "off", VolSize: 16777216},
		}},
		{"versions", func(b []byte) (any, error) { return parseVersions(b) }, []Version{
			{"tank/a", "s1", false, 11058676980510801795, 13, unix(1795218541), 14336, 4222976, 4222976, 1},
			{"tank/a", "b1", true, 11058676980510801795, 13, unix(1795218541), 0, 4222976, 0, 0},
			{"tank/a", "s2", false, 9434145604778696100, 16, unix(1795218543), 0, 5273600, 1064960, 0},
			{"tank/a", "b2", true, 9434145604778696100, 16, unix(1795218543), 0, 5273600, 0, 0},
			{"tank/a", "s3", false, 18227181719818182957, 17, unix(1795218543), 0, 5273600, 0, 0},
		}},
		{"lookup-bm", func(b []byte) (any, error) { return parseVersions(b) },
			[]Version{{"tank/a", "b1", true, 11058676980510801795, 13, unix(1795218541), 0, 4222976, 0, 0}}},
		{"program-taken", func(b []byte) (any, error) { return parseTaken(b, []string{"nas/x/b@1", "nas/x@1"}) }, []Version{
			{"nas/x/b", "1", false, 1557707978332994918, 282, unix(1795300690), 0, 98304, 98304, 0},
			{"nas/x", "1", false, 10925139459075144663, 282, unix(1795300689), 0, 98304, 98304, 0},
		}},
		{"program-exists", func(b []byte) (any, error) { return parseTaken(b, []string{"nas/x@2", "nas/x/b@1"}) }, []Version(nil)},
		{"guids", func(b []byte) (any, error) { return parseGUIDs(b, 9434145604778696100) }, match{"tank/a@s2", 0}},
		{"guids", func(b []byte) (any, error) { return parseGUIDs(b, 1, 18227181719818182957, 9434145604778696100) }, match{"tank/a@s3", 1}},
		{"guids", func(b []byte) (any, error) { return parseGUIDs(b, 1) }, match{"", 1}},
		{"holds", func(b []byte) (any, error) { return parseHolds(b) },
			[]Hold{{"tank/a@s1", "kubectl-dr:backup", time.Date(2026, 11, 20, 23, 49, 0, 0, time.UTC)}}},
		{"get", properties("io.kubectl-dr:managed", "quota", "mountpoint", "io.kubectl-dr:none", "used"), map[string]Property{
			"io.kubectl-dr:managed": {"true", SourceLocal}, "quota": {"104857600", SourceLocal},
			"mountpoint": {"none", "inherited from tank"}, "io.kubectl-dr:none": {"-", SourceNone}, "used": {"49152", SourceNone},
		}},
		{"get-child", properties("io.kubectl-dr:managed", "quota", "mountpoint", "readonly"), map[string]Property{
			"io.kubectl-dr:managed": {"true", "inherited from tank/p"}, "quota": {"0", SourceDefault},
			"mountpoint": {"none", "inherited from tank"}, "readonly": {"on", "inherited from tank/p"},
		}},
		{"get-order", properties("used", "io.kubectl-dr:managed", "compression", "quota"), map[string]Property{
			"used": {"49152", SourceNone}, "io.kubectl-dr:managed": {"true", SourceLocal},
			"compression": {"off", SourceDefault}, "quota": {"104857600", SourceLocal},
		}},
		{"get-snap", properties("io.kubectl-dr:managed", "guid", "io.kubectl-dr:other"), map[string]Property{
			"io.kubectl-dr:managed": {"true", SourceLocal}, "guid": {"9504136046422186971", SourceNone}, "io.kubectl-dr:other": {"-", SourceNone},
		}},
		{"get-vol-fsprop", properties("volsize", "mountpoint", "canmount", "mounted"), map[string]Property{
			"volsize": {"16777216", SourceLocal}, "mountpoint": {"-", SourceNone}, "canmount": {"-", SourceNone}, "mounted": {"-", SourceNone},
		}},
		{"get-received", properties("io.kubectl-dr:src", "compression"), map[string]Property{
			"io.kubectl-dr:src": {"x", SourceReceived}, "compression": {"lz4", SourceReceived},
		}},
		{"names-received", userNames("back/r/props"), []string{"io.kubectl-dr:src"}},
		{"names-received-p", func(b []byte) (any, error) { return lines(b), nil }, []string{"compression", "atime"}},
		{"names-inherit", userNames("tank/p/c"), []string(nil)},
		{"tagged", func(b []byte) (any, error) { return lines(b), nil }, []string{"tank/p"}},
		{"size-full", estimate(false), Estimate{Bytes: 4215152}},
		{"size-inc", estimate(false), Estimate{Bytes: 2109424}},
		{"size-bm", estimate(false), Estimate{Bytes: 2109424}},
		{"size-token", estimate(true), Estimate{Bytes: 1322144, Resume: &Resume{
			ToGUID: 0x2c15b752ee63ce7, ToName: "tank/a@s1", Bytes: 0x2c24d0}}},
		{"size-token-inc", estimate(true), Estimate{Bytes: 657720, Resume: &Resume{
			ToGUID: 0x83e579610ffadbdb, ToName: "tank/a@s2", FromGUID: 0x2c15b752ee63ce7, Bytes: 0x1626b8}}},
		{"size-token-plain", estimate(true), Estimate{Bytes: 3191320, Resume: &Resume{
			ToGUID: 0x5410d2c4c6359d70, ToName: "znvm/x/large@s1", Bytes: 0x100b38, LargeBlock: true, Embedded: true, Compressed: true}}},
		{"size-token-raw", estimate(true), Estimate{Bytes: 1644996, Resume: &Resume{
			ToGUID: 0x397fc2375bd0b083, ToName: "znvm/x/sec@s1", Bytes: 0x161d34, Compressed: true, Raw: true}}},
		{"stale-to", estimate(true), Estimate{Resume: &Resume{
			ToGUID: 0xf45a020dd15e841a, ToName: "tank/a@s2", FromGUID: 0x2f558e3e40fe676f, Bytes: 0x1626b8}}},
	}
	for _, tt := range tests {
		record, ok := out[tt.record]
		require.True(t, ok, tt.record)
		got, err := tt.parse([]byte(record))
		require.NoError(t, err, tt.record)
		assert.Equal(t, tt.want, got, tt.record)
	}
	_, err := parseProperties([]byte(out["get-evil1"]), []string{"io.kubectl-dr:evil"})
	assert.ErrorIs(t, err, ErrAmbiguous, "a value with line breaks must not pass for another property")
}

func unix(sec int64) time.Time { return time.Unix(sec, 0).UTC() }

func properties(names ...string) func([]byte) (any, error) {
	return func(b []byte) (any, error) { return parseProperties(b, names) }
}

func userNames(name string) func([]byte) (any, error) {
	return func(b []byte) (any, error) {
		all, err := parseUserNames(b, []string{name})
		return all[name], err
	}
}

func ofTwo(b []byte) (any, error) {
	return parsePropertiesOf(b, []string{"tank", "back"}, []string{"a:b", "c:d"})
}

func estimate(token bool) func([]byte) (any, error) {
	return func(b []byte) (any, error) { return parseEstimate(b, token) }
}

func TestOutputThatIsNotUnderstood(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		parse func([]byte) (any, error)
		out   string
	}{
		{"no version", func(b []byte) (any, error) { return parseRelease(b) }, "hello\n"},
		{"a pool with too few columns", func(b []byte) (any, error) { return parsePools(b) }, "tank\tONLINE\t1\n"},
		{"a pool with a size in words", func(b []byte) (any, error) { return parsePools(b) }, "tank\tONLINE\t1G\t2\n"},
		{"a dataset with too few columns", func(b []byte) (any, error) { return parseDatasets(b) }, "tank\tfilesystem\n"},
		{"a dataset of another type", func(b []byte) (any, error) { return parseDatasets(b) }, "tank\tsnapshot\t1\t1\t1\t-\tno\toff\t-\toff\t-\t-\tnone\n"},
		{"a version without a name", func(b []byte) (any, error) { return parseVersions(b) }, "1\t2\t3\t4\t5\t6\t7\ttank\n"},
		{"a version without a guid", func(b []byte) (any, error) { return parseVersions(b) }, "1\t-\t3\t4\t5\t6\t7\ttank@s\n"},
		{"a guid line without a name", func(b []byte) (any, error) { return parseGUIDs(b, 1) }, "1\n"},
		{"a hold with another date", func(b []byte) (any, error) { return parseHolds(b) }, "tank@s\tt\tvendredi\n"},
		{"a size in words", estimate(false), "size\t1.5G\n"},
		{"a token with a damaged guid", estimate(true), "\ttoguid = 0xxyz\n"},
		{"fewer properties than asked for", properties("a:b", "c:d"), "a:b\tlocal\tx\n"},
		{"properties of two with a line too many", ofTwo, "tank\ta:b\tlocal\tx\ny\ntank\tc:d\tlocal\tx\nback\ta:b\tlocal\tx\nback\tc:d\tlocal\tx\n"},
		{"properties of one of two twice", ofTwo, "tank\ta:b\tlocal\tx\ntank\tc:d\tlocal\tx\ntank\ta:b\tlocal\tx\ntank\tc:d\tlocal\tx\n"},
		{"properties of something else", ofTwo, "tank\ta:b\tlocal\tx\ntank\tc:d\tlocal\tx\ndr\ta:b\tlocal\tx\ndr\tc:d\tlocal\tx\n"},
		{"names of properties of two without what has them", func(b []byte) (any, error) { return parseUserNames(b, []string{"tank", "back"}) }, "a:b\n"},
		{"properties in another order", properties("a:b", "c:d"), "c:d\tlocal\tx\na:b\tlocal\tx\n"},
	}
	for _, tt := range tests {
		_, err := tt.parse([]byte(tt.out))
		assert.Error(t, err, tt.name)
	}
}

func TestValuesMayHoldTabs(t *testing.T) {
	t.Parallel()
	got, err := parseProperties([]byte("a:b\tlocal\tx\ty\n"), []string{"a:b"})
	require.NoError(t, err)
	assert.Equal(t, map[string]Property{"a:b": {"x\ty", SourceLocal}}, got)
	ds, err := parseDatasets([]byte("tank\tfilesystem\t1\t2\t3\t-\tno\toff\t-\toff\t-\t-\t/mnt/a\tb\n"))
	require.NoError(t, err)
	assert.Equal(t, "/mnt/a\tb", ds[0].Mountpoint)
}

func TestHoldTimesInSecondsAreRead(t *testing.T) {
	t.Parallel()
	got, err := parseHolds([]byte("tank@s\tt\t1795218541\n"))
	require.NoError(t, err)
	assert.Equal(t, []Hold{{"tank@s", "t", unix(1795218541)}}, got)
}

func FuzzParsers(f *testing.F) {
	for _, out := range fixtures(f, "outputs.txt") {
		f.Add(out)
	}
	f.Fuzz(func(t *testing.T, out string) {
		b := []byte(out)
		_, _ = parseRelease(b)
		_, _ = parsePools(b)
		_, _ = parseDatasets(b)
		_, _ = parseHolds(b)
		_, _ = parseEstimate(b, true)
		_, _ = parseGUIDs(b, 1)
		if taken, err := parseTaken(b, []string{"nas/x@1"}); err == nil && len(taken) > 1 {
			t.Errorf("%q gives %v", out, taken)
		}
		vs, err := parseVersions(b)
		for i, v := range vs {
			if err == nil && i > 0 && vs[i-1].CreateTXG > v.CreateTXG {
				t.Error("versions are not in order")
			}
		}
		props, err := parseProperties(b, []string{"a:b"})
		if err == nil && (len(props) != 1 || strings.Contains(props["a:b"].Value, "\n")) {
			t.Errorf("%q gives %v", out, props)
		}
	})
}
