package replicate

import (
	"context"
	"io"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

// target is an agent that takes any stream and answers as a test likes.
type target struct {
	agentpb.AgentClient
	state  *agentpb.ReceiveStateResponse
	answer func(h *agentpb.ReceiveHeader, bytes uint64) *agentpb.ReceiveResponse
}

func (t *target) ReceiveState(context.Context, *agentpb.ReceiveStateRequest, ...grpc.CallOption) (*agentpb.ReceiveStateResponse, error) {
	return t.state, nil
}

func (t *target) Receive(context.Context, ...grpc.CallOption) (grpc.ClientStreamingClient[agentpb.ReceiveRequest, agentpb.ReceiveResponse], error) {
	return &stream{target: t}, nil
}

type stream struct {
	grpc.ClientStream
	target *target
	header *agentpb.ReceiveHeader
	bytes  uint64
}

func (s *stream) Send(m *agentpb.ReceiveRequest) error {
	if h := m.GetHeader(); h != nil {
		s.header = h
	}
	return nil
}

// SendMsg takes data, which passes without being made a message of.
func (s *stream) SendMsg(m any) error {
	buffer := m.(*agentpb.Data).Buffer
	defer buffer.Free()
	s.bytes += uint64(buffer.Len())
	return nil
}

func (s *stream) CloseAndRecv() (*agentpb.ReceiveResponse, error) {
	return s.target.answer(s.header, s.bytes), nil
}

type silent struct{}

func (silent) Step(string, uint64, bool) {}
func (silent) Sent(int)                  {}

func TestRun_believesOnlyAnAnswerThatFits(t *testing.T) {
	t.Parallel()
	pool := zfstest.NewPool()
	c := &zfs.Client{Runner: pool}
	require.NoError(t, c.Create(t.Context(), "tank/a", zfs.CreateOptions{}))
	require.NoError(t, c.Snapshot(t.Context(), []string{"tank/a@one"}, nil))
	v, err := c.Lookup(t.Context(), "tank/a@one")
	require.NoError(t, err)
	tests := []struct {
		name   string
		answer func(h *agentpb.ReceiveHeader, bytes uint64) *agentpb.ReceiveResponse
		says   string
	}{
		{"fewer bytes", func(h *agentpb.ReceiveHeader, bytes uint64) *agentpb.ReceiveResponse {
			return &agentpb.ReceiveResponse{Bytes: bytes - 1, Snapshot: &agentpb.Version{Guid: h.GetGuid()}}
		}, "bytes were sent and"},
		{"another snapshot", func(h *agentpb.ReceiveHeader, bytes uint64) *agentpb.ReceiveResponse {
			return &agentpb.ReceiveResponse{Bytes: bytes, Snapshot: &agentpb.Version{Guid: h.GetGuid() + 1}}
		}, "the target reports guid"},
		{"no snapshot", func(_ *agentpb.ReceiveHeader, bytes uint64) *agentpb.ReceiveResponse {
			return &agentpb.ReceiveResponse{Bytes: bytes}
		}, "the target reports guid 0"},
		{"all of it", func(h *agentpb.ReceiveHeader, bytes uint64) *agentpb.ReceiveResponse {
			return &agentpb.ReceiveResponse{Bytes: bytes, Snapshot: &agentpb.Version{Guid: h.GetGuid()}}
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := Runner{
				ZFS: c, Target: &target{state: &agentpb.ReceiveStateResponse{}, answer: tt.answer},
				Progress: silent{}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
			}
			err := r.Run(t.Context(), Job{Node: "here", Dataset: "tank/a", Snapshot: "one", GUID: v.GUID, TargetNode: "there", TargetDataset: "dr/a"})
			if tt.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrIncomplete)
			assert.ErrorContains(t, err, tt.says)
		})
	}
}

func TestAttempt_looksAgainAfterALongWait(t *testing.T) {
	t.Parallel()
	for _, waited := range []bool{false, true} {
		pool := zfstest.NewPool()
		c := &zfs.Client{Runner: pool}
		require.NoError(t, c.Create(t.Context(), "tank/a", zfs.CreateOptions{}))
		require.NoError(t, c.Snapshot(t.Context(), []string{"tank/a@one"}, nil))
		v, err := c.Lookup(t.Context(), "tank/a@one")
		require.NoError(t, err)
		u, err := Runner{
			ZFS: c, Progress: silent{}, Log: slog.New(slog.DiscardHandler),
			Target: &target{state: &agentpb.ReceiveStateResponse{}, answer: func(h *agentpb.ReceiveHeader, bytes uint64) *agentpb.ReceiveResponse {
				return &agentpb.ReceiveResponse{Bytes: bytes, Snapshot: &agentpb.Version{Guid: h.GetGuid()}}
			}},
		}.Begin(t.Context(), Job{Node: "here", Dataset: "tank/a", Snapshot: "one", GUID: v.GUID, TargetNode: "there", TargetDataset: "dr/a"})
		require.NoError(t, err)
		if waited {
			u.seen = u.seen.Add(-2 * lookAge)
		}
		before := len(pool.Commands())
		require.NoError(t, u.Run(t.Context()))
		var looked bool
		for _, cmd := range pool.Commands()[before:] {
			looked = looked || cmd[1] == "list"
		}
		assert.Equal(t, waited, looked)
	}
}
