package rig

import (
	"context"
	"os"
	"path/filepath"
)

// programs are the rig's programs, by name.
type programs string

func (p programs) path(name string) string { return filepath.Join(string(p), name) }

func (r *Rig) build(ctx context.Context) error {
	r.programs = programs(os.Getenv("KUBECTL_DR_LAB_PROGRAMS"))
	return nil
}
