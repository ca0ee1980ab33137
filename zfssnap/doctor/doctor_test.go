package doctor_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/doctor"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/holds"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

const replica = "backup/replica/a"

var begin = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)

// patient is a host in memory with a replica, all of it well.
type patient struct {
	*zfstest.Pool
	zfs    *zfs.Client
	doctor *doctor.Doctor
	clock  time.Time
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	p := &patient{Pool: zfstest.NewPool("tank", "backup"), clock: begin}
	now := func() time.Time { return p.clock }
	p.SetClock(now)
	p.SetRelease("2.4.4-1", "2.4.4-1")
	p.zfs = &zfs.Client{Runner: p.Pool}
	require.NoError(t, p.zfs.Create(t.Context(), replica, zfs.CreateOptions{Parents: true, Unmounted: true, Properties: map[string]string{
		"readonly": "on", "canmount": "noauto", names.PropManaged: "true", names.PropSource: "hassio:tank/a",
	}}))
	p.doctor = &doctor.Doctor{
		ZFS: p.zfs, Now: now, Roots: []string{""}, Timeout: time.Minute,
		Holds: &holds.Reaper{Now: now, Log: slog.New(slog.DiscardHandler)},
	}
	return p
}

// findings are those that are not ok: "state name: message".
func (p *patient) findings(t *testing.T) []string {
	t.Helper()
	found := []string{}
	for _, i := range p.examine(t) {
		if i.State == doctor.OK {
			assert.Empty(t, i.Remedy, "%s needs none", i.Name)
			continue
		}
		assert.NotEmpty(t, i.Remedy, "%s has one", i.Name)
		found = append(found, fmt.Sprintf("%s %s: %s", i.State, i.Name, i.Message))
	}
	return found
}

func (p *patient) examine(t *testing.T) []doctor.Item {
	t.Helper()
	groups, err := p.doctor.Examine(t.Context())
	require.NoError(t, err)
	var items []doctor.Item
	for _, g := range groups {
		items = append(items, g.Items...)
	}
	return items
}

