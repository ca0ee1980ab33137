package main

import (
	"bytes"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/test/lab/rig"
)

func TestPrintStatus(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		rows []rig.Row
		want string
		err  error
	}{
		{
			"everything runs",
			[]rig.Row{
				{Name: "s3", State: rig.Running, PID: 7, Port: 20001, Resident: 3 << 20, Log: "/l/s3.log"},
				{Name: "hassio", State: rig.Running, PID: 8, Port: 20002, Resident: 900 << 20, Log: "/l/hassio.log"},
			},
			"NAME    STATE    PID  PORT   MEMORY  LOG\n" +
				"s3      running  7    20001  3Mi     /l/s3.log\n" +
				"hassio  running  8    20002  900Mi   /l/hassio.log\n" +
				"2 of 2 running, 903Mi resident\n",
			nil,
		},
		{
			"a part is stopped",
			[]rig.Row{{Name: "s3", State: rig.Stopped, Port: 20001, Log: "/l/s3.log"}},
			"NAME  STATE    PID  PORT   MEMORY  LOG\n" +
				"s3    stopped  -    20001  -       /l/s3.log\n" +
				"0 of 1 running, 0Mi resident\n",
			exitError(1),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			assert.Equal(t, tt.err, printStatus(&out, tt.rows))
			assert.Equal(t, tt.want, out.String())
		})
	}
}

func TestQuote_isOneWordOfAShell(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"/a/b-c_d.e", "", "a b", `it's`, "$HOME", "a;b", "a\nb"} {
		out, err := exec.Command("/bin/sh", "-c", "printf %s "+quote(text)).Output()
		require.NoError(t, err)
		assert.Equal(t, text, string(out))
	}
}

func TestCommand_noRig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tests := []struct {
		name           string
		args           []string
		stdout, stderr string
		err            string
	}{
		{"status says so and fails", []string{"status"}, "no rig in " + dir + "\n", "", "exit status 1"},
		{"down has nothing to do", []string{"down"}, "", "no rig in " + dir + "\n", ""},
		{"env fails", []string{"env"}, "", "", "no rig"},
		{"stop fails", []string{"stop", "primary"}, "", "", "no rig"},
		{"a rig has no other number of nodes", []string{"up", "--nodes=3"}, "", "", "2 Kubernetes nodes or none"},
		{"hosts alone run no WordPress", []string{"up", "--nodes=0", "--wordpress"}, "", "", "hosts without Kubernetes run no pods"},
		{"exec wants a command", []string{"exec", "hassio"}, "", "", "at least 2 arg"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			cmd := newCommand()
			cmd.SetArgs(append(tt.args, "--dir="+dir))
			cmd.SetOut(&stdout)
			cmd.SetErr(&stderr)
			err := cmd.Execute()
			if tt.err == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tt.err)
			}
			assert.Equal(t, tt.stdout, stdout.String())
			assert.Equal(t, tt.stderr, stderr.String())
		})
	}
}
