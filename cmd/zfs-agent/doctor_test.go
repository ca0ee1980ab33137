package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

func TestDoctor(t *testing.T) {
	t.Parallel()
	sick := func(ctx context.Context, t *testing.T, m *machine) {
		t.Helper()
		m.SetSize("znvm", 1000)
		m.SetFree("znvm", 50)
		m.SetFeature("znvm", "bookmark_v2", "disabled")
		require.NoError(t, m.zfs.Create(ctx, "znvm/replica", zfs.CreateOptions{Unmounted: true, Properties: map[string]string{
			"readonly": "on", names.PropSource: "other:tank/db",
		}}))
	}
	tests := []struct {
		name, args string
		arrange    func(ctx context.Context, t *testing.T, m *machine)
	}{
		{"a host that is well", "doctor", nil},
		{"a host that is not", "doctor", sick},
		{"a host that is not, wide", "doctor -o wide", sick},
		{"a host that is not, as json", "doctor -o json", sick},
		{"a host that is not, as yaml", "doctor -o yaml", sick},
		{"names of checks", "doctor -o name", nil},
		{"warnings alone", "doctor", func(_ context.Context, _ *testing.T, m *machine) { m.SetHealth("znvm", "DEGRADED") }},
		{"warnings alone, strict", "doctor --strict", func(_ context.Context, _ *testing.T, m *machine) { m.SetHealth("znvm", "DEGRADED") }},
		{"zfs that does not run", "doctor", func(_ context.Context, _ *testing.T, m *machine) {
			m.Before(func([]string) error { return errBroken })
		}},
		{"a bundle that is not there", "doctor --tls=/nonexistent/tls.pem", nil},
		{"an unknown format", "doctor -o xml", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine("znvm")
			if tt.arrange != nil {
				tt.arrange(t.Context(), t, m)
			}
			golden(t, filepath.Join("doctor", tt.name), m.run(t.Context(), tt.args).String())
		})
	}
}

func TestDoctor_looksAtTheBundle(t *testing.T) {
	t.Parallel()
	m := newMachine("znvm")
	ca, err := agent.NewAuthority(begin)
	require.NoError(t, err)
	pem, err := ca.Node("hassio", begin)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "tls.pem")
	require.NoError(t, os.WriteFile(file, pem, 0o600))
	m.clock = begin.Add(2*365*24*time.Hour - 10*24*time.Hour)
	golden(t, "doctor/certificates", m.run(t.Context(), "doctor -o wide --tls="+file).String())
}
