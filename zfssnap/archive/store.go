package archive

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Store is an archive in a bucket:
//
//	points/<guid>.json    manifest of a restore point
//	uploads/<guid>.json   record of an upload that has begun
//	data/<guid>/<part>    parts of either
//	reports/…             see [Report]
//
// guid is that of the snapshot, as 16 hexadecimal digits.
type Store struct {
	Bucket Bucket
	// Name tells stores apart, for people and in bookmarks.
	Name string
	// RetryDelay is how long to wait before a part that could not be read is
	// tried again; 0 is a second.
	RetryDelay time.Duration
}

const (
	pointsDir  = "points/"
	uploadsDir = "uploads/"
	dataDir    = "data/"
)

// maxManifest bounds what is read as a manifest, in bytes: that of a stream of
// 16 TiB in parts of 64 MiB.
const maxManifest = 256 << 20

// reads is how many small objects are read at a time.
const reads = 8

func (g GUID) key() string           { return fmt.Sprintf("%016x", uint64(g)) }
func pointKey(g GUID) string         { return pointsDir + g.key() + ".json" }
func uploadKey(g GUID) string        { return uploadsDir + g.key() + ".json" }
func partsDir(g GUID) string         { return dataDir + g.key() + "/" }
func (m *Manifest) key(i int) string { return partsDir(m.GUID) + m.Parts[i].Name }

// guidOf returns the guid in a key of any of the three kinds, 0 for none.
func guidOf(key string) GUID {
	_, rest, _ := strings.Cut(key, "/")
	rest, _, _ = strings.Cut(rest, "/")
	digits := strings.TrimSuffix(rest, ".json")
	n, err := strconv.ParseUint(digits, 16, 64)
	if err != nil || GUID(n).key() != digits {
		return 0
	}
	return GUID(n)
}

// read returns an object as a whole.
func (s *Store) read(ctx context.Context, key string) ([]byte, error) {
	r, err := s.Bucket.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	if len(data) > maxManifest {
		return nil, fmt.Errorf("get %s: %w: %d bytes or more", key, ErrDamaged, len(data))
	}
	return data, nil
}

// manifest reads points/ or uploads/.
func (s *Store) manifest(ctx context.Context, key string) (*Manifest, error) {
	data, err := s.read(ctx, key)
	if err != nil {
		return nil, err
	}
	m, err := ParseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	if m.GUID != guidOf(key) || strings.HasPrefix(key, pointsDir) != (m.End != nil) {
		return nil, fmt.Errorf("%s: %w: it is the manifest of something else", key, ErrDamaged)
	}
	return m, nil
}

// Point reads the manifest of a restore point. ErrNotFound when there is none.
func (s *Store) Point(ctx context.Context, guid GUID) (*Manifest, error) {
	return s.manifest(ctx, pointKey(guid))
}

// Unfinished is an upload that has not become a point: it runs, or was cut off,
// or its point was deleted and parts are left.
type Unfinished struct {
	GUID GUID
	// Record is what was to be uploaded; nil when there is no record of it, or
	// Err says why it cannot be read.
	Record   *Manifest
	Err      error
	Parts    int
	Bytes    int64     // stored
	Modified time.Time // of the newest object
	keys     []string  // of the parts, and the record last
}

// Damaged is a manifest that cannot be read.
type Damaged struct {
	Key string
	Err error
}

// Catalog is what an archive has, as of when it was read.
type Catalog struct {
	Points     []*Manifest // by node and dataset, then by creation
	Unfinished []Unfinished
	Damaged    []Damaged // of points
	// Stray are objects that belong to a point but are no part of it.
	Stray []Object

	points map[GUID]*Manifest
}

// Catalog reads all manifests. Unfinished uploads are those with a record.
func (s *Store) Catalog(ctx context.Context) (*Catalog, error) { return s.catalog(ctx, false) }

