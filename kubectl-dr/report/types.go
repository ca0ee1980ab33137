// Package report holds what kubectl dr answers with, as objects that print as
// JSON and YAML, and the tables of them.
//
// +kubebuilder:object:generate=true
package report

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

//go:generate go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.18.0 object paths=.

// State of something that was looked at.
type State string

// The states, from good to bad. Skipped things could not be looked at, or
// need not be.
const (
	OK      State = "ok"
	Skipped State = "skipped"
	Warning State = "warning"
	Problem State = "problem"
)

var severity = map[State]int{Skipped: 0, OK: 1, Warning: 2, Problem: 3}

// Worse returns the worse of two states.
func Worse(a, b State) State {
	if severity[b] > severity[a] {
		return b
	}
	return a
}

// RPO says how much a failover would lose.
//
// +kubebuilder:object:root=true
type RPO struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// At is when it was measured.
	At        metav1.Time     `json:"at"`
	Objective metav1.Duration `json:"objective"`
	// State is ok up to the objective, warning up to twice as much, else
	// problem.
	State State `json:"state"`
	// Message says it in one sentence.
	Message string `json:"message"`
	// RestorePoint is what a failover would recover to.
	RestorePoint *RestorePoint `json:"restorePoint,omitempty"`
	// Metadata is the newest backup of the Kubernetes objects.
	Metadata *Metadata   `json:"metadataBackup,omitempty"`
	Volumes  []VolumeRPO `json:"volumes,omitempty"`
	// Clocks are those of the ZFS hosts that answered.
	Clocks []Clock `json:"clocks,omitempty"`
	// Notes are what to know before trusting the numbers, as clocks that differ.
	Notes []string `json:"notes,omitempty"`
}

// Clock is how a host's clock differs from this machine's.
type Clock struct {
	Node string `json:"node"`
	// Skew is above zero when it is ahead, and may be off by Uncertain.
	Skew      metav1.Duration `json:"skew"`
	Uncertain metav1.Duration `json:"uncertain"`
}

// RestorePoint is a backup that can be recovered.
type RestorePoint struct {
	Backup string `json:"backup"`
	// RestoresTo is the oldest time that data goes back to.
	RestoresTo metav1.Time     `json:"restoresTo"`
	Age        metav1.Duration `json:"age"`
}

// Metadata is a backup of objects.
type Metadata struct {
	Backup      string          `json:"backup"`
	CompletedAt metav1.Time     `json:"completedAt"`
	Age         metav1.Duration `json:"age"`
	State       State           `json:"state"`
}

// VolumeRPO is how far back one volume goes.
type VolumeRPO struct {
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	State     State  `json:"state"`
	// Backup is the newest from which the volume can be recovered.
	Backup     string           `json:"backup,omitempty"`
	SnapshotAt *metav1.Time     `json:"snapshotAt,omitempty"`
	Age        *metav1.Duration `json:"age,omitempty"`
	Node       string           `json:"node,omitempty"`
	Snapshot   string           `json:"snapshot,omitempty"`
	// Method is how Velero backed up a volume that is not ours to look for.
	Method plan.Method `json:"method,omitempty"`
	// Message says why a newer one, or none, can't be recovered.
	Message string `json:"message,omitempty"`
}

// Comparison says how a standby differs from its source.
//
// +kubebuilder:object:root=true
type Comparison struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	At metav1.Time `json:"at"`
	// Source and Standby say what was compared.
	Source  string `json:"source"`
	Standby string `json:"standby"`
	// State is problem when there is a difference.
	State State `json:"state"`
	// Compared counts the objects of the source.
	Compared int                `json:"compared"`
	Missing  int                `json:"missing"`
	Surplus  int                `json:"surplus"`
	Drifted  int                `json:"drifted"`
	Objects  []ObjectDifference `json:"objects,omitempty"`
}

// Difference is a way in which an object of the standby differs.
type Difference string

// The differences.
const (
	Missing Difference = "missing" // the standby lacks it
	Surplus Difference = "surplus" // only the standby has it
	Drifted Difference = "drifted" // its fields differ
	// Conflict is an object of a standby that somebody else made, or that was started.
	Conflict Difference = "conflict"
)

// ObjectDifference is one object that differs.
type ObjectDifference struct {
	Kind       string     `json:"kind"`
	Group      string     `json:"group,omitempty"`
	Namespace  string     `json:"namespace,omitempty"`
	Name       string     `json:"name"`
	Difference Difference `json:"difference"`
	// Fields are paths that differ; values are not told.
	Fields []string `json:"fields,omitempty"`
}

