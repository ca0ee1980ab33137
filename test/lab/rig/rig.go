// Package rig runs the parts that the product is tested on, together: two
// sites, each a node with real OpenZFS in a virtual machine, a Kubernetes
// control plane and a Velero server beside it, and one object store.
//
// A rig lives in a folder and outlasts the command that brings it up. Bringing
// it up starts what is not running; taking it down leaves nothing. Several rigs
// run side by side, each with its own folder, ports and certificates.
package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kubectl-dr/kubectl-dr/test/lab/build"
	"github.com/kubectl-dr/kubectl-dr/test/lab/pki"
	"github.com/kubectl-dr/kubectl-dr/test/lab/proc"
)

// Options say which rig is meant and what it is made of.
type Options struct {
	// Name distinguishes rigs of one user; empty means "default".
	Name string
	// Dir is the rig's folder; empty means the usual place.
	Dir string
	// Light leaves out Kubernetes: only the two ZFS hosts with their agents, and
	// the object store.
	Light bool
	// WordPress gives the nodes what it takes to run one; see build.Options.
	WordPress bool
	// Stretched gives both machines the same two disks, and each a hostid, for a pool
	// that is mirrored over them.
	Stretched bool
	// OneCluster makes both machines nodes of the cluster "primary". The control plane
	// "dr" is started by Start alone, over what EtcdData was given.
	OneCluster bool
	// Plugin and Agent are the product's binaries under test; one that isn't
	// there is left out with a warning.
	Plugin, Agent string
	// CRDs is a folder with the product's CRDs, applied where it exists.
	CRDs string
	// Progress receives a line per step; nil means none.
	Progress io.Writer
}

// Rig is a rig that exists, running or not.
type Rig struct {
	Paths
	mu       sync.Mutex
	state    *state
	progress *progress
	// set is what was built, for starting parts; nil until then.
	set *build.Set
}

// Open returns the rig of that name, running or not. It returns ErrNoRig when
// there is none.
func Open(name, dir string) (*Rig, error) {
	if name == "" {
		name = "default"
	}
	dir, err := Folder(name, dir)
	if err != nil {
		return nil, err
	}
	p := Paths{Dir: dir}
	s, err := readState(p)
	if err != nil {
		return nil, err
	}
	return &Rig{Paths: p, state: s, progress: newProgress(nil)}, nil
}

// Up brings the rig up: it starts what is not running and waits until
// everything is ready. After an error or a kill, calling it again continues.
func Up(ctx context.Context, o Options) (*Rig, error) {
	if o.Name == "" {
		o.Name = "default"
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("bring the rig up: root is needed, for a private /etc/hosts of the API servers")
	}
	dir, err := Folder(o.Name, o.Dir)
	if err != nil {
		return nil, err
	}
	r := &Rig{Paths: Paths{Dir: dir}, progress: newProgress(o.Progress)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	unlock, err := lockFile(r.lock())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := r.prepare(o); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", dir, err)
	}
	if err := r.ensureSet(ctx); err != nil {
		return nil, err
	}
	if err := runSteps(ctx, r.atFirst(), r.progress.tell); err != nil {
		return nil, err
	}
	r.progress.tell("rig "+o.Name, "up in "+dir)
	return r, nil
}

