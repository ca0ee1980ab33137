package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-dr/kubectl-dr/test/lab/guest/guestcfg"
)

const (
	restartAfter = time.Second
	pollEvery    = 100 * time.Millisecond
	readyWithin  = 2 * time.Minute
	stopWithin   = 10 * time.Second
)

// supervisor runs services and starts them again when they end.
type supervisor struct {
	// logFile is where the output of a service goes.
	logFile func(service string) string

	mu       sync.Mutex
	running  map[string]*exec.Cmd
	stopping bool
	loops    sync.WaitGroup
}

// sshServer lets the rig in, with its key and nothing else.
func sshServer() guestcfg.Service {
	return guestcfg.Service{
		Name: "dropbear",
		Argv: []string{"dropbear", "-F", "-E", "-s", "-j", "-k", "-r", guestcfg.HostKey,
			"-p", fmt.Sprint(guestcfg.SSHPort)},
		Ready: &guestcfg.Probe{TCP: fmt.Sprintf("127.0.0.1:%d", guestcfg.SSHPort)},
	}
}

// start starts a service and returns when it is ready, or done for one that
// runs once.
func (s *supervisor) start(ctx context.Context, service guestcfg.Service) error {
	if service.Once {
		cmd, err := s.launch(service)
		if err != nil {
			return err
		}
		if err := s.wait(service.Name, cmd); err != nil {
			return fmt.Errorf("%s: %w (its output is in %s)", service.Name, err, s.logFile(service.Name))
		}
		return nil
	}
	s.loops.Go(func() {
		for {
			cmd, err := s.launch(service)
			if err == nil {
				err = s.wait(service.Name, cmd)
			}
			s.mu.Lock()
			stopping := s.stopping
			s.mu.Unlock()
			if stopping {
				return
			}
			fmt.Printf("lab: %s ended at %ss: %v\n", service.Name, uptime(), err)
			time.Sleep(restartAfter)
		}
	})
	if service.Ready == nil {
		return nil
	}
	if err := await(ctx, *service.Ready); err != nil {
		return fmt.Errorf("%s: %w", service.Name, err)
	}
	return nil
}

func (s *supervisor) launch(service guestcfg.Service) (*exec.Cmd, error) {
	log, err := os.OpenFile(s.logFile(service.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(service.Argv[0], service.Argv[1:]...)
	cmd.Env = append(os.Environ(), service.Env...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil, context.Canceled
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", service.Name, err)
	}
	if s.running == nil {
		s.running = map[string]*exec.Cmd{}
	}
	s.running[service.Name] = cmd
	return cmd, nil
}

func (s *supervisor) wait(name string, cmd *exec.Cmd) error {
	err := cmd.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, name)
	return err
}

// stop stops the services and returns when they have ended, or should have.
func (s *supervisor) stop() {
	s.mu.Lock()
	s.stopping = true
	for _, cmd := range s.running {
		_ = cmd.Process.Signal(unix.SIGTERM)
	}
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		s.loops.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(stopWithin):
	}
}

// shutDown stops services, then everything else, and closes the pools.
func (s *supervisor) shutDown() {
	s.stop()
	// Containers go on without containerd. This spares process 1 and the caller.
	_ = unix.Kill(-1, unix.SIGKILL)
	if err := command("umount", "-a", "-t", "zfs"); err != nil {
		fmt.Println("lab:", err)
	}
	if err := command("zpool", "export", "-a"); err != nil {
		fmt.Println("lab:", err)
	}
}

// await waits until the probe is met.
func await(ctx context.Context, p guestcfg.Probe) error {
	within := time.Duration(p.Timeout)
	if within == 0 {
		within = readyWithin
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := probe(p)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready after %s: %w", within, err)
		case <-tick.C:
		}
	}
}

func probe(p guestcfg.Probe) error {
	if p.File != "" {
		if _, err := os.Stat(p.File); err != nil {
			return err
		}
	}
	for network, address := range map[string]string{"unix": p.Socket, "tcp": p.TCP} {
		if address == "" {
			continue
		}
		conn, err := net.DialTimeout(network, address, time.Second)
		if err != nil {
			return err
		}
		_ = conn.Close()
	}
	return nil
}
