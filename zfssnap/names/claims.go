package names

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// ClaimProperty is the property of a snapshot that keeps the claim of a dataset's
// volume. Snapshots of a group are taken with the same properties, so each keeps
// those of all.
func ClaimProperty(dataset string) string {
	sum := sha256.Sum256([]byte(dataset))
	return fmt.Sprintf("%s%x", PropClaimPrefix, sum[:8])
}

// KeepOwnClaim takes the claims of other datasets out of a snapshot's properties,
// when that of its own is there: a copy has no need of them.
func KeepOwnClaim(properties map[string]string, dataset string) {
	own := ClaimProperty(dataset)
	if properties[own] == "" {
		return
	}
	for name := range properties {
		if strings.HasPrefix(name, PropClaimPrefix) && name != own {
			delete(properties, name)
		}
	}
}
