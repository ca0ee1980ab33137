// Package examples holds no code: its tests keep the examples right, as users would
// find out that they are wrong.
package examples

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/yaml"

	kubectldr "github.com/kubectl-dr/kubectl-dr/kubectl-dr"
)

// decode reads a file that has one object of each kind into what stands for it.
// Unknown fields fail the test.
func decode(t *testing.T, file string, kinds map[string]any) {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	documents := strings.Split(string(content), "\n---\n")
	require.Len(t, documents, len(kinds))
	for _, doc := range documents {
		var of metav1.TypeMeta
		require.NoError(t, yaml.Unmarshal([]byte(doc), &of))
		require.Contains(t, kinds, of.Kind)
		require.NoError(t, yaml.UnmarshalStrict([]byte(doc), kinds[of.Kind]), of.Kind)
	}
}

// command gives kubectl dr the arguments that a container has, and returns the
// command that they are for.
func command(t *testing.T, args []string) *cobra.Command {
	t.Helper()
	cmd, rest, err := kubectldr.NewCommand(genericiooptions.NewTestIOStreamsDiscard()).Find(args)
	require.NoError(t, err)
	require.NoError(t, cmd.ParseFlags(rest))
	require.NoError(t, cmd.ValidateArgs(cmd.Flags().Args()))
	return cmd
}
