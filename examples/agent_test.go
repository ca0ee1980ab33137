package examples

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
)

func TestPolicies_areNarrow(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"policy-source.yaml", "policy-recovery.yaml"} {
		p, err := agent.LoadPolicy(filepath.Join("agent", file))
		require.NoError(t, err)
		for _, g := range p.Identities {
			assert.NotContains(t, g.Verbs, agent.AnyVerb, "%s: %s", file, g.Name)
			if slices.Equal(g.Verbs, []agent.Verb{agent.Report}) {
				continue // its prefixes are names of plans
			}
			assert.NotContains(t, g.Prefixes, "*", "%s: %s", file, g.Name)
			for _, prefix := range g.Prefixes {
				assert.Contains(t, prefix, "/", "%s: %s has a whole pool", file, g.Name)
			}
			if slices.Contains(g.Verbs, agent.Receive) {
				assert.Equal(t, []agent.Verb{agent.Receive}, g.Verbs, "who sends does nothing else")
			}
		}
	}
}

func TestDaemonSet(t *testing.T) {
	t.Parallel()
	set := &appsv1api.DaemonSet{}
	decode(t, "agent/daemonset.yaml", map[string]any{"Namespace": &corev1api.Namespace{}, "ServiceAccount": &corev1api.ServiceAccount{}, "DaemonSet": set})
	pod := set.Spec.Template.Spec
	assert.False(t, *pod.AutomountServiceAccountToken)
	c := pod.Containers[0]
	assert.True(t, *c.SecurityContext.ReadOnlyRootFilesystem)
	for path, probe := range map[string]*corev1api.Probe{"/healthz": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
		require.NotNil(t, probe.HTTPGet, path)
		assert.Equal(t, path, probe.HTTPGet.Path)
		assert.Equal(t, "metrics", probe.HTTPGet.Port.StrVal)
	}
	assert.Contains(t, c.Args, "--metrics-listen=:7444")
	for _, v := range pod.Volumes {
		if v.Secret != nil {
			assert.Equal(t, "zfs-agent-tls", v.Secret.SecretName)
			assert.Equal(t, int32(0o400), *v.Secret.DefaultMode)
		}
	}
}

// settings are the lines of a unit file's section [Service], the last of a name.
func settings(t *testing.T, file string) map[string]string {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	_, service, ok := strings.Cut(string(content), "[Service]\n")
	require.True(t, ok, file)
	service, _, _ = strings.Cut(service, "\n[")
	set := map[string]string{}
	for line := range strings.Lines(service) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(name, "#") {
			set[name] = value
		}
	}
	return set
}

func TestUnit(t *testing.T) {
	t.Parallel()
	unit := settings(t, "agent/zfs-agent.service")
	for name, want := range map[string]string{
		"NoNewPrivileges": "true", "CapabilityBoundingSet": "CAP_SYS_ADMIN", "DeviceAllow": "/dev/zfs rw", "DevicePolicy": "closed",
		"ProtectSystem": "strict", "ProtectHome": "true", "SystemCallArchitectures": "native", "UMask": "0077",
	} {
		assert.Equal(t, want, unit[name], name)
	}
	assert.NotContains(t, unit, "PrivateDevices", "it would hide /dev/zfs")
	assert.NotContains(t, unit, "ProtectClock", "it would forbid to ask whether the clock is synchronized")

	unprivileged := settings(t, "agent/unprivileged.conf")
	assert.Empty(t, unprivileged["CapabilityBoundingSet"])
	assert.Equal(t, "zfs-agent", unprivileged["User"])

	// Whatever gives a unit its own view of the file system hides mounts from
	// the host.
	mounts := settings(t, "agent/mounts.conf")
	for name := range unit {
		if strings.HasPrefix(name, "Protect") || name == "PrivateTmp" {
			assert.Equal(t, "false", mounts[name], name)
		}
	}
}
