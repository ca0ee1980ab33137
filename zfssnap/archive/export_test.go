package archive

import (
	"context"
	"io"

	"filippo.io/age"
)

// Stream reads a point as a restore does.
func (s *Store) Stream(ctx context.Context, m *Manifest, ids []age.Identity, concurrency int, w io.Writer) error {
	return reader{store: s, identities: ids, concurrency: concurrency}.stream(ctx, m, w, func(int) {})
}
