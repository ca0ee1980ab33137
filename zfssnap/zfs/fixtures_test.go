package zfs

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fixtures reads the records of a file in testdata: "=== name", a comment with
// the version and the command, and what that printed.
func fixtures(t testing.TB, file string) map[string]string {
	t.Helper()
	data, err := os.ReadFile("testdata/" + file)
	require.NoError(t, err)
	records := map[string]string{}
	for _, r := range strings.Split(string(data), "\n=== ")[1:] {
		name, rest, _ := strings.Cut(r, "\n")
		command, output, _ := strings.Cut(rest, "\n")
		require.True(t, strings.HasPrefix(command, "# OpenZFS "), name)
		records[name] = strings.TrimRight(output, "\n") + "\n"
	}
	return records
}
