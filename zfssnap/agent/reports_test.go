package agent_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
)

const drillRun = "wordpress-drill-20260102-030405"

func reportOf(plan, run, content string, at time.Time) *agentpb.KeepReportRequest {
	return &agentpb.KeepReportRequest{Plan: plan, Run: run, AtUnixMs: at.UnixMilli(), Content: []byte(content)}
}

// reports names what an agent lists of a plan.
func reports(t *testing.T, c *agent.Client, plan string) []string {
	t.Helper()
	resp, err := c.ListReports(t.Context(), &agentpb.ListReportsRequest{Plan: plan})
	require.NoError(t, err)
	names := []string{}
	for _, r := range resp.GetReports() {
		content, err := c.GetReport(t.Context(), &agentpb.GetReportRequest{Report: r})
		require.NoError(t, err)
		names = append(names, r.GetArchive()+" "+r.GetPlan()+" "+r.GetRun()+" "+string(content.GetContent()))
	}
	return names
}

func TestReports(t *testing.T) {
	t.Parallel()
	w, dir := archiveWorld(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, int(678*time.Millisecond), time.UTC)
	stopped := reportOf("wordpress", drillRun, `{"phase":"Running"}`, at)
	for _, c := range []*agent.Client{w.far, w.client, w.far} {
		resp, err := c.KeepReport(t.Context(), stopped)
		require.NoError(t, err)
		assert.Equal(t, []string{"offsite"}, resp.GetArchives())
	}
	_, err := w.far.KeepReport(t.Context(), reportOf("wordpress", drillRun, `{"phase":"Passed"}`, at.Add(time.Minute)))
	require.NoError(t, err)
	_, err = w.far.KeepReport(t.Context(), reportOf("shop", "shop-1", `{}`, at))
	require.NoError(t, err)

	assert.Equal(t, []string{"offsite wordpress " + drillRun + ` {"phase":"Running"}`, "offsite wordpress " + drillRun + ` {"phase":"Passed"}`},
		reports(t, w.client, "wordpress"), "either agent reads what either has kept, and each once")
	assert.Len(t, reports(t, w.client, ""), 3)
	files, err := filepath.Glob(filepath.Join(dir, "reports/wordpress", drillRun, "20260102-030*.json"))
	require.NoError(t, err)
	assert.Len(t, files, 2)
}

func TestReports_whatIsRefused(t *testing.T) {
	t.Parallel()
	w, dir := archiveWorld(t)
	at := time.Now()
	tests := []struct {
		name string
		do   func(ctx context.Context, c *agent.Client) error
		want error
	}{
		{"a run that leads elsewhere", func(ctx context.Context, c *agent.Client) error {
			_, err := c.KeepReport(ctx, reportOf("wordpress", "../../points/1", "{}", at))
			return err
		}, archive.ErrInvalid},
		{"reading what is no report", func(ctx context.Context, c *agent.Client) error {
			sum := fmt.Sprintf("%064d", 0)
			_, err := c.GetReport(ctx, &agentpb.GetReportRequest{Report: &agentpb.Report{Archive: "offsite", Plan: "..", Run: "..", AtUnixMs: at.UnixMilli(), Sha256: sum}})
			return err
		}, archive.ErrInvalid},
		{"a sum that is none", func(ctx context.Context, c *agent.Client) error {
			_, err := c.GetReport(ctx, &agentpb.GetReportRequest{Report: &agentpb.Report{Archive: "offsite", Plan: "p", Run: "r", Sha256: "x"}})
			return err
		}, agent.ErrInvalid},
		{"one that is not there", func(ctx context.Context, c *agent.Client) error {
			_, err := c.GetReport(ctx, &agentpb.GetReportRequest{Report: &agentpb.Report{Archive: "offsite", Plan: "p", Run: "r", AtUnixMs: at.UnixMilli(), Sha256: fmt.Sprintf("%064d", 0)}})
			return err
		}, agent.ErrNotFound},
		{"an archive that is not there", func(ctx context.Context, c *agent.Client) error {
			req := reportOf("wordpress", "r", "{}", at)
			req.Archive = "elsewhere"
			_, err := c.KeepReport(ctx, req)
			return err
		}, agent.ErrNoArchive},
	}
	for _, tt := range tests {
		require.ErrorIs(t, tt.do(t.Context(), w.far), tt.want, tt.name)
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		assert.Equal(t, ".tmp", e.Name(), "nothing was written")
	}
}

func TestReports_withoutAnArchive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.dial(t, w.remote, "stranger").KeepReport(t.Context(), reportOf("wordpress", "r", "{}", time.Now()))
	require.ErrorIs(t, err, agent.ErrNoArchive, "whoever asks")
	_, err = w.far.ListReports(t.Context(), &agentpb.ListReportsRequest{})
	require.ErrorIs(t, err, agent.ErrNoArchive)
	var hinter interface{ Hint() string }
	require.ErrorAs(t, err, &hinter)
	assert.Equal(t, "start the agent of node remote with --archive=NAME=FILE", hinter.Hint())
}

