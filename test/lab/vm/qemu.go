package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kubectl-dr/kubectl-dr/test/lab/guest/guestcfg"
	"github.com/kubectl-dr/kubectl-dr/test/lab/proc"
)

// ErrEnded says that the machine no longer runs.
var ErrEnded = errors.New("machine has ended")

const emulator = "qemu-system-x86_64"

// processor is what a guest sees: one without the instructions that are slow to
// emulate. Memory is copied and cleared byte by byte where the processor claims
// to be fast at it (erms), and each vector or AES instruction is a call: without
// them a guest's pipes are five times as fast and its TLS four times.
const processor = "max,-erms,-ssse3,-sse4.1,-sse4.2,-avx,-avx2,-aes,-pclmulqdq"

// lockup ends a machine whose processors wait for each other for two minutes, which
// emulated ones do once in many boots: what has ended is noticed, and can be started
// anew.
const lockup = "softlockup_panic=1 watchdog_thresh=60"

// timer keeps a machine from looking for ten ticks whether its timer works. On a busy
// host they come late, and it would end there.
const timer = "no_timer_check"

// addresses has a program lie where it lay when it was started before. The emulator
// translates code by its address, and would translate programs and their libraries
// anew for each process: most of what starting a small one costs.
const addresses = "norandmaps"

// clock is the processor's counter, which a program reads by itself. A kernel that sees
// more than one processor of this make does not trust it, and has each look at the
// time, of which a kubelet takes many, go through an emulated device instead: a third
// of what an idle node costs.
const clock = "tsc=reliable"

// memory is not cleared when the kernel takes it: nothing here is secret.
const memory = "init_on_alloc=0"

// Start switches the machine on, in a process of its own that outlives the
// caller's and carries the mark. Stopping that process is a power cut; for a
// clean end, call PowerOff first.
func (m Machine) Start(mark string) (proc.ID, error) {
	if err := os.Rename(m.Console(), m.in("console.previous.log")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return proc.ID{}, err
	}
	return proc.Start(proc.Spec{
		Argv: append([]string{emulator}, m.arguments()...),
		// What the guest writes to its root goes to a nameless file there.
		Env:  []string{"TMPDIR=" + m.Dir},
		Dir:  m.Dir,
		Log:  m.Log(),
		Mark: mark,
	})
}

func (m Machine) arguments() []string {
	args := []string{
		"-name", escape(m.Name),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-accel", "tcg,thread=multi", "-cpu", processor,
		"-smp", strconv.Itoa(m.CPUs), "-m", strconv.Itoa(m.MemoryMB),
		"-serial", "file:" + m.Console(),
		"-kernel", m.Kernel, "-initrd", m.Initrd,
		"-append", strings.Join([]string{
			"console=ttyS0 quiet panic=-1", lockup, timer, addresses, clock, memory, "mitigations=off random.trust_cpu=on",
		}, " "),
		"-device", "virtio-rng-pci",
	}
	disk := func(serial, file string, options ...string) {
		drive := append([]string{"if=none", "format=raw", "id=" + serial, "file=" + escape(file)}, options...)
		args = append(args, "-drive", strings.Join(drive, ","),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s", serial, serial))
	}
	disk(guestcfg.RootSerial, m.Root, "snapshot=on", "cache=unsafe")
	disk(guestcfg.ConfigSerial, m.configDisk(), "readonly=on")
	for _, d := range m.Disks {
		// A power cut is one of the guest, not of this machine, whose page cache
		// survives: flushes may be skipped.
		disk(guestcfg.PoolSerial+d.Pool, m.poolDisk(d), "cache=unsafe", "discard=unmap", "detect-zeroes=unmap")
	}
	for _, d := range m.Shared {
		// Both machines go through this machine's page cache, so each reads what the
		// other has written.
		disk(d.Serial, d.File, "cache=unsafe", "discard=unmap", "file.locking=off")
		args[len(args)-1] += ",share-rw=on"
	}
	host := "user,id=host"
	for _, f := range append([]Forward{{HostPort: m.SSHPort, GuestPort: guestcfg.SSHPort}}, m.Forwards...) {
		host += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:%d", f.HostPort, f.GuestPort)
	}
	args = append(args, "-netdev", host, "-device", "virtio-net-pci,netdev=host,mac=52:54:00:00:00:01")
	if m.Link != (Link{}) {
		args = append(args,
			"-netdev", fmt.Sprintf("dgram,id=link,local.type=inet,local.host=127.0.0.1,local.port=%d,"+
				"remote.type=inet,remote.host=127.0.0.1,remote.port=%d", m.Link.LocalPort, m.Link.RemotePort),
			// The port makes the address different at the two ends.
			"-device", fmt.Sprintf("virtio-net-pci,netdev=link,mac=52:54:00:01:%02x:%02x",
				m.Link.LocalPort>>8&0xff, m.Link.LocalPort&0xff))
	}
	return args
}

// escape writes a value for a list of options separated by commas.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }

// Wait waits until the guest reports the stage. It returns ErrEnded, with the
// end of the console, when the machine's process ends before.
func (m Machine) Wait(ctx context.Context, id proc.ID, stage string) error {
	var reached bool
	var fatal string
	done := proc.Poll(ctx, 100*time.Millisecond, func() bool {
		alive := id.Alive()
		reached, fatal = m.progress(stage)
		return reached || fatal != "" || !alive
	})
	switch {
	case reached:
		return nil
	case fatal != "":
		return fmt.Errorf("machine %s: %s (see %s)", m.Name, fatal, m.Console())
	case done:
		return fmt.Errorf("machine %s: %w; see %s and %s", m.Name, ErrEnded, m.Console(), m.Log())
	}
	return fmt.Errorf("machine %s: wait for stage %s: %w (see %s)", m.Name, stage, ctx.Err(), m.Console())
}

// progress reads from the console whether the guest has reached the stage, and
// what stopped it.
func (m Machine) progress(stage string) (reached bool, fatal string) {
	f, err := os.Open(m.Console())
	if err != nil {
		return false, ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if rest, ok := strings.CutPrefix(line, guestcfg.StagePrefix); ok {
			name, _, _ := strings.Cut(rest, " ")
			reached = reached || name == stage
		}
		if cause, ok := strings.CutPrefix(line, guestcfg.FatalPrefix); ok {
			fatal = cause
		}
	}
	return reached, fatal
}

// PowerOff ends the guest in order: services stopped, pools exported. It
// returns once the process has ended.
func (m Machine) PowerOff(ctx context.Context, id proc.ID) error {
	// The guest's first process takes this as the request to power off. The
	// connection may break before the answer arrives.
	_, execErr := m.Exec(ctx, []string{"kill", "-TERM", "1"}, Streams{})
	if execErr != nil && id.Alive() && ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if !proc.Poll(ctx, 50*time.Millisecond, func() bool { return !id.Alive() }) {
			return fmt.Errorf("power off machine %s: %w", m.Name, execErr)
		}
	}
	if !proc.Poll(ctx, 50*time.Millisecond, func() bool { return !id.Alive() }) {
		return fmt.Errorf("power off machine %s: %w", m.Name, ctx.Err())
	}
	return nil
}

// Remove removes the machine's folder with its pools. The machine must not be
// running.
func (m Machine) Remove() error { return os.RemoveAll(filepath.Clean(m.Dir)) }