func TestExamine_finds(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		arrange func(ctx context.Context, t *testing.T, p *patient)
		want    []string
	}{
		{"nothing on a host that is well", func(context.Context, *testing.T, *patient) {}, []string{}},

		{"an old release", func(_ context.Context, _ *testing.T, p *patient) { p.SetRelease("2.0.7-1", "2.0.7-1") }, []string{
			"problem release: OpenZFS 2.0.7-1 is older than 2.1.0",
			"problem defect #15526: files copied while they are written get chunks of zeros, and snapshots keep them: https://github.com/openzfs/zfs/issues/15526",
		}},
		{"tools and module of different releases", func(_ context.Context, _ *testing.T, p *patient) { p.SetRelease("2.4.4-1", "2.3.9-1") },
			[]string{"warning release: the tools are of 2.4.4-1, the kernel module is of 2.3.9-1"}},
		{"a release that says nothing", func(_ context.Context, _ *testing.T, p *patient) { p.SetRelease("master", "master") },
			[]string{`warning release: "master" is not a version that could be compared with what is known`}},
		{"what a feature in use brings along", func(_ context.Context, _ *testing.T, p *patient) {
			p.SetRelease("2.2.11-1", "2.2.11-1")
			p.SetFeature("tank", "block_cloning", "active")
		}, []string{"problem defect #18412: a block cloned over a fresh truncation reads as zeros, and what is copied from it is wrong: https://github.com/openzfs/zfs/issues/18412"}},
		{"not what a feature brings along that is not in use", func(_ context.Context, _ *testing.T, p *patient) {
			p.SetRelease("2.2.11-1", "2.2.11-1")
			p.SetFeature("tank", "block_cloning", "enabled")
		}, []string{}},
		{"what every release has with encryption", func(_ context.Context, _ *testing.T, p *patient) { p.SetFeature("tank", "encryption", "active") }, []string{
			"warning defect #12123: zfs change-key -i on a raw replica makes it unmountable with the next increment: https://github.com/openzfs/zfs/issues/12123",
			"warning defect #12594: sending an encrypted dataset raw back to where it came from may damage it: https://github.com/openzfs/zfs/issues/12594",
		}},
		{"permissions that can't be delegated, where they have to be", func(_ context.Context, _ *testing.T, p *patient) {
			p.SetRelease("2.1.15", "2.1.15")
			p.doctor.Delegated = true
		}, []string{
			"warning permission receive:append: OpenZFS 2.1.15 is not known to have it; it lets a receiver append and never roll back",
			"warning permission send:raw: OpenZFS 2.1.15 is not known to have it; it lets a sender send encrypted datasets without reading them",
		}},

		{"a degraded pool", func(_ context.Context, _ *testing.T, p *patient) { p.SetHealth("tank", "DEGRADED") }, []string{"warning pool tank: DEGRADED"}},
		{"a faulted pool", func(_ context.Context, _ *testing.T, p *patient) { p.SetHealth("tank", "FAULTED") }, []string{"problem pool tank: FAULTED"}},
		{"a pool that is 80 % full", func(_ context.Context, _ *testing.T, p *patient) {
			p.SetSize("tank", 1000)
			p.SetFree("tank", 200)
		}, []string{"warning pool tank space: 80% used"}},
		{"a pool that is 90 % full", func(_ context.Context, _ *testing.T, p *patient) {
			p.SetSize("tank", 1000)
			p.SetFree("tank", 100)
		}, []string{"problem pool tank space: 90% used"}},
		{"not a pool that is 79 % full", func(_ context.Context, _ *testing.T, p *patient) {
			p.SetSize("tank", 1000)
			p.SetFree("tank", 210)
		}, []string{}},
		{"features that are not enabled", func(_ context.Context, _ *testing.T, p *patient) {
			p.SetFeature("backup", "bookmark_v2", "disabled")
			p.SetFeature("backup", "large_blocks", "disabled")
			p.SetFeature("backup", "zstd_compress", "")
		}, []string{
			"problem pool backup feature large_blocks: it is not enabled: streams of datasets with a recordsize above 128K can't be received",
			"warning pool backup feature bookmark_v2: it is not enabled: increments of encrypted datasets can't start from a bookmark",
			"warning pool backup feature zstd_compress: it is not enabled: streams of datasets with compression=zstd can't be received",
		}},
		{"a suspended pool, and asks it nothing", func(_ context.Context, t *testing.T, p *patient) {
			p.doctor.PoolStates = func() map[string]string { return map[string]string{"tank": "SUSPENDED", "backup": "ONLINE"} }
			p.SetSuspended("tank", true)
			p.Before(func(args []string) error {
				assert.NotContains(t, args, "tank")
				return nil
			})
		}, []string{"problem pool tank: SUSPENDED: every write to it hangs"}},
		{"a suspended pool without the kernel's word", func(_ context.Context, _ *testing.T, p *patient) { p.SetSuspended("tank", true) },
			[]string{"problem pool tank: SUSPENDED: every write to it hangs"}},
		{"a pool that hangs, once", func(_ context.Context, _ *testing.T, p *patient) {
			p.doctor.Timeout = 20 * time.Millisecond
			p.SetHanging("tank", true)
		}, []string{"problem pool tank features: a command has not ended within 20ms: zfs hangs"}},
		{"zfs that does not run", func(_ context.Context, _ *testing.T, p *patient) {
			p.Before(func([]string) error { return errors.New("exec: zfs: not found") })
		}, []string{"problem pools: zpool list: exec: zfs: not found", "problem release: zfs version: exec: zfs: not found"}},
		{"a pool that is not imported", func(_ context.Context, _ *testing.T, p *patient) { p.doctor.Roots = []string{"nas/k3s", "tank"} },
			[]string{"problem pool nas: it is not imported"}},
		{"nothing in a prefix that holds nothing yet", func(_ context.Context, _ *testing.T, p *patient) { p.doctor.Roots = []string{"tank/k3s"} }, []string{}},

		{"a writable replica", func(ctx context.Context, t *testing.T, p *patient) {
			require.NoError(t, p.zfs.Set(ctx, replica, map[string]string{"readonly": "off"}))
		}, []string{"problem replica backup/replica/a: it is writable: the next increment is refused after a write"}},
		{"a mounted replica", func(_ context.Context, _ *testing.T, p *patient) { p.SetMounted(replica, true) },
			[]string{"problem replica backup/replica/a: it is mounted: what is written there parts it from its source"}},
		{"a replica that will be mounted", func(ctx context.Context, t *testing.T, p *patient) {
			require.NoError(t, p.zfs.Set(ctx, replica, map[string]string{"canmount": "on"}))
			p.SetMounted(replica, false)
		}, []string{"warning replica backup/replica/a: canmount is on: it is mounted at the next boot"}},
		{"the replica of a volume that has a device", func(ctx context.Context, t *testing.T, p *patient) {
			require.NoError(t, p.zfs.Create(ctx, "backup/replica/v", zfs.CreateOptions{VolumeSize: 1 << 20, Sparse: true, Properties: map[string]string{
				"readonly": "on", names.PropSource: "hassio:tank/v",
			}}))
		}, []string{"warning replica backup/replica/v: volmode is default: its device can be opened"}},
		{"an interrupted receive that is old", func(ctx context.Context, t *testing.T, p *patient) {
			p.interrupt(ctx, t)
			p.clock = p.clock.Add(80 * time.Hour)
		}, []string{"warning interrupted receive into backup/replica/new: begun 3 days ago and not gone on with"}},
		{"not an interrupted receive that is fresh", func(ctx context.Context, t *testing.T, p *patient) { p.interrupt(ctx, t) }, []string{}},

		{"a dead hold that nobody reaps", func(ctx context.Context, t *testing.T, p *patient) {
			p.hold(ctx, t, "tank/x@s", "kubectl-dr:run:r", holds.Record{By: "me", Owner: "run/r", Until: begin.Add(time.Hour)})
			p.clock = p.clock.Add(26 * time.Hour)
		}, []string{"warning dead holds: dead since more than a day: 1, tank/x@s (kubectl-dr:run:r)"}},
		{"holds of which nobody knows why", func(ctx context.Context, t *testing.T, p *patient) {
			for i := range 5 {
				p.hold(ctx, t, fmt.Sprintf("tank/x%d@s", i), "kubectl-dr:x", holds.Record{})
				require.NoError(t, p.zfs.Inherit(ctx, fmt.Sprintf("tank/x%d@s", i), names.PropHold+"x"))
			}
			p.clock = p.clock.Add(time.Hour)
		}, []string{"warning orphan holds: orphan and never released by themselves: 5, tank/x0@s (kubectl-dr:x), tank/x1@s (kubectl-dr:x), tank/x2@s (kubectl-dr:x) and 2 more"}},
		{"a replica that nothing is sent to", func(ctx context.Context, t *testing.T, p *patient) {
			p.hold(ctx, t, "tank/x@s", "kubectl-dr:replication", holds.Record{})
			target := holds.Target{Node: "remote", Dataset: "dr/x", By: "hassio"}
			require.NoError(t, p.zfs.Set(ctx, "tank/x", map[string]string{target.Property(): target.Encode()}))
			require.NoError(t, p.zfs.Bookmark(ctx, "tank/x@s", "tank/x#kubectl-dr_"+strings.TrimPrefix(target.Property(), names.PropTarget)+"_1"))
			p.clock = p.clock.Add(31 * 24 * time.Hour)
		}, []string{"warning idle holds: idle for more than 30 days: 1, tank/x@s (kubectl-dr:replication) for remote:dr/x"}},
		{"not a backup's hold, however old", func(ctx context.Context, t *testing.T, p *patient) {
			p.hold(ctx, t, "tank/x@s", "kubectl-dr:backup", holds.Record{By: "velero", Owner: "backup/b"})
			p.clock = p.clock.Add(365 * 24 * time.Hour)
		}, []string{}},

		{"a clock that nobody sets", func(_ context.Context, _ *testing.T, p *patient) {
			p.doctor.Synchronized = func() (bool, error) { return false, nil }
		}, []string{"warning clock: no time server disciplines it"}},
		{"a certificate that expires soon", func(_ context.Context, t *testing.T, p *patient) {
			p.certificates(t, begin.Add(-2*365*24*time.Hour+20*24*time.Hour))
		}, []string{"warning certificate of remote: valid until 2026-01-22, 20 days left"}},
		{"a certificate that expires very soon", func(_ context.Context, t *testing.T, p *patient) {
			p.certificates(t, begin.Add(-2*365*24*time.Hour+5*24*time.Hour))
		}, []string{"problem certificate of remote: valid until 2026-01-07, 5 days left"}},
		{"certificates that have expired", func(_ context.Context, t *testing.T, p *patient) {
			p.certificates(t, begin.Add(-11*365*24*time.Hour))
		}, []string{"problem certificate of remote: expired 2017-01-04", "problem authority kubectl-dr: expired 2025-01-02"}},
		{"a clock before the certificate's time", func(_ context.Context, t *testing.T, p *patient) { p.certificates(t, begin.Add(2*time.Hour)) },
			[]string{"problem certificate of remote: not valid before 2026-01-02T04:04:00Z", "problem authority kubectl-dr: not valid before 2026-01-02T04:04:00Z"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			tt.arrange(t.Context(), t, p)
			assert.ElementsMatch(t, tt.want, p.findings(t))
		})
	}
}

