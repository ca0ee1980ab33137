package names

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestKeepOwnClaim(t *testing.T) {
	t.Parallel()
	all := map[string]string{PropBackup: "nightly", ClaimProperty("znvm/a"): "a", ClaimProperty("znvm/b"): "b"}
	own := maps.Clone(all)
	KeepOwnClaim(own, "znvm/a")
	assert.Equal(t, map[string]string{PropBackup: "nightly", ClaimProperty("znvm/a"): "a"}, own)

	other := maps.Clone(all)
	KeepOwnClaim(other, "backup/replica/znvm/a")
	assert.Equal(t, all, other, "a copy's copy goes by what its origin was called")
}
