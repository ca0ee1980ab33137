package agent_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

func TestParseBandwidth(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		limits []string
		want   agent.Bandwidth
		says   string
	}{
		{"none", nil, agent.Bandwidth{Targets: map[string]uint64{}}, ""},
		{"for all", []string{"50MiB"}, agent.Bandwidth{Total: 50 << 20, Targets: map[string]uint64{}}, ""},
		{"per second is meant", []string{"1.5GiB/s"}, agent.Bandwidth{Total: 3 << 29, Targets: map[string]uint64{}}, ""},
		{"decimal", []string{"10MB"}, agent.Bandwidth{Total: 10_000_000, Targets: map[string]uint64{}}, ""},
		{"for all and for targets", []string{"50MiB", "remote=10MiB", "far=64KiB"},
			agent.Bandwidth{Total: 50 << 20, Targets: map[string]uint64{"remote": 10 << 20, "far": 64 << 10}}, ""},
		{"no size", []string{"fast"}, agent.Bandwidth{}, `bandwidth limit "fast": invalid name: "fast" is no size; write it as 50MiB, or as NODE=50MiB for one target`},
		{"no size for a target", []string{"remote="}, agent.Bandwidth{}, `"" is no size`},
		{"no target", []string{"=1MiB"}, agent.Bandwidth{}, "it names no node"},
		{"too little", []string{"50"}, agent.Bandwidth{}, "the least is 16 KiB a second"},
		{"nothing", []string{"0"}, agent.Bandwidth{}, "the least is 16 KiB a second"},
		{"two for all", []string{"1MiB", "2MiB"}, agent.Bandwidth{}, `bandwidth limit "2MiB": invalid name: there is one already`},
		{"two for a target", []string{"a=1MiB", "a=2MiB"}, agent.Bandwidth{}, "there is one already"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := agent.ParseBandwidth(tt.limits)
			if tt.says != "" {
				require.ErrorIs(t, err, agent.ErrInvalid)
				require.ErrorContains(t, err, tt.says)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestReplicate_keepsToTheBandwidth(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		limit  agent.Bandwidth
		atMost float64 // bytes per second, 0 for as fast as can be
	}{
		{"of all together", agent.Bandwidth{Total: 2 << 20}, 2 << 20},
		{"of its target", agent.Bandwidth{Total: 1 << 30, Targets: map[string]uint64{"remote": 2 << 20}}, 2 << 20},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.hassio.restart(t, func(s *agent.Server) { s.Bandwidth = tt.limit })
			v := w.snapshot(t, "b1")
			start := time.Now()
			tr := w.done(t, v)
			took := time.Since(start)
			// A tenth of a second's worth passes at once.
			least := time.Duration((float64(tr.GetBytesSent())/tt.atMost - 0.1) * float64(time.Second))
			assert.GreaterOrEqual(t, took, least)
			w.requireSame(t, v)
		})
	}
}

func TestReplicate_toldWhatIsLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hassio.restart(t, func(s *agent.Server) { s.Bandwidth = agent.Bandwidth{Total: 64 << 10} })
	tr, err := w.client.Replicate(t.Context(), w.request(w.snapshot(t, "b1")))
	require.NoError(t, err)
	tr = w.until(t, tr.GetId(), func(tr *agentpb.Transfer) bool { return tr.GetRateBytesPerSecond() > 0 })
	assert.Greater(t, tr.GetEtaSeconds(), uint64(1))
	tr, err = w.client.CancelTransfer(t.Context(), &agentpb.GetTransferRequest{Id: tr.GetId()})
	require.NoError(t, err)
	assert.Equal(t, agentpb.Transfer_CANCELLED, tr.GetState(), "waiting for the limit is no obstacle")
	assert.Zero(t, tr.GetRateBytesPerSecond())
	assert.Zero(t, tr.GetEtaSeconds())
}
