package holds

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/replicate"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// prefix begins every hold tag that is ours.
var prefix = names.HoldTag("")

// Ours reports whether a tag is of this project.
func Ours(tag string) bool { return len(tag) > len(prefix) && strings.HasPrefix(tag, prefix) }

// Purpose is the first word of a tag of ours, "" for any other.
func Purpose(tag string) string {
	if !Ours(tag) {
		return ""
	}
	purpose, _, _ := strings.Cut(tag[len(prefix):], ":")
	return purpose
}

// CheckTag refuses tags other than ours.
func CheckTag(tag string) error {
	if !Ours(tag) {
		return fmt.Errorf("hold tag %q: %w: it does not begin with %s", tag, zfs.ErrInvalidName, prefix)
	}
	return zfs.ValidateHoldTag(tag)
}

// Kinds of what a hold is for, the first part of an owner.
const (
	OwnerBackup   = "backup/"
	OwnerRun      = "run/"
	OwnerTransfer = "transfer/"
)

// Record says who placed a hold, and until when it counts. It is kept as a
// property of the held snapshot.
type Record struct {
	// By is the identity that placed it.
	By string `json:"by"`
	// Owner is what it is for: "backup/<name>", "run/<name>".
	Owner string `json:"owner,omitempty"`
	// Why says it in words.
	Why string `json:"why,omitempty"`
	// Until is when the lease ends unless it is renewed. Zero for a hold that
	// has none and stays until it is released.
	Until time.Time `json:"until,omitzero"`
}

// RecordProperty is the property that the record of a tag is kept in. ok is
// false for a tag that no property can be named after.
func RecordProperty(tag string) (name string, ok bool) {
	if !Ours(tag) {
		return "", false
	}
	name = names.PropHold + tag[len(prefix):]
	return name, zfs.ValidateUserProperty(name) == nil
}

// Encode is the value of the record's property.
func (r Record) Encode() string { return encode(r) }

// ParseRecord reads the value of a record's property.
func ParseRecord(value string) (Record, error) {
	var r Record
	if err := json.Unmarshal([]byte(value), &r); err != nil {
		return Record{}, fmt.Errorf("read record of a hold: %w", err)
	}
	return r, nil
}

// Target says where a dataset is sent to. It is kept as a property of the
// dataset and renewed while the transfer runs.
type Target struct {
	Node    string `json:"node"`    // as its agent's certificate names it
	Address string `json:"address"` // of its agent, from here
	Dataset string `json:"dataset"` // the replica
	By      string `json:"by"`      // the node that sends
	Owner   string `json:"owner"`   // "transfer/<id>", the last one
	// Until is when the transfer counts as dead unless it is renewed.
	Until time.Time `json:"until"`
}

// String names the replica.
func (t Target) String() string { return t.Node + ":" + t.Dataset }

// Property is what the target is kept in.
func (t Target) Property() string {
	return targetProperty(replicate.TargetKey(t.Node, t.Dataset))
}

// targetProperty is the property of a target by its key. Names of properties
// have no capital letters.
func targetProperty(key string) string { return names.PropTarget + strings.ToLower(key) }

// Encode is the value of the target's property.
func (t Target) Encode() string { return encode(t) }

// ParseTarget reads the value of a target's property.
func ParseTarget(value string) (Target, error) {
	var t Target
	if err := json.Unmarshal([]byte(value), &t); err != nil {
		return Target{}, fmt.Errorf("read target of a dataset: %w", err)
	}
	return t, nil
}

// encode is JSON in one line; what is encoded here cannot fail to be.
func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}
