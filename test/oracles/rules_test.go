package oracles

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/restore/expr"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

// profile returns a profile with the given fields.
func profile(t testing.TB, fields string) *rules.Profile {
	t.Helper()
	set, err := rules.Load(map[string][]byte{"rules.yaml": []byte(
		"apiVersion: rewrite.kubectl-dr.io/v1alpha1\nkind: RewriteProfiles\nprofiles:\n- name: p\n" + fields,
	)}, expr.New())
	require.NoError(t, err)
	p, err := set.Profile("p")
	require.NoError(t, err)
	return p
}
