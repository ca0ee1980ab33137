package rig

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kubectl-dr/kubectl-dr/test/lab/proc"
)

// ErrNoRig says that there is no rig in the folder.
var ErrNoRig = errors.New("no rig")

// ErrBusy says that another command works on the rig.
var ErrBusy = errors.New("another command works on this rig")

// state is what a rig must remember between commands.
type state struct {
	Name string `json:"name"`
	// Light rigs have no Kubernetes.
	Light bool `json:"light"`
	// WordPress rigs have nodes that can run one.
	WordPress bool `json:"wordpress,omitempty"`
	// Stretched rigs have disks that both machines can reach.
	Stretched bool `json:"stretched,omitempty"`
	// Features are those of Velero's servers that are off by default.
	Features []string `json:"features,omitempty"`
	// OneCluster rigs have both machines in one cluster.
	OneCluster bool `json:"oneCluster,omitempty"`
	// Ports are chosen once, so that kubeconfigs and certificates stay valid.
	Ports map[string]int `json:"ports"`
	// Processes are those started last, by part.
	Processes map[string]proc.ID `json:"processes"`
	// Plugin, Agent and CRDs are those of Options, kept for Start.
	Plugin string `json:"plugin,omitempty"`
	Agent  string `json:"agent,omitempty"`
	CRDs   string `json:"crds,omitempty"`
}

func readState(p Paths) (*state, error) {
	data, err := os.ReadFile(p.state())
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoRig, p.Dir)
	}
	if err != nil {
		return nil, err
	}
	s := &state{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("read %s: %w", p.state(), err)
	}
	if s.Processes == nil {
		s.Processes = map[string]proc.ID{}
	}
	return s, nil
}

// write replaces the file whole, so that a kill leaves the old or the new one.
func (s *state) write(p Paths) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(p.state(), append(data, '\n'), 0o600)
}

// replaceFile writes a file whole or not at all.
func replaceFile(path string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", data, mode); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// lockFile takes the rig for this process until the returned function is
// called or the process ends.
func lockFile(path string) (func(), error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		unlock := func() { _ = f.Close() }
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			unlock()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("%w (it holds %s)", ErrBusy, path)
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// A rig taken down in between has taken the file with it: what is locked
		// then is nobody's.
		mine, err := f.Stat()
		if err != nil {
			unlock()
			return nil, err
		}
		if there, err := os.Stat(path); err == nil && os.SameFile(mine, there) {
			return unlock, nil
		}
		unlock()
	}
}

// Ports are taken from below the range of outgoing connections (32768 and up),
// which could otherwise take one while its part is stopped.
const firstPort, lastPort = 20000, 32767

// choosePorts gives each name a port that is free now and no other name has.
func choosePorts(names []string, taken map[string]int) (map[string]int, error) {
	ports, used := map[string]int{}, map[int]bool{}
	for name, port := range taken {
		ports[name], used[port] = port, true
	}
	for _, name := range names {
		if _, ok := ports[name]; ok {
			continue
		}
		port, err := freePort(used)
		if err != nil {
			return nil, fmt.Errorf("choose a port for %s: %w", name, err)
		}
		ports[name], used[port] = port, true
	}
	return ports, nil
}

func freePort(used map[int]bool) (int, error) {
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if used[port] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return 0, err
		}
		return port, l.Close()
	}
	return 0, errors.New("none is free")
}