// Sync says how a warm standby differed from a backup, and what was done about it.
//
// +kubebuilder:object:root=true
type Sync struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	At metav1.Time `json:"at"`
	// Backup is what the standby is kept at, and BackupAt when it was taken.
	Backup   string      `json:"backup"`
	BackupAt metav1.Time `json:"backupAt"`
	Profile  string      `json:"profile"`
	// DryRun says that nothing was done.
	DryRun bool `json:"dryRun,omitempty"`
	// State is ok when the standby is as the backup has it, warning when that is left
	// to be asked for, and problem when something could not be done.
	State State `json:"state"`
	// Wanted counts the objects that the standby should have; the others those that
	// differed.
	Wanted    int          `json:"wanted"`
	Missing   int          `json:"missing"`
	Drifted   int          `json:"drifted"`
	Surplus   int          `json:"surplus"`
	Conflicts int          `json:"conflicts"`
	Objects   []SyncObject `json:"objects,omitempty"`
}

// SyncObject is one object that differed.
type SyncObject struct {
	ObjectDifference `json:",inline"`
	// Done is what was done: created, changed, replaced or deleted.
	Done string `json:"done,omitempty"`
	// Message says why nothing was, or what would be.
	Message string `json:"message,omitempty"`
}

// StandbySummary says how current a warm standby is.
type StandbySummary struct {
	Backup string          `json:"backup"`
	At     metav1.Time     `json:"at"`
	Age    metav1.Duration `json:"age"`
	State  State           `json:"state"`
	// Message says what is wrong with it.
	Message string `json:"message,omitempty"`
}

// Rebuild says what a rebuild has to do, and who owns what.
//
// +kubebuilder:object:root=true
type Rebuild struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	At metav1.Time `json:"at"`
	// Backup is the restore point; empty for pools alone.
	Backup string `json:"backup,omitempty"`
	// ToDo counts the volumes and objects that are not as they should be; with 0 a
	// rebuild changes nothing.
	ToDo    int             `json:"toDo"`
	Volumes []RebuildVolume `json:"volumes,omitempty"`
	Objects []OwnedObject   `json:"objects,omitempty"`
	// Notes are what to know besides.
	Notes []string `json:"notes,omitempty"`
}

// RebuildVolume is a volume to bring back, and the claim that it is for.
type RebuildVolume struct {
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	// State is what the cluster has: absent, unbound, empty, written or restored.
	State string `json:"state"`
	// Action is restore, bind, swap, replace, keep, refuse or none.
	Action     string      `json:"action"`
	SnapshotAt metav1.Time `json:"snapshotAt"`
	Node       string      `json:"node,omitempty"`
	Snapshot   string      `json:"snapshot,omitempty"`
	Message    string      `json:"message,omitempty"`
}

// Owner is who can bring an object back.
type Owner string

// The owners.
const (
	OwnedByGit     Owner = "Git"
	OwnedByBackup  Owner = "backup"
	OwnedByBoth    Owner = "both"
	OwnedByNeither Owner = "neither"
)

// OwnedObject is an object of the application, in the cluster or not.
type OwnedObject struct {
	Kind      string `json:"kind"`
	Group     string `json:"group,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Owner     Owner  `json:"owner"`
	// By is what brings it from Git.
	By string `json:"by,omitempty"`
	// InCluster: it is there. Action is restore, wait or leave.
	InCluster bool   `json:"inCluster"`
	Action    string `json:"action"`
	// Fields are paths in which cluster and backup differ; values are not told.
	Fields []string `json:"fields,omitempty"`
}

// GitOps is what reconciles an application from Git at a site.
//
// +kubebuilder:object:root=true
type GitOps struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Items []GitOpsObject `json:"items"`
}

// GitOpsObject is one object of Argo CD or Flux.
type GitOpsObject struct {
	Site      string `json:"site"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// State is reconciling, paused, paused before, or absent; Changed that the
	// command made it so.
	State   string `json:"state"`
	By      string `json:"by,omitempty"`
	Changed bool   `json:"changed,omitempty"`
}

// EtcdSnapshot is a snapshot of a control plane's etcd.
//
// +kubebuilder:object:root=true
type EtcdSnapshot struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	TakenAt metav1.Time `json:"takenAt,omitempty"`
	// ServerVersion is that of the member, StorageVersion that of its file.
	ServerVersion  string `json:"serverVersion,omitempty"`
	StorageVersion string `json:"storageVersion,omitempty"`
	// Revision is etcd's, at which all keys are.
	Revision int64 `json:"revision"`
	Keys     int   `json:"keys"`
	// Size in bytes and SHA256 are those of the file.
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// Encryption is what values are encrypted with.
	Encryption []EtcdEncryption `json:"encryption,omitempty"`
	// EncryptionKeys are those of the apiserver's configuration.
	EncryptionKeys []EtcdKey `json:"encryptionKeys,omitempty"`
	// Parts is how many an archive has, and Sealed that they are encrypted.
	Parts  int  `json:"parts,omitempty"`
	Sealed bool `json:"sealed,omitempty"`
}