// prepare makes the files that everything else reads: state, certificates,
// kubeconfigs, folders.
func (r *Rig) prepare(o Options) error {
	s, err := readState(r.Paths)
	if errors.Is(err, ErrNoRig) {
		s, err = &state{Name: o.Name, Light: o.Light, WordPress: o.WordPress, Stretched: o.Stretched, OneCluster: o.OneCluster, Processes: map[string]proc.ID{}}, nil
	}
	if err != nil {
		return err
	}
	if s.Light != o.Light || o.WordPress && !s.WordPress || o.Stretched && !s.Stretched || o.OneCluster && !s.OneCluster {
		return fmt.Errorf("rig %s exists in another form; take it down first", o.Name)
	}
	if s.Ports, err = choosePorts(portNames(), s.Ports); err != nil {
		return err
	}
	for _, file := range []struct {
		given string
		kept  *string
	}{{o.Plugin, &s.Plugin}, {o.Agent, &s.Agent}, {o.CRDs, &s.CRDs}} {
		if file.given == "" {
			continue
		}
		if *file.kept, err = filepath.Abs(file.given); err != nil {
			return err
		}
	}
	r.state = s
	if err := s.write(r.Paths); err != nil {
		return err
	}
	subjects, foreign := subjects()
	if err := pki.Make(r.PKI(), "kubectl-dr lab "+s.Name, subjects, foreign); err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	dirs := []string{r.in("log"), r.Bin(), r.in("kubeconfig")}
	for _, b := range []string{bucket, archiveBucket, recoveryBucket} {
		dirs = append(dirs, filepath.Join(r.S3(), b))
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return errors.Join(r.writeHosts(), r.writeKubeconfigs(), r.writeS3Credentials())
}

// ensureSet builds what is missing and puts the programs for users where
// Environment says.
func (r *Rig) ensureSet(ctx context.Context) error {
	var err error
	r.set, err = build.Ensure(ctx, build.Options{HostsOnly: r.state.Light, WordPress: r.state.WordPress, Tell: r.progress.tell})
	if err != nil || r.state.Light {
		return err
	}
	for _, name := range []string{"kubectl", "velero"} {
		link := filepath.Join(r.Bin(), name)
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Symlink(r.set.Bin(name), link); err != nil {
			return err
		}
	}
	return nil
}

// Down stops everything, whatever state it is in, and removes the folder. It
// returns ErrNoRig when there is nothing to take down.
func (r *Rig) Down(ctx context.Context, out io.Writer) error {
	unlock, err := lockFile(r.lock())
	if err != nil {
		return err
	}
	defer unlock()
	r.progress = newProgress(out)
	if err := r.stop(ctx); err != nil {
		return err
	}
	// What an interrupted command started but could not write down.
	strays, err := proc.Marked(r.Dir)
	if err != nil {
		return err
	}
	for _, id := range strays {
		if err := id.Stop(ctx, time.Second); err != nil {
			return err
		}
	}
	if err := r.remove(); err != nil {
		return err
	}
	r.progress.tell("rig "+r.state.Name, "down")
	return nil
}

// remove removes the folder. The state goes last: as long as anything is left,
// the rig is found and can be taken down again.
func (r *Rig) remove() error {
	entries, err := os.ReadDir(r.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if path := r.in(e.Name()); path != r.Paths.state() && path != r.lock() {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(r.Dir)
}

// OneCluster reports whether both machines are in one cluster.
func (r *Rig) OneCluster() bool { return r.state.OneCluster }

// Stop stops parts: "primary" and "dr" are a site's control plane with its
// Velero server, "hassio" and "remote" the machines (which lose power), and
// any name that Status shows is one part.
func (r *Rig) Stop(ctx context.Context, out io.Writer, targets ...string) error {
	return r.change(out, targets, func() error { return r.stop(ctx, targets...) })
}

// Start starts parts that were stopped, and waits until they are ready.
func (r *Rig) Start(ctx context.Context, out io.Writer, targets ...string) error {
	return r.change(out, targets, func() error {
		if err := r.ensureSet(ctx); err != nil {
			return err
		}
		return runSteps(ctx, chosen(r.up(), targets), r.progress.tell)
	})
}

// change does something to targets that exist while no other command works on
// the rig.
func (r *Rig) change(out io.Writer, targets []string, do func() error) error {
	known := r.targets()
	for _, target := range targets {
		if !slices.Contains(known, target) {
			return fmt.Errorf("%q is no part of the rig; it has %s", target, strings.Join(known, ", "))
		}
	}
	unlock, err := lockFile(r.lock())
	if err != nil {
		return err
	}
	defer unlock()
	// Another command may have worked on it since it was opened.
	if r.state, err = readState(r.Paths); err != nil {
		return err
	}
	r.progress = newProgress(out)
	return do()
}

// targets are the names that Stop and Start take.
func (r *Rig) targets() []string {
	var names []string
	for _, p := range r.parts() {
		if group, _, ok := strings.Cut(p.name, "/"); ok && !slices.Contains(names, group) {
			names = append(names, group)
		}
		names = append(names, p.name)
	}
	return names
}

// chosen are the steps that belong to one of the targets; all when there are none.
func chosen(steps []step, targets []string) []step {
	return slices.DeleteFunc(steps, func(s step) bool {
		return len(targets) > 0 && !slices.ContainsFunc(targets, func(t string) bool { return matches(s.name, t) })
	})
}
