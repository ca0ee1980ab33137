package zfssnap

import "github.com/kubectl-dr/kubectl-dr/zfssnap/names"

// The names of package names, for those who work with this one.
const (
	Domain            = names.Domain
	LabelRun          = names.LabelRun
	LabelPlan         = names.LabelPlan
	LabelCopy         = names.LabelCopy
	LabelStandby      = names.LabelStandby
	AnnotationProfile = names.AnnotationProfile
	AnnotationOnly    = names.AnnotationOnly
	AnnotationThin    = names.AnnotationThin
	LabelVolume       = names.LabelVolume
	PropManaged       = names.PropManaged
	PropBackup        = names.PropBackup
	PropVersion       = names.PropVersion
	PropVolume        = names.PropVolume
	PropGroup         = names.PropGroup
	PropTagPrefix     = names.PropTagPrefix
	PropClaimPrefix   = names.PropClaimPrefix
	PropRestore       = names.PropRestore
	PropRun           = names.PropRun
	PropSource        = names.PropSource
	PropStream        = names.PropStream
	PropFenced        = names.PropFenced
)

// HoldTag returns the hold tag that keeps a snapshot for the given purpose, for
// example "backup" or "replication".
func HoldTag(purpose string) string { return names.HoldTag(purpose) }