// EtcdSnapshotList is the snapshots in an archive.
//
// +kubebuilder:object:root=true
type EtcdSnapshotList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []EtcdSnapshot `json:"items"`
}

// EtcdEncryption counts the values that are encrypted with a key.
type EtcdEncryption struct {
	Provider string `json:"provider"`
	Name     string `json:"name"`
	Values   int    `json:"values"`
}

// EtcdKey is a key of encryption at rest; it is not told, but for a fingerprint.
type EtcdKey struct {
	Provider    string `json:"provider"`
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint,omitempty"`
}

// Check says whether a plan could be carried out now.
//
// +kubebuilder:object:root=true
type Check struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	At       metav1.Time `json:"at"`
	State    State       `json:"state"`
	OK       int         `json:"ok"`
	Warnings int         `json:"warnings"`
	Problems int         `json:"problems"`
	Groups   []Group     `json:"groups"`
}

// Group is checks of one subject.
type Group struct {
	Name  string `json:"name"`
	Items []Item `json:"items"`
}

// Item is one check.
type Item struct {
	Name    string `json:"name"`
	State   State  `json:"state"`
	Message string `json:"message,omitempty"`
	// Remedy says what to do about a warning or problem.
	Remedy string `json:"remedy,omitempty"`
}

// Status is where a plan stands.
//
// +kubebuilder:object:root=true
type Status struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	At metav1.Time `json:"at"`
	// Role of the recovery cluster: standby, failing over, active, failing back, or
	// rolling back.
	Role string `json:"role"`
	// Active is the site that the application was moved to last, and Epoch counts
	// the runs that changed roles.
	Active string `json:"active"`
	Epoch  int64  `json:"epoch"`
	// Uncommitted: a failover can be rolled back, because nothing has followed it.
	Uncommitted bool `json:"uncommitted,omitempty"`
	// BothActive says by what the application seems to run at both sites.
	BothActive []string `json:"bothActive,omitempty"`
	// Unknown says why it could not be found out whether the other site is active.
	Unknown string `json:"unknown,omitempty"`
	// Running, LastDrill, LastFailover and LastReprotect are runs. Failbacks and
	// rollbacks are among the failovers; the reprotection is that of the last failover.
	Running       *RunSummary `json:"running,omitempty"`
	LastDrill     *RunSummary `json:"lastDrill,omitempty"`
	LastFailover  *RunSummary `json:"lastFailover,omitempty"`
	LastReprotect *RunSummary `json:"lastReprotect,omitempty"`
	// Kept are drills whose objects are still there because that was asked for.
	Kept         []KeptDrill   `json:"kept,omitempty"`
	RestorePoint *RestorePoint `json:"restorePoint,omitempty"`
	// Standby is the warm standby, if there is one.
	Standby *StandbySummary `json:"standby,omitempty"`
	RPO     *RPOSummary     `json:"rpo,omitempty"`
	// Next says what to do.
	Next []string `json:"next,omitempty"`
}

// KeptDrill is a drill that was kept, and until when it is wanted; for ever when that
// is not said.
type KeptDrill struct {
	Name    string       `json:"name"`
	Until   *metav1.Time `json:"until,omitempty"`
	Expired bool         `json:"expired,omitempty"`
}

// RunSummary is a run in short.
type RunSummary struct {
	Name      string           `json:"name"`
	Phase     plan.Phase       `json:"phase"`
	StartedAt *metav1.Time     `json:"startedAt,omitempty"`
	RTO       *metav1.Duration `json:"rto,omitempty"`
	Message   string           `json:"message,omitempty"`
}

// RPOSummary is an RPO in short.
type RPOSummary struct {
	State     State           `json:"state"`
	Objective metav1.Duration `json:"objective"`
	Message   string          `json:"message"`
}

// Protection says which Schedules take the backups of a plan.
//
// +kubebuilder:object:root=true
type Protection struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	At        metav1.Time    `json:"at"`
	Schedules []ScheduleInfo `json:"schedules"`
}

// ScheduleInfo is one Schedule.
type ScheduleInfo struct {
	// Class is interval, daily, weekly or monthly; empty for a Schedule of a class
	// that the plan does not have any more.
	Class    string `json:"class,omitempty"`
	Schedule string `json:"schedule"`
	// When is in the words of cron.
	When string `json:"when"`
	// Keep backups are there when each lives for TTL.
	Keep int32           `json:"keep,omitempty"`
	TTL  metav1.Duration `json:"ttl"`
	// State says what was done: created, changed, unchanged, surplus or deleted; in
	// a dry run to create or to change.
	State      string       `json:"state"`
	Paused     bool         `json:"paused,omitempty"`
	LastBackup *metav1.Time `json:"lastBackup,omitempty"`
	// Next are the next backups; there is none while it is paused.
	Next []metav1.Time `json:"next,omitempty"`
}

