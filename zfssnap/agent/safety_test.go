package agent_test

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// sends are the flags and names of all streams that a host has sent.
func (h *host) sends() [][]string {
	var sends [][]string
	for _, c := range h.pool.Commands() {
		if c[1] == "send" && !slices.Contains(c, "-n") {
			sends = append(sends, c[2:])
		}
	}
	return sends
}

// take takes a snapshot of any dataset of hassio.
func (w *world) take(t *testing.T, dataset, name string) *agentpb.Version {
	t.Helper()
	resp, err := w.client.CreateSnapshots(t.Context(), &agentpb.CreateSnapshotsRequest{Datasets: []string{dataset}, Name: name})
	require.NoError(t, err)
	return resp.GetSnapshots()[0]
}

// secret makes an encrypted dataset on a host.
func (h *host) secret(t *testing.T, dataset string) {
	t.Helper()
	require.NoError(t, h.zfs.Create(t.Context(), dataset, zfs.CreateOptions{Parents: true, Properties: map[string]string{
		"encryption": "on", "keyformat": "raw", "keylocation": "file:///etc/key",
	}}))
}

func TestStreamMode_isRecordedAndKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hassio.secret(t, "znvm/secret")
	w.remote.secret(t, "backup/replica/vault")
	tests := []struct{ name, source, target, mode string }{
		{"plain", source, replica, "Lce"},
		{"raw", "znvm/secret", "backup/replica/znvm/secret", "w"},
		{"plain below an encrypted dataset", source, "backup/replica/vault/pvc-1", "Lc"},
		{"raw below an encrypted dataset", "znvm/secret", "backup/replica/vault/secret", "w"},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := len(w.hassio.sends())
			for _, name := range []string{"one", "two"} {
				require.NoError(t, w.hassio.pool.Write(tt.source, name, random(1000)))
				req := w.request(w.take(t, tt.source, fmt.Sprint(name, i)))
				req.TargetDataset = tt.target
				require.NoError(t, agent.TransferError(w.replicateAs(t, req)))
			}
			assert.Equal(t, tt.mode, w.remote.props(t, tt.target)[zfssnap.PropStream])
			flags := map[string][]string{"Lce": {"-L", "-c", "-e"}, "Lc": {"-L", "-c"}, "w": {"-w"}}[tt.mode]
			sends := w.hassio.sends()[before:]
			require.Len(t, sends, 2)
			assert.Equal(t, flags, sends[0][:len(sends[0])-1])
			assert.Equal(t, flags, sends[1][:len(sends[1])-3])
		})
	}
}

func TestStreamMode_aFlipIsRefusedByTheSender(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.done(t, w.snapshot(t, "b1"))
	require.NoError(t, w.remote.zfs.Set(t.Context(), replica, map[string]string{zfssnap.PropStream: "w"}))
	names, sends := w.remote.pool.Names(), w.hassio.sends()

	tr := w.replicate(t, w.snapshot(t, "b2"))
	require.ErrorIs(t, agent.TransferError(tr), agent.ErrStreamMode)
	assert.Equal(t, "STREAM_MODE", tr.GetReason())
	assert.Contains(t, tr.GetError(), "was received from zfs send -w, and "+source+" would be sent with -Lce")
	assert.Contains(t, tr.GetError(), "rename "+replica+" out of the way")
	assert.Equal(t, names, w.remote.pool.Names())
	assert.Equal(t, sends, w.hassio.sends(), "nothing was sent")

	_, err := w.far.SetProperties(t.Context(), &agentpb.SetPropertiesRequest{Dataset: replica, Properties: map[string]string{zfssnap.PropStream: "Lce"}})
	require.ErrorIs(t, err, agent.ErrInvalid, "the record is the agent's alone")
}

func TestStreamMode_aFlipIsRefusedByTheReceiver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.done(t, w.snapshot(t, "b1"))
	names := w.remote.pool.Names()
	for mode, want := range map[string]error{"w": agent.ErrStreamMode, "Lc": agent.ErrStreamMode, "": agent.ErrInvalid, "Lcew": agent.ErrInvalid} {
		err := w.receive(t, "hassio", header(func(h *agentpb.ReceiveHeader) { h.StreamMode = mode }), data("x"), end(1))
		require.ErrorIs(t, err, want, "mode %q", mode)
		if want == agent.ErrStreamMode {
			assert.Contains(t, hint(t, err), "rename "+replica)
		}
	}
	assert.Equal(t, names, w.remote.pool.Names())
}

func TestStreamMode_aChangedKeyOnTheTargetIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hassio.secret(t, "znvm/secret")
	w.remote.secret(t, "backup/vault")
	w.done(t, w.take(t, "znvm/secret", "one"))
	const copied = "backup/replica/znvm/secret"
	w.remote.pool.SetKeyRoot(copied, "backup/vault")
	tr := w.replicate(t, w.take(t, "znvm/secret", "two"))
	require.ErrorIs(t, agent.TransferError(tr), agent.ErrStreamMode)
	assert.Contains(t, tr.GetError(), "zfs change-key")
	assert.NotContains(t, w.remote.pool.Names(), copied+"@two")
	w.remote.pool.SetKeyRoot(copied, copied)
	w.hassio.clock.advance(time.Hour)
	w.done(t, w.take(t, "znvm/secret", "two"))
}

func TestReceive_aForeignInterruptedReceiveIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.snapshot(t, "b1")
	var stream bytes.Buffer
	require.NoError(t, w.hassio.zfs.Send(t.Context(), zfs.SendOptions{To: source + "@dr-b1", LargeBlock: true, Compressed: true}, &stream))
	require.NoError(t, w.remote.zfs.Create(t.Context(), zfs.Parent(replica), zfs.CreateOptions{Parents: true}))
	err := w.remote.zfs.Receive(t.Context(), zfs.ReceiveOptions{Target: replica, Resumable: true, Unmounted: true}, bytes.NewReader(stream.Bytes()[:512<<10]))
	require.ErrorIs(t, err, zfs.ErrIncomplete)
	before, err := w.remote.zfs.Dataset(t.Context(), replica)
	require.NoError(t, err)

	require.ErrorIs(t, agent.TransferError(w.replicate(t, v)), agent.ErrForeign)
	after, err := w.remote.zfs.Dataset(t.Context(), replica)
	require.NoError(t, err)
	assert.Equal(t, before, after)
	assert.NotContains(t, flat(w.remote.pool.Commands()), "receive -A")
}

func TestReceive_whatIsNotSafeIsAFailedTransfer(t *testing.T) {
	t.Parallel()
	const vol = "nas/k3s/pvc-2"
	tests := []struct {
		name    string
		dataset string
		spoil   func(t *testing.T, h *host, replica string)
		says    string
	}{
		{"writable", source, func(t *testing.T, h *host, r string) {
			require.NoError(t, h.zfs.Set(t.Context(), r, map[string]string{"readonly": "off"}))
		}, "readonly=off"},
		{"mounted by itself", source, func(t *testing.T, h *host, r string) {
			require.NoError(t, h.zfs.Set(t.Context(), r, map[string]string{"canmount": "on"}))
		}, "canmount=on"},
		{"mounted", source, func(t *testing.T, h *host, r string) {
			require.NoError(t, h.zfs.Set(t.Context(), r, map[string]string{"mountpoint": "/var"}))
			require.NoError(t, h.zfs.Mount(t.Context(), r))
		}, "mounted=yes"},
		{"with properties of its sender", source, func(_ *testing.T, h *host, r string) {
			h.pool.SetReceived(r, "setuid", "on")
			h.pool.SetReceived(r, "sharenfs", "rw=@0.0.0.0/0")
		}, "came with a stream: setuid, sharenfs"},
		{"a volume with a device", vol, func(t *testing.T, h *host, r string) {
			require.NoError(t, h.zfs.Set(t.Context(), r, map[string]string{"volmode": "dev"}))
		}, "volmode=dev"},
		{"a volume that reserves space", vol, func(t *testing.T, h *host, r string) {
			require.NoError(t, h.zfs.Set(t.Context(), r, map[string]string{"refreservation": "1M"}))
		}, "refreservation=1048576"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			require.NoError(t, w.hassio.zfs.Create(t.Context(), vol, zfs.CreateOptions{Parents: true, VolumeSize: 1 << 20, Sparse: true}))
			first := w.take(t, tt.dataset, "one")
			w.done(t, first)
			copied := "backup/replica/" + tt.dataset
			// Spoilt as soon as the stream is in, when the agent looks at what came.
			var spoilt sync.Once
			w.remote.pool.Before(func(args []string) error {
				if args[1] == "get" && slices.Contains(args, copied) && slices.Contains(w.remote.pool.Names(), copied+"@two") {
					spoilt.Do(func() { tt.spoil(t, w.remote, copied) })
				}
				return nil
			})
			second := w.take(t, tt.dataset, "two")
			tr := w.replicate(t, second)
			require.ErrorIs(t, agent.TransferError(tr), agent.ErrMismatch)
			assert.Contains(t, tr.GetError(), "replica "+copied)
			assert.Contains(t, tr.GetError(), tt.says)
			assert.Contains(t, tr.GetError(), "the snapshot is kept and nothing was undone")
			assert.Contains(t, w.remote.pool.Names(), copied+"@two")
			commands := flat(w.remote.pool.Commands())
			for _, never := range []string{"zfs rollback", "zfs destroy", "receive -F", "receive -A"} {
				assert.NotContains(t, commands, never)
			}
		})
	}
}

func TestReceive_setsWhatKeepsAReplicaSafeWithEveryStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const vol = "nas/k3s/pvc-2"
	require.NoError(t, w.hassio.zfs.Create(t.Context(), vol, zfs.CreateOptions{Parents: true, VolumeSize: 1 << 20}))
	for _, dataset := range []string{source, vol} {
		w.done(t, w.take(t, dataset, "one"))
		copied := "backup/replica/" + dataset
		require.NoError(t, w.remote.zfs.Set(t.Context(), copied, map[string]string{"readonly": "off"}))
		w.done(t, w.take(t, dataset, "two"))
	}
	var receives []string
	for _, c := range w.remote.pool.Commands() {
		if c[1] == "receive" {
			receives = append(receives, flat([][]string{c}))
		}
	}
	fs := "zfs receive -s -u -o canmount=noauto -o io.kubectl-dr:managed=true -o io.kubectl-dr:source=hassio:" + source +
		" -o io.kubectl-dr:stream=Lce -o readonly=on -x devices -x exec -x mountpoint -x overlay -x setuid -x sharenfs -x sharesmb " + replica
	zvol := "zfs receive -s -u -o io.kubectl-dr:managed=true -o io.kubectl-dr:source=hassio:" + vol +
		" -o io.kubectl-dr:stream=Lce -o readonly=on -o refreservation=none -o snapdev=hidden -o volmode=none backup/replica/" + vol
	assert.Equal(t, []string{fs + "@one\n", fs + "@two\n", zvol + "@one\n", zvol + "@two\n"}, receives)
}
