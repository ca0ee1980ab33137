//go:build e2e

package e2e

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestArchiveAlone backs up to object storage and nowhere else. When the volume
// is lost at its source, and there is no replica, the archive gives it back at the
// recovery site. Its location would be in the way of others' plans, so it runs
// before them.
func TestArchiveAlone(t *testing.T) {
	const name = "case-archive"
	for _, site := range []string{primary, dr} {
		otherLocation(t, site, name, func(location map[string]any) {
			config := location["spec"].(map[string]any)["config"].(map[string]any)
			for _, key := range []string{"target", "targetAddress", "targetPrefix", "failbackTarget", "failbackTargetAddress", "failbackPrefix"} {
				delete(config, key)
			}
			config["archive"] = "offsite"
		})
		t.Cleanup(func() {
			_, err := prepared("kubectl", "--context", site, "-n", "velero", "delete", "volumesnapshotlocation.velero.io/"+name)
			assert.NoError(t, err)
		})
	}
	a := newVolume(t, name)
	a.backUpTo(t, name, name+"-1")
	completed(t, name+"-1")
	a.post(t, 8)
	a.backUpTo(t, name, name+"-2")
	completed(t, name+"-2")
	assert.Contains(t, details(t, name+"-2"), "copied "+a.dataset()+snapshot(t, name+"-2")+" to archive offsite")
	assert.NotContains(t, on(t, remote, "zfs", "list", "-H", "-o", "name"), a.replica(), "there is no replica")
	posts := a.posts(t, name+"-2")
	known(t, name+"-2")

	on(t, hassio, "sh", "-ec", `zfs list -H -t snapshot -o name "$1" | xargs -n 1 zfs release kubectl-dr:backup
zfs destroy -r "$1"`, "sh", a.dataset())
	velero(t, dr, "restore", "create", name, "--from-backup", name+"-2")
	if got := phase(t, dr, "restore", name); got != "Completed" {
		require.Fail(t, "the restore is "+got, velero(t, dr, "restore", "describe", name))
	}
	volume := on(t, remote, "sh", "-ec", `zfs get -H -r -s local -o name,value io.kubectl-dr:restore backup | awk -v r="$1" '$2 == r {print $1}'`, "sh", name)
	require.NotEmpty(t, volume)
	assert.Equal(t, posts, on(t, remote, "sh", "-ec", mounted+"ls", "sh", volume), "the same posts")
	on(t, remote, "sh", "-ec", mounted+`for post in *; do echo "$post  $post"; done | sha256sum -c --quiet`, "sh", volume)
	assert.Empty(t, on(t, remote, "zfs", "list", "-H", "-t", "snapshot", "-o", "name", volume), "nothing of how it came is left")
}
