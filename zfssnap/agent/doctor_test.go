package agent_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// unwell are the findings that are not ok.
func unwell(resp *agentpb.DoctorResponse) []string {
	found := []string{}
	for _, f := range resp.GetFindings() {
		if f.GetState() != "ok" {
			found = append(found, f.GetState()+" "+f.GetName()+": "+f.GetMessage())
		}
	}
	return found
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.done(t, w.snapshot(t, "b1"))
	resp, err := w.far.Doctor(t.Context(), &agentpb.DoctorRequest{})
	require.NoError(t, err)
	assert.Empty(t, unwell(resp), "what the agent has received is as it should be")
	assert.Equal(t, "remote", resp.GetNode())
	assert.InDelta(t, time.Now().UnixMilli(), resp.GetUnixTimeMs(), 60_000)
	groups := map[string]bool{}
	for _, f := range resp.GetFindings() {
		groups[f.GetGroup()] = true
	}
	assert.Equal(t, map[string]bool{"pools": true, "zfs": true, "replicas": true, "holds": true, "host": true}, groups)

	require.NoError(t, w.remote.zfs.Set(t.Context(), replica, map[string]string{"readonly": "off"}))
	w.remote.pool.SetSize("backup", 100<<20)
	w.remote.pool.SetFree("backup", 15<<20)
	w.remote.clock.advance(2*365*24*time.Hour - 20*24*time.Hour)
	resp, err = w.far.Doctor(t.Context(), &agentpb.DoctorRequest{})
	require.NoError(t, err)
	found := unwell(resp)
	assert.Contains(t, found, "problem replica "+replica+": it is writable: the next increment is refused after a write")
	assert.Contains(t, found, "warning pool backup space: 85% used")
	assert.Contains(t, strings.Join(found, "\n"), "warning certificate of remote: valid until ")
}

func TestDoctor_looksAtWhatThePeerMayRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hassio.stop(t)
	w.hassio.policy = agent.Policy{Identities: []agent.Grant{{Name: "reader", Verbs: []agent.Verb{agent.Read}, Prefixes: []string{"znvm/k3s"}}}}
	w.hassio.start(t)
	w.hassio.pool.SetHealth("nas", "FAULTED")
	resp, err := w.dial(t, w.hassio, "reader").Doctor(t.Context(), &agentpb.DoctorRequest{})
	require.NoError(t, err)
	for _, f := range resp.GetFindings() {
		assert.NotContains(t, f.GetName(), "nas")
	}
	_, err = w.dial(t, w.hassio, "stranger").Doctor(t.Context(), &agentpb.DoctorRequest{})
	require.ErrorIs(t, err, agent.ErrDenied)
}