// hold makes a dataset with a snapshot that is held.
func (p *patient) hold(ctx context.Context, t *testing.T, snapshot, tag string, r holds.Record) {
	t.Helper()
	dataset, _, _ := zfs.SplitVersion(snapshot)
	require.NoError(t, p.zfs.Create(ctx, dataset, zfs.CreateOptions{}))
	require.NoError(t, p.zfs.Snapshot(ctx, []string{snapshot}, nil))
	prop, ok := holds.RecordProperty(tag)
	require.True(t, ok)
	require.NoError(t, p.zfs.Set(ctx, snapshot, map[string]string{prop: r.Encode()}))
	require.NoError(t, p.zfs.Hold(ctx, tag, snapshot))
}

// interrupt leaves an interrupted receive.
func (p *patient) interrupt(ctx context.Context, t *testing.T) {
	t.Helper()
	require.NoError(t, p.Write("tank", "f", make([]byte, 1<<20)))
	require.NoError(t, p.zfs.Snapshot(ctx, []string{"tank@s"}, nil))
	var stream strings.Builder
	require.NoError(t, p.zfs.Send(ctx, zfs.SendOptions{To: "tank@s"}, &stream))
	err := p.zfs.Receive(ctx, zfs.ReceiveOptions{Target: "backup/replica/new@s", Resumable: true, Unmounted: true}, strings.NewReader(stream.String()[:stream.Len()/2]))
	require.ErrorIs(t, err, zfs.ErrIncomplete)
}