// TestReports_inEachArchive: what one archive can't keep, the other does.
func TestReports_inEachArchive(t *testing.T) {
	t.Parallel()
	w, _ := archiveWorld(t)
	id, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	require.NoError(t, os.WriteFile(key, []byte(id.String()+"\n"), 0o600))
	sealed := filepath.Join(dir, "sealed")
	require.NoError(t, os.Mkdir(sealed, 0o700))
	config, err := archive.ParseConfig(fmt.Appendf(nil, "{type: FILESYSTEM, config: {directory: %s}, recipients: [%s], identity_file: %s}", sealed, id.Recipient(), key))
	require.NoError(t, err)
	blind := *config
	blind.IdentityFile = ""
	archives := w.remote.server.Archives
	w.remote.restart(t, func(s *agent.Server) {
		s.Archives = map[string]*archive.Config{"offsite": archives["offsite"], "sealed": config, "blind": &blind}
	})
	c := w.dial(t, w.remote, "velero")
	resp, err := c.KeepReport(t.Context(), reportOf("wordpress", "r1", `{"phase":"Passed"}`, time.Now()))
	require.NoError(t, err)
	assert.Equal(t, []string{"blind", "offsite", "sealed"}, resp.GetArchives())
	kept, err := filepath.Glob(filepath.Join(sealed, "reports/wordpress/r1/*.json.age"))
	require.NoError(t, err)
	require.Len(t, kept, 1)
	content, err := os.ReadFile(kept[0])
	require.NoError(t, err)
	assert.NotContains(t, string(content), "Passed", "it is encrypted")

	listed, err := c.ListReports(t.Context(), &agentpb.ListReportsRequest{Archive: "sealed"})
	require.NoError(t, err)
	require.Len(t, listed.GetReports(), 1)
	r := listed.GetReports()[0]
	got, err := c.GetReport(t.Context(), &agentpb.GetReportRequest{Report: r})
	require.NoError(t, err)
	assert.JSONEq(t, `{"phase":"Passed"}`, string(got.GetContent()))
	r.Archive = "blind"
	_, err = c.GetReport(t.Context(), &agentpb.GetReportRequest{Report: r})
	require.ErrorIs(t, err, archive.ErrSealed)

	require.NoError(t, os.Rename(sealed, sealed+".away"))
	_, err = c.KeepReport(t.Context(), reportOf("wordpress", "r2", `{}`, time.Now()))
	require.ErrorIs(t, err, agent.ErrArchive)
	assert.Contains(t, reports(t, w.client, "wordpress"), "offsite wordpress r2 {}")
}

// TestReports_policy: the prefixes of the verb are plans.
func TestReports_policy(t *testing.T) {
	t.Parallel()
	w, _ := archiveWorld(t)
	archives := w.remote.server.Archives
	w.remote.policy.Identities = append(w.remote.policy.Identities,
		agent.Grant{Name: "shopkeeper", Verbs: []agent.Verb{agent.Report}, Prefixes: []string{"shop"}},
		agent.Grant{Name: "reader", Verbs: []agent.Verb{agent.Read, agent.Archive}, Prefixes: []string{"*"}})
	w.remote.restart(t, func(s *agent.Server) { s.Archives = archives })
	all, shopkeeper := w.dial(t, w.remote, "velero"), w.dial(t, w.remote, "shopkeeper")
	for _, plan := range []string{"shop", "shop-2", "wordpress"} {
		_, err := all.KeepReport(t.Context(), reportOf(plan, plan+"-1", "{}", time.Now()))
		require.NoError(t, err)
	}
	_, err := shopkeeper.KeepReport(t.Context(), reportOf("shop", "shop-2", "{}", time.Now()))
	require.NoError(t, err)
	assert.Equal(t, []string{"offsite shop shop-1 {}", "offsite shop shop-2 {}"}, reports(t, shopkeeper, ""))
	_, err = shopkeeper.KeepReport(t.Context(), reportOf("wordpress", "r", "{}", time.Now()))
	require.ErrorIs(t, err, agent.ErrDenied)
	assert.ErrorContains(t, err, `identity "shopkeeper" has not the verb "report" on plan "wordpress"`)
	_, err = shopkeeper.ListReports(t.Context(), &agentpb.ListReportsRequest{Plan: "wordpress"})
	require.ErrorIs(t, err, agent.ErrDenied)
	_, err = shopkeeper.GetReport(t.Context(), &agentpb.GetReportRequest{Report: &agentpb.Report{Archive: "offsite", Plan: "wordpress", Run: "wordpress-1"}})
	require.ErrorIs(t, err, agent.ErrDenied)
	_, err = w.dial(t, w.remote, "reader").ListReports(t.Context(), &agentpb.ListReportsRequest{})
	assert.ErrorIs(t, err, agent.ErrDenied, "other verbs do not do")
}

// TestExamplePolicies_reports: who the examples let keep reports.
func TestExamplePolicies_reports(t *testing.T) {
	t.Parallel()
	w := exampleWorld(t)
	archives := directoryArchive(t, t.TempDir())
	for _, h := range []*host{w.hassio, w.remote} {
		h.restart(t, func(s *agent.Server) { s.Archives = archives })
		for identity, may := range map[string]bool{"kubectl-dr": true, "velero": true, "hassio": false, "remote": false, "stranger": false} {
			_, err := w.dial(t, h, identity).KeepReport(t.Context(), reportOf("wordpress", "r", "{}", time.Now()))
			if may {
				require.NoError(t, err, "%s on %s", identity, h.node)
				continue
			}
			require.ErrorIs(t, err, agent.ErrDenied, "%s on %s", identity, h.node)
		}
	}
}
