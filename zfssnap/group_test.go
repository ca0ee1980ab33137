package zfssnap

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
)

// groupWorld has volumes of one group, given as node:dataset.
func groupWorld(t *testing.T, volumes ...string) (*world, []string) {
	t.Helper()
	w := newWorld(t, primaryConfig())
	w.agents["hassio"], w.agents["remote"] = newFakeAgent(), newFakeAgent()
	var ids []string
	for _, v := range volumes {
		id, err := ParseVolumeID(idVersion + ":" + v)
		require.NoError(t, err)
		w.agents[id.Node].datasets[id.Dataset] = filesystem(id.Dataset)
		w.snap.Groups.Join("nightly", backupUID, "wordpress", id, "claim of "+id.Dataset)
		ids = append(ids, id.String())
	}
	return w, ids
}

// calls returns the datasets of each snapshot request, sorted.
func (a *fakeAgent) calls() (all []string) {
	for _, req := range a.taken {
		all = append(all, fmt.Sprint(req.GetDatasets()))
	}
	slices.Sort(all)
	return all
}

func TestGroups_oneCallTakesAll(t *testing.T) {
	t.Parallel()
	w, ids := groupWorld(t, "hassio:znvm/a", "hassio:znvm/b", "hassio:znvm/c")
	w.snap.Groups.Join("nightly", backupUID, "wordpress", VolumeID{Node: "hassio", Dataset: "znvm/a"}, "")
	for i, id := range ids {
		first, err := w.snap.CreateSnapshot(id, "", backupTags)
		require.NoError(t, err)
		assert.Regexp(t, `^zfs1:hassio:\d+:\d+:znvm/`+string("abc"[i])+`@dr-nightly-0f1e2d3c$`, first)
		again, err := w.snap.CreateSnapshot(id, "", backupTags)
		require.NoError(t, err)
		assert.Equal(t, first, again)
	}
	assert.Equal(t, []string{"[znvm/a znvm/b znvm/c]"}, w.agents["hassio"].calls())
	props := w.agents["hassio"].taken[0].GetProperties()
	assert.Equal(t, "wordpress", props[PropGroup])
	assert.NotContains(t, props, PropVolume, "it is of one of them")
	assert.Equal(t, "blog", props["io.kubectl-dr:tag:team"])
	for _, dataset := range []string{"znvm/a", "znvm/b", "znvm/c"} {
		assert.Equal(t, "claim of "+dataset, props[names.ClaimProperty(dataset)])
	}
}

func TestGroups_severalPools(t *testing.T) {
	t.Parallel()
	w, ids := groupWorld(t, "hassio:znvm/a", "hassio:nas/b", "hassio:znvm/c", "remote:znvm/d")
	for _, id := range ids {
		_, err := w.snap.CreateSnapshot(id, "", backupTags)
		require.NoError(t, err)
	}
	assert.Equal(t, []string{"[nas/b]", "[znvm/a znvm/c]"}, w.agents["hassio"].calls())
	assert.Equal(t, []string{"[znvm/d]"}, w.agents["remote"].calls())
}

func TestGroups_aSickVolumeCostsTheOthersNothing(t *testing.T) {
	t.Parallel()
	w, ids := groupWorld(t, "hassio:znvm/a", "hassio:znvm/gone", "hassio:znvm/c")
	delete(w.agents["hassio"].datasets, "znvm/gone")
	for i, id := range ids {
		_, err := w.snap.CreateSnapshot(id, "", backupTags)
		if i == 1 {
			require.ErrorContains(t, err, "snapshot znvm/gone on node hassio")
			continue
		}
		require.NoError(t, err)
	}
}

func TestGroups_anAgentThatIsDownIsAskedOnce(t *testing.T) {
	t.Parallel()
	w, ids := groupWorld(t, "hassio:znvm/a", "hassio:znvm/b")
	w.agents["hassio"].down = true
	_, err := w.snap.CreateSnapshot(ids[0], "", backupTags)
	require.ErrorContains(t, err, "snapshot znvm/a and 1 more on node hassio")
	w.agents["hassio"].down = false
	_, err = w.snap.CreateSnapshot(ids[1], "", backupTags)
	require.NoError(t, err)
}

func TestGroups_areOfOneBackup(t *testing.T) {
	t.Parallel()
	w, ids := groupWorld(t, "hassio:znvm/a", "hassio:znvm/b")
	w.snap.Groups.Join("nightly", "a later one", "wordpress", VolumeID{Node: "hassio", Dataset: "znvm/a"}, "")
	_, err := w.snap.CreateSnapshot(ids[0], "", backupTags)
	require.NoError(t, err)
	assert.Equal(t, []string{"[znvm/a]"}, w.agents["hassio"].calls(), "what an earlier backup of that name joined is forgotten")
}

func TestGroups_concurrently(t *testing.T) {
	t.Parallel()
	var volumes []string
	for i := range 16 {
		volumes = append(volumes, fmt.Sprintf("hassio:znvm/v%d", i))
	}
	w, ids := groupWorld(t, volumes...)
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			_, err := w.snap.CreateSnapshot(id, "", backupTags)
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	assert.Len(t, w.agents["hassio"].taken, 1)
}

// Each snapshot keeps the claims of all, which is too much for a large group.
func TestGroups_ofManyKeepNoClaims(t *testing.T) {
	t.Parallel()
	var volumes []string
	for i := range maxRecords + 1 {
		volumes = append(volumes, fmt.Sprintf("hassio:znvm/%d", i))
	}
	w, ids := groupWorld(t, volumes...)
	_, err := w.snap.CreateSnapshot(ids[0], "", backupTags)
	require.NoError(t, err)
	for name := range w.agents["hassio"].taken[0].GetProperties() {
		assert.NotContains(t, name, PropClaimPrefix)
	}
}
