package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
)

const (
	// replicasWait is how long Replicas waits for a listing that runs.
	replicasWait = 2 * time.Second
	// replicasFresh is how long a listing serves at least.
	replicasFresh = time.Minute
	// replicasShare bounds what listing costs: it takes a tenth of the time.
	replicasShare = 10
)

// Replica is a replica of this host.
type Replica struct {
	Dataset string
	Source  string // "node:dataset"
	// Newest is when its newest snapshot was taken, at its source; the zero time
	// while there is none.
	Newest time.Time
}

// replicas is the last listing.
type replicas struct {
	mu      sync.Mutex
	list    []Replica
	at      time.Time     // of its end, zero while there is none
	took    time.Duration // for the last
	running chan struct{} // closed when the one that runs has ended, nil for none
}

// Replicas lists the replicas of this host, and when they were looked at. It
// returns the last listing, which is made anew in the background when it is
// old; so it returns soon whatever the pools do.
func (s *Server) Replicas() ([]Replica, time.Time) {
	s.init()
	r := &s.replicas
	r.mu.Lock()
	if r.running == nil && s.Clock().Sub(r.at) > max(replicasFresh, replicasShare*r.took) {
		done := make(chan struct{})
		r.running = done
		s.background.Go(func() {
			defer close(done)
			s.listReplicas(s.transfers.ctx)
		})
	}
	running := r.running
	r.mu.Unlock()
	if running != nil {
		select {
		case <-running:
		case <-time.After(replicasWait):
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list), r.at
}

func (s *Server) listReplicas(ctx context.Context) {
	r := &s.replicas
	r.mu.Lock()
	before := r.list
	r.mu.Unlock()
	start := s.Clock()
	list, err := s.findReplicas(ctx, before)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = nil
	r.took = s.Clock().Sub(start)
	if err != nil {
		s.Log.Warn("cannot tell the age of replicas", "error", err)
		// Of a pool that hangs the last that was known stands.
		if len(list) == 0 {
			return
		}
	}
	r.list, r.at = list, s.Clock()
}

// findReplicas lists the replicas of all pools. One that cannot be read is given
// as it was before, and the error says why.
func (s *Server) findReplicas(ctx context.Context, before []Replica) ([]Replica, error) {
	pools, err := s.ZFS.Pools(ctx)
	if err != nil {
		return nil, err
	}
	var list []Replica
	var errs []error
	keep := func(is func(dataset string) bool) {
		for _, r := range before {
			if is(r.Dataset) {
				list = append(list, r)
			}
		}
	}
	for _, p := range pools {
		tagged, err := s.ZFS.Tagged(ctx, p.Name, names.PropSource)
		if err != nil {
			errs = append(errs, err)
			keep(func(dataset string) bool { return within(dataset, p.Name) })
			continue
		}
		for _, dataset := range tagged {
			r, err := s.readReplica(ctx, dataset)
			switch {
			case errors.Is(err, ErrNotFound):
			case err != nil:
				errs = append(errs, err)
				keep(func(d string) bool { return d == dataset })
			case r.Source != "":
				list = append(list, r)
			}
		}
	}
	slices.SortFunc(list, func(a, b Replica) int { return strings.Compare(a.Dataset, b.Dataset) })
	return list, errors.Join(errs...)
}

func (s *Server) readReplica(ctx context.Context, dataset string) (Replica, error) {
	r := Replica{Dataset: dataset}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		props, err := s.ZFS.Get(ctx, dataset, names.PropSource, propOrigin)
		// A volume has its origin, also while an archive still gives it.
		if local(props[propOrigin]) == "" {
			r.Source = local(props[names.PropSource])
		}
		return err
	})
	g.Go(func() error {
		vs, err := s.ZFS.Versions(ctx, dataset)
		for _, v := range vs {
			if !v.Bookmark {
				r.Newest = v.Created
			}
		}
		return err
	})
	return r, g.Wait()
}
