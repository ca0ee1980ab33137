package failover

import (
	"fmt"
	"strings"
	"time"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/restorepoint"
)

// Loss is what is lost when a point is recovered at a time.
type Loss struct {
	Backup  string
	Volumes []VolumeLoss
	// Objects is the age of the Kubernetes objects.
	Objects time.Duration
	// Most is the largest loss.
	Most time.Duration
	// Everything lists volumes of which nothing comes back.
	Everything []string
}

// VolumeLoss is what is lost in one volume.
type VolumeLoss struct {
	Namespace, Claim string
	Age              time.Duration
	// Pool is mirrored over both sites, and nothing is lost; "" for a volume that comes
	// from a copy.
	Pool string
}

// Preview says what is lost when a point is recovered now.
func Preview(p restorepoint.Point, now time.Time) Loss {
	l := Loss{Backup: p.Backup, Objects: max(0, now.Sub(p.StartedAt)), Most: max(0, now.Sub(p.RestoresTo(now)))}
	for _, v := range p.Volumes {
		if v.Unprotected {
			if v.Problem != "" {
				l.Everything = append(l.Everything, v.Namespace+"/"+v.Claim)
			}
			continue
		}
		loss := VolumeLoss{Namespace: v.Namespace, Claim: v.Claim, Pool: v.StretchedPool}
		if loss.Pool == "" {
			loss.Age = max(0, now.Sub(v.SnapshotAt.Time))
		}
		l.Volumes = append(l.Volumes, loss)
	}
	return l
}

// String says it in a sentence.
func (l Loss) String() string {
	var parts []string
	for _, v := range l.Volumes {
		if v.Pool != "" {
			parts = append(parts, fmt.Sprintf("nothing in PVC %s, whose pool %s is mirrored", v.Claim, v.Pool))
			continue
		}
		parts = append(parts, fmt.Sprintf("%s in PVC %s", report.Age(v.Age), v.Claim))
	}
	for _, v := range l.Everything {
		parts = append(parts, fmt.Sprintf("everything in PVC %s, which the backup does not hold", v))
	}
	if len(parts) == 0 {
		parts = []string{fmt.Sprintf("%s of changes to its objects", report.Age(l.Objects))}
	}
	return "a failover now loses " + strings.Join(parts, ", ")
}

// TooMuchError says that more would be lost than was accepted.
type TooMuchError struct {
	Loss     Loss
	Accepted time.Duration
	Given    bool
}

func (e *TooMuchError) Error() string {
	if !e.Given {
		return e.Loss.String() + "; that has to be accepted"
	}
	return fmt.Sprintf("%s; accepted is %s", e.Loss, report.Age(e.Accepted))
}

// Hint says what to accept.
func (e *TooMuchError) Hint() string {
	if len(e.Loss.Everything) > 0 {
		return "list claims that may come back empty in spec.source.ignoreClaims of the plan, or choose another backup with --backup"
	}
	return fmt.Sprintf("accept it with --accept-data-loss=%s or more, or choose another backup with --backup",
		strings.TrimSuffix((e.Loss.Most+time.Minute).Truncate(time.Minute).String(), "0s"))
}

// Accept returns a *TooMuchError unless everything that would be lost was
// accepted. Nothing needs to be.
func (l Loss) Accept(given bool, accepted time.Duration) error {
	if l.Most == 0 && len(l.Volumes) > 0 && len(l.Everything) == 0 {
		return nil
	}
	if !given || l.Most > accepted || len(l.Everything) > 0 {
		return &TooMuchError{Loss: l, Accepted: accepted, Given: given}
	}
	return nil
}