// catalog also looks for parts that nothing refers to, when it is asked for
// all: that lists every object there is.
func (s *Store) catalog(ctx context.Context, all bool) (*Catalog, error) {
	// Records before points and parts before both: what is finished in between
	// is then seen as finished, or not at all.
	var parts []Object
	var err error
	if all {
		if parts, err = s.Bucket.List(ctx, dataDir); err != nil {
			return nil, err
		}
	}
	records, err := s.Bucket.List(ctx, uploadsDir)
	if err != nil {
		return nil, err
	}
	points, err := s.Bucket.List(ctx, pointsDir)
	if err != nil {
		return nil, err
	}
	c := &Catalog{points: map[GUID]*Manifest{}}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(reads)
	for _, o := range points {
		g.Go(func() error {
			m, err := s.manifest(gctx, o.Key)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				c.points[m.GUID] = m
			case errors.Is(err, ErrNotFound):
			case errors.Is(err, ErrDamaged), errors.Is(err, ErrInvalid):
				c.Damaged = append(c.Damaged, Damaged{Key: o.Key, Err: err})
			default:
				return err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(c.Damaged, func(a, b Damaged) int { return cmp.Compare(a.Key, b.Key) })
	c.Points = slices.SortedFunc(maps.Values(c.points), func(a, b *Manifest) int {
		return cmp.Or(cmp.Compare(a.Source(), b.Source()), a.Created.Compare(b.Created), cmp.Compare(a.CreateTXG, b.CreateTXG), cmp.Compare(a.GUID, b.GUID))
	})
	return c, s.unfinished(ctx, c, records, parts, all)
}

// unfinished sorts what is not a manifest of a point.
func (s *Store) unfinished(ctx context.Context, c *Catalog, records, parts []Object, all bool) error {
	damaged := map[GUID]bool{}
	for _, d := range c.Damaged {
		damaged[guidOf(d.Key)] = true
	}
	byGUID := map[GUID]*Unfinished{}
	add := func(o Object) *Unfinished {
		g := guidOf(o.Key)
		u := byGUID[g]
		if u == nil {
			u = &Unfinished{GUID: g}
			byGUID[g] = u
		}
		if o.Modified.After(u.Modified) {
			u.Modified = o.Modified
		}
		return u
	}
	if !all {
		for _, o := range records {
			if g := guidOf(o.Key); c.points[g] == nil && !damaged[g] {
				own, err := s.Bucket.List(ctx, partsDir(g))
				if err != nil {
					return err
				}
				parts = append(parts, own...)
			}
		}
	}
	named := map[GUID]map[string]bool{}
	for _, o := range parts {
		g := guidOf(o.Key)
		m := c.points[g]
		if m == nil {
			// What a damaged manifest refers to is not known.
			if !damaged[g] {
				u := add(o)
				u.Parts, u.Bytes, u.keys = u.Parts+1, u.Bytes+o.Size, append(u.keys, o.Key)
			}
			continue
		}
		if named[g] == nil {
			named[g] = map[string]bool{}
			for i := range m.Parts {
				named[g][m.key(i)] = true
			}
		}
		if !named[g][o.Key] {
			c.Stray = append(c.Stray, o)
		}
	}
	for _, o := range records {
		g := guidOf(o.Key)
		switch {
		case damaged[g]:
		case c.points[g] != nil:
			c.Stray = append(c.Stray, o)
		default:
			u := add(o)
			u.keys = append(u.keys, o.Key)
			m, err := s.manifest(ctx, o.Key)
			switch {
			case err == nil:
				u.Record = m
			case errors.Is(err, ErrDamaged), errors.Is(err, ErrInvalid):
				u.Err = err
			case !errors.Is(err, ErrNotFound):
				return err
			}
		}
	}
	for _, g := range slices.Sorted(maps.Keys(byGUID)) {
		c.Unfinished = append(c.Unfinished, *byGUID[g])
	}
	return nil
}

// Point returns a point, nil for none.
func (c *Catalog) Point(guid GUID) *Manifest { return c.points[guid] }

// Chain returns what restoring a point takes, the full stream first. ErrNotFound
// when there is no such point, ErrBroken when a base of it is missing.
func (c *Catalog) Chain(guid GUID) ([]*Manifest, error) {
	return chain(guid, func(g GUID) (*Manifest, error) {
		if m := c.points[g]; m != nil {
			return m, nil
		}
		return nil, ErrNotFound
	})
}

// Chain is that of a Catalog, for one point: it reads no other manifests. What
// is based on a manifest that cannot be read is ErrBroken too.
func (s *Store) Chain(ctx context.Context, guid GUID) ([]*Manifest, error) {
	return chain(guid, func(g GUID) (*Manifest, error) { return s.Point(ctx, g) })
}

func chain(guid GUID, point func(GUID) (*Manifest, error)) ([]*Manifest, error) {
	var found []*Manifest
	seen := map[GUID]bool{}
	for next := guid; next != 0; next = found[len(found)-1].BaseGUID() {
		m, err := point(next)
		switch {
		case err == nil && seen[next]:
			return nil, fmt.Errorf("restore point with guid %s: %w: it is its own base", guid, ErrBroken)
		case err == nil:
		case next == guid:
			return nil, fmt.Errorf("restore point with guid %s: %w", guid, err)
		case errors.Is(err, ErrNotFound), errors.Is(err, ErrDamaged), errors.Is(err, ErrInvalid):
			return nil, fmt.Errorf("restore point with guid %s: %w: its base with guid %s: %w", guid, ErrBroken, next, err)
		default:
			return nil, err
		}
		seen[next] = true
		found = append(found, m)
	}
	slices.Reverse(found)
	return found, nil
}

// guids lists which points there are, without reading them.
func (s *Store) guids(ctx context.Context) (map[GUID]bool, error) {
	objects, err := s.Bucket.List(ctx, pointsDir)
	guids := map[GUID]bool{}
	for _, o := range objects {
		guids[guidOf(o.Key)] = true
	}
	return guids, err
}

// Find returns the point that a user names: "dataset@snapshot" or a guid in
// decimal. Several nodes may have a snapshot of one name: then only the guid
// tells.
func (c *Catalog) Find(name string) (*Manifest, error) {
	if n, err := strconv.ParseUint(name, 10, 64); err == nil {
		if m := c.points[GUID(n)]; m != nil {
			return m, nil
		}
	}
	var found []*Manifest
	for _, m := range c.Points {
		if m.FullName() == name {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("restore point %q: %w", name, ErrNotFound)
	case 1:
		return found[0], nil
	}
	var which []string
	for _, m := range found {
		which = append(which, fmt.Sprintf("%s of %s", m.GUID, m.Node))
	}
	return nil, fmt.Errorf("restore point %q: %w: there are several, name one by guid: %s", name, ErrInvalid, strings.Join(which, ", "))
}

// missing says which parts of a point are not there with their size.
func (s *Store) missing(ctx context.Context, m *Manifest) error {
	objects, err := s.Bucket.List(ctx, partsDir(m.GUID))
	if err != nil {
		return err
	}
	sizes := map[string]int64{}
	for _, o := range objects {
		sizes[o.Key] = o.Size
	}
	for i, p := range m.Parts {
		want, _ := p.stored()
		switch size, ok := sizes[m.key(i)]; {
		case !ok:
			return fmt.Errorf("%s: %w: part %s is not there", m.FullName(), ErrDamaged, m.key(i))
		case size != want:
			return fmt.Errorf("%s: %w: part %s has %d bytes, not %d", m.FullName(), ErrDamaged, m.key(i), size, want)
		}
	}
	return nil
}

// attempts is how often a part is read before a failure is an error.
const attempts = 3

// fetch reads a part into buf, which has room for it, and checks it. A part
// that is not there, or not what was stored, is ErrDamaged.
func (s *Store) fetch(ctx context.Context, m *Manifest, i int, buf []byte) ([]byte, error) {
	for n := 1; ; n++ {
		data, passing, err := s.fetchOnce(ctx, m, i, buf)
		if err == nil || !passing || n == attempts {
			return data, err
		}
		select {
		case <-time.After(cmp.Or(s.RetryDelay, time.Second)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// fetchOnce tells by passing whether a failure may be one of the connection.
func (s *Store) fetchOnce(ctx context.Context, m *Manifest, i int, buf []byte) (data []byte, passing bool, err error) {
	key := m.key(i)
	size, sum := m.Parts[i].stored()
	r, err := s.Bucket.Get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return nil, false, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, true, err
	}
	defer r.Close()
	data = buf[:size]
	n, err := io.ReadFull(r, data)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return nil, true, fmt.Errorf("get %s: %w: %d bytes, not %d", key, ErrDamaged, n, size)
	}
	if err != nil {
		return nil, true, fmt.Errorf("get %s: %w", key, err)
	}
	if more, _ := r.Read(make([]byte, 1)); more > 0 {
		return nil, false, fmt.Errorf("get %s: %w: more than %d bytes", key, ErrDamaged, size)
	}
	if sha256.Sum256(data) != sum {
		return nil, false, fmt.Errorf("get %s: %w: its SHA-256 is not %s", key, ErrDamaged, sum)
	}
	return data, false, nil
}
