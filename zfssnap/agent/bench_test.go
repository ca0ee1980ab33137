package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

// TestMain plays the data end of zfs send and zfs receive when the environment
// says so: a stream of that many bytes, or the end of one.
func TestMain(m *testing.M) {
	n, err := strconv.ParseInt(os.Getenv("ZFS_TEST_STREAM"), 10, 64)
	if err != nil {
		os.Exit(m.Run())
	}
	block := random(1 << 17) // a record of zfs send
	for ; n > 0 && err == nil && os.Args[1] == "send"; n -= int64(len(block)) {
		_, err = os.Stdout.Write(block)
	}
	for err == nil && os.Args[1] == "receive" {
		_, err = os.Stdin.Read(block)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func streamer(bytes int64) zfs.Exec {
	return zfs.Exec{Paths: map[string]string{"zfs": os.Args[0]}, Env: []string{fmt.Sprint("ZFS_TEST_STREAM=", bytes)}}
}

// fat is a pool whose streams pass through processes and pipes, and are of a
// size that does not fit in memory. What arrives is a small stream.
type fat struct {
	*zfstest.Pool
	streams zfs.Exec
	stream  func(ctx context.Context, snapshot string) []byte
}

func (f fat) Run(ctx context.Context, c zfs.Cmd) (zfs.Result, error) {
	switch {
	case c.Args[1] == "send" && c.Stdout != nil:
		return f.streams.Run(ctx, c)
	case c.Args[1] == "receive" && c.Stdin != nil:
		if res, err := f.streams.Run(ctx, c); err != nil || res.ExitCode != 0 {
			return res, err
		}
		_, name, _ := bytes.Cut([]byte(c.Args[len(c.Args)-1]), []byte("@"))
		c.Stdin = bytes.NewReader(f.stream(ctx, string(name)))
	}
	return f.Pool.Run(ctx, c)
}

// BenchmarkTransfer is the way of data from agent to agent, without ZFS: two
// processes that are as fast as can be, through mutual TLS, and through nothing
// but a pipe.
func BenchmarkTransfer(b *testing.B) {
	const size = 1 << 30
	b.Run("agents", func(b *testing.B) {
		w := newWorld(b)
		small := func(ctx context.Context, name string) []byte {
			var out bytes.Buffer
			c := &zfs.Client{Runner: w.hassio.pool}
			require.NoError(b, c.Send(ctx, zfs.SendOptions{To: source + "@" + name}, &out))
			return out.Bytes()
		}
		through := func(h *host, stream func(context.Context, string) []byte) {
			h.restart(b, func(s *agent.Server) { s.ZFS = &zfs.Client{Runner: fat{h.pool, streamer(size), stream}} })
		}
		through(w.hassio, nil)
		through(w.remote, small)
		measure(b, size, func(i int) {
			v := w.snapshot(b, fmt.Sprint(i))
			req := w.request(v)
			req.TargetDataset += fmt.Sprint("-", i)
			tr := w.replicateAs(b, req)
			require.NoError(b, agent.TransferError(tr))
			require.Equal(b, agentpb.Transfer_DONE, tr.GetState())
			require.EqualValues(b, size, tr.GetBytesSent())
		})
	})
	b.Run("pipe", func(b *testing.B) {
		measure(b, size, func(int) {
			command := func(verb string) *exec.Cmd {
				cmd := exec.Command(os.Args[0], verb)
				cmd.Env = streamer(size).Env
				return cmd
			}
			send, receive := command("send"), command("receive")
			r, w, err := os.Pipe()
			require.NoError(b, err)
			send.Stdout, receive.Stdin = w, r
			require.NoError(b, send.Start())
			require.NoError(b, receive.Start())
			require.NoError(b, errors.Join(r.Close(), w.Close(), send.Wait(), receive.Wait()))
		})
	})
}

// measure reports throughput, and the processor time for a GiB.
func measure(b *testing.B, size int64, run func(i int)) {
	b.SetBytes(size)
	before := processorTime(b)
	for i := 0; b.Loop(); i++ {
		run(i)
	}
	b.ReportMetric((processorTime(b)-before)/float64(b.N)/float64(size)*(1<<30), "cpu-s/GiB")
}

// processorTime is that of this process and of its children that ended, in
// seconds.
func processorTime(b *testing.B) float64 {
	b.Helper()
	var sum float64
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		require.NoError(b, syscall.Getrusage(who, &u))
		sum += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	return sum
}