// Bundle says what was collected.
//
// +kubebuilder:object:root=true
type Bundle struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	At    metav1.Time `json:"at"`
	File  string      `json:"file"`
	Bytes int64       `json:"bytes"`
	// Files are those in it, and Redacted how many times something was blanked.
	Files    int `json:"files"`
	Redacted int `json:"redacted"`
	// Missing says what could not be collected, and why.
	Missing []string `json:"missing,omitempty"`
}

// Signature says who signed a file.
//
// +kubebuilder:object:root=true
type Signature struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	At   metav1.Time `json:"at"`
	File string      `json:"file"`
	// Signer is what the list of signers calls the owner of the key.
	Signer string `json:"signer"`
	// Key is the SHA-256 fingerprint of the public key, as SSH writes it.
	Key     string `json:"key"`
	KeyType string `json:"keyType"`
}

// Version says what runs.
//
// +kubebuilder:object:root=true
type Version struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Client string `json:"client"`
	// Server is Velero's in the recovery cluster.
	Server string      `json:"server,omitempty"`
	Agents []AgentInfo `json:"agents,omitempty"`
}

// AgentInfo is what an agent says of itself.
type AgentInfo struct {
	Node    string `json:"node"`
	Version string `json:"version,omitempty"`
	ZFS     string `json:"zfs,omitempty"`
	Error   string `json:"error,omitempty"`
}

// Holds says who keeps snapshots from being destroyed.
//
// +kubebuilder:object:root=true
type Holds struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	At    metav1.Time `json:"at"`
	Holds []Hold      `json:"holds"`
	// Missing are the nodes whose agents gave no answer.
	Missing []AgentInfo `json:"missing,omitempty"`
}

// Hold is one hold on a snapshot.
type Hold struct {
	Node     string `json:"node"`
	Snapshot string `json:"snapshot"`
	GUID     string `json:"guid"`
	Tag      string `json:"tag"`
	// By is the identity that placed it, Owner what it is for: "backup/<name>",
	// "run/<name>", or the replicas of the dataset.
	By     string      `json:"by,omitempty"`
	Owner  string      `json:"owner,omitempty"`
	Why    string      `json:"why,omitempty"`
	Placed metav1.Time `json:"placed"`
	// Until is the end of its lease; holds without one stay until they are
	// released.
	Until *metav1.Time `json:"until,omitempty"`
	// State is live, expired, orphan or foreign.
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	// Dead holds are those that may be released.
	Dead     bool   `json:"dead,omitempty"`
	Released bool   `json:"released,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Forgotten lists the snapshots of a backup that Velero does not know, with their
// copies, and what becomes of each.
//
// +kubebuilder:object:root=true
type Forgotten struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	At        metav1.Time         `json:"at"`
	Snapshots []ForgottenSnapshot `json:"snapshots"`
}

// ForgottenSnapshot is a snapshot, a copy of one, or a restore point in an archive.
type ForgottenSnapshot struct {
	Node string `json:"node"`
	// Archive has it, and the node reaches that.
	Archive  string `json:"archive,omitempty"`
	Snapshot string `json:"snapshot"`
	GUID     string `json:"guid"`
	// UID is what of the backup's uid is in the snapshot's name.
	UID string `json:"uid"`
	// CopyOf is the snapshot that it is a copy of, "node:dataset@snapshot".
	CopyOf string      `json:"copyOf,omitempty"`
	Taken  metav1.Time `json:"taken"`
	// Used are the bytes that are freed with it alone.
	Used int64 `json:"used"`
	// State is known, kept, blocked, to destroy, later or destroyed.
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
}

// Certificates says which TLS bundles were issued, and where they are. There are
// no keys in it.
//
// +kubebuilder:object:root=true
type Certificates struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Certificates []Certificate `json:"certificates"`
}

// Certificate is one TLS bundle.
type Certificate struct {
	// Identity is the common name; of a node's agent it is the node's name.
	Identity string `json:"identity"`
	// Role is agent or client.
	Role    string       `json:"role"`
	File    string       `json:"file"`
	Expires *metav1.Time `json:"expires,omitempty"`
	// Secrets are where it is, or belongs, in this cluster, as
	// namespace/name[key].
	Secrets []string `json:"secrets,omitempty"`
	// State says what was done: planned, issued or applied.
	State string `json:"state"`
}

// TypeMeta returns the type of a report of a kind.
func TypeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: plan.GroupVersion.String(), Kind: kind}
}