func (p *patient) certificates(t *testing.T, issued time.Time) {
	t.Helper()
	ca, err := agent.NewAuthority(issued)
	require.NoError(t, err)
	pem, err := ca.Node("remote", issued)
	require.NoError(t, err)
	bundle, err := agent.ParseBundle(pem)
	require.NoError(t, err)
	p.doctor.Certificates = bundle.Certificates()
}

func TestExamine_looksAtWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	require.NoError(t, p.zfs.Set(t.Context(), replica, map[string]string{"readonly": "off"}))
	p.SetHealth("backup", "DEGRADED")
	p.doctor.Roots = []string{"tank"}
	assert.Empty(t, p.findings(t))
	for _, i := range p.examine(t) {
		assert.NotContains(t, i.Name, "backup")
	}
}

func TestExamine_endsWithItsContext(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	ctx, cancel := context.WithCancel(t.Context())
	p.Before(func([]string) error {
		cancel()
		return nil
	})
	_, err := p.doctor.Examine(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

func TestExamine_tellsWhatIsKeptClearOf(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.SetRelease("2.1.11-1+deb12u1", "2.1.11-1+deb12u1")
	p.SetFeature("tank", "encryption", "active")
	i := slices.IndexFunc(p.examine(t), func(i doctor.Item) bool { return i.Name == "known defects" })
	require.GreaterOrEqual(t, i, 0)
	assert.Contains(t, p.examine(t)[i].Message, "#12014 (encrypted datasets are sent raw)")
	assert.NotContains(t, strings.Join(p.findings(t), "\n"), "#15526", "Debian's package has the fix")
	p.SetRelease("2.1.11-1", "2.1.11-1")
	assert.Contains(t, strings.Join(p.findings(t), "\n"), "#15526")
}

// TestDefects_areWellFormed keeps the table usable: it is data.
func TestDefects_areWellFormed(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, d := range doctor.Defects {
		assert.False(t, seen[d.ID], "%s is listed twice", d.ID)
		seen[d.ID] = true
		assert.NotEmpty(t, d.Title)
		assert.Contains(t, []doctor.State{doctor.Warning, doctor.Problem}, d.Severity, d.ID)
		assert.NotEmpty(t, d.Affected, d.ID)
		assert.NotEqual(t, d.Advice == "", d.Avoided == "", "%s has either an advice or how it is avoided", d.ID)
		link, err := url.Parse(d.Link)
		require.NoError(t, err)
		assert.Equal(t, "github.com", link.Host, d.ID)
		assert.True(t, strings.HasSuffix(d.Link, "/"+d.ID), d.Link)
		for _, r := range d.Affected {
			for _, version := range []string{r.From, r.Before} {
				assert.Regexp(t, `^(\d+\.\d+\.\d+)?$`, version, d.ID)
			}
		}
	}
	for _, f := range doctor.Features {
		assert.Regexp(t, `^[a-z0-9_]+$`, f.Name)
		assert.NotEmpty(t, f.Without)
	}
}

func TestBundle_listsItsCertificates(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.certificates(t, begin)
	require.Len(t, p.doctor.Certificates, 2)
	assert.Equal(t, "remote", p.doctor.Certificates[0].Subject.CommonName)
	assert.True(t, slices.ContainsFunc(p.doctor.Certificates, func(c *x509.Certificate) bool { return c.IsCA }))
}

func TestExamine_givesEachCommandItsTime(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	require.NoError(t, p.zfs.Snapshot(t.Context(), []string{replica + "@a"}, nil))
	require.NoError(t, p.zfs.Hold(t.Context(), "kubectl-dr:replica", replica+"@a"))
	times := &deadlines{Runner: p.Pool, seen: map[time.Time][]string{}}
	p.doctor.ZFS = &zfs.Client{Runner: times}
	p.examine(t)
	assert.Greater(t, len(times.seen), 10)
	for _, commands := range times.seen {
		assert.Len(t, commands, 1, "these had to share")
	}
}

// deadlines notes when commands have to have ended.
type deadlines struct {
	zfs.Runner
	mu   sync.Mutex
	seen map[time.Time][]string
}

func (d *deadlines) Run(ctx context.Context, c zfs.Cmd) (zfs.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	until, ok := ctx.Deadline()
	if !ok {
		return zfs.Result{}, errors.New("it has no deadline")
	}
	d.seen[until] = append(d.seen[until], strings.Join(c.Args, " "))
	return d.Runner.Run(ctx, c)
}
