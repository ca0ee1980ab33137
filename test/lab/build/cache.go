package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CacheVariable overrides where built artefacts are kept.
const CacheVariable = "KUBECTL_DR_CACHE"

// unusedFor is after how long an artefact that a newer one has replaced is removed.
const unusedFor = 7 * 24 * time.Hour

// DefaultCache is the folder of artefacts: what KUBECTL_DR_CACHE says, else
// kubectl-dr in the user's cache folder.
func DefaultCache() (string, error) {
	if dir := os.Getenv(CacheVariable); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "kubectl-dr"), err
}

// recipe is an artefact and everything it is made of.
type recipe struct {
	name string
	// inputs decide the key. They must tell any two contents apart.
	inputs []string
	// quick ones are made in a moment, which nobody needs to be told.
	quick bool
	// make fills the folder. Output of the programs it runs goes to the log.
	make func(ctx context.Context, dir string, log *os.File) error
}

// key is short, as it becomes part of a path, and readable only by its name.
func (r recipe) key() string {
	inputs, err := json.Marshal(r.inputs)
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(inputs)
	return r.name + "-" + hex.EncodeToString(sum[:6])
}

// cache keeps artefacts, a folder each.
type cache struct {
	dir  string
	tell func(step, what string)
}

// ensure returns the folder of the artefact and makes it unless it is there.
func (c cache) ensure(ctx context.Context, r recipe) (string, error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return "", err
	}
	final := filepath.Join(c.dir, r.key())
	if c.have(final) {
		return final, nil
	}
	unlock, err := c.lock(ctx, r.name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if c.have(final) {
		return final, nil
	}
	c.clean(r.name)
	if err := c.makeIt(ctx, r, final); err != nil {
		return "", fmt.Errorf("build %s: %w", r.name, err)
	}
	return final, nil
}

// have reports whether the artefact exists, and notes that it was used.
func (c cache) have(dir string) bool {
	now := time.Now()
	return os.Chtimes(dir, now, now) == nil
}

func (c cache) makeIt(ctx context.Context, r recipe, final string) error {
	logFile := final + ".log"
	log, err := os.Create(logFile)
	if err != nil {
		return err
	}
	defer log.Close()
	making, err := os.MkdirTemp(c.dir, ".making-"+r.name+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(making)
	// Debian's installer gives up its rights inside and has to pass through.
	if err := os.Chmod(making, 0o755); err != nil {
		return err
	}
	if !r.quick {
		c.tell(r.name, "building; output in "+logFile)
	}
	started := time.Now()
	if err := r.make(ctx, making, log); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w; the end of %s:\n%s", err, logFile, tail(logFile))
	}
	if err := os.Rename(making, final); err != nil {
		return err
	}
	if !r.quick {
		c.tell(r.name, fmt.Sprintf("built in %.1fs", time.Since(started).Seconds()))
	}
	return nil
}

// lock keeps other builders from the same name until the returned function is
// called or the process ends.
func (c cache) lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(c.dir, "."+name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for waiting := false; ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
		}
		if !waiting {
			c.tell(name, "waiting for another builder")
			waiting = true
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-tick.C:
		}
	}
}

// clean removes what builders that were killed left of the name, and artefacts
// of it that nobody has used for long. The name is locked.
func (c cache) clean(name string) {
	half, _ := filepath.Glob(filepath.Join(c.dir, ".making-"+name+"-*"))
	for _, dir := range half {
		_ = os.RemoveAll(dir)
	}
	old, _ := filepath.Glob(filepath.Join(c.dir, name+"-????????????"))
	for _, dir := range old {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > unusedFor {
			_ = os.RemoveAll(dir)
			_ = os.Remove(dir + ".log")
		}
	}
}

// tail is the last lines of a file.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(bytes.TrimSpace(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
