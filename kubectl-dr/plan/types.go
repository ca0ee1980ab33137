// Package plan holds the RecoveryPlan and RecoveryRun types, reads plans from
// files or the cluster, and says what is wrong with them. It knows nothing of
// cobra, printing, Velero calls or ZFS.
//
// +kubebuilder:object:generate=true
// +groupName=kubectl-dr.io
// +versionName=v1alpha1
package plan

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// RecoveryPlan says how one application is recovered: what is protected, to
// what objectives, in which order it starts and how recovery is proved.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=drplan
// +kubebuilder:printcolumn:name="RPO",type=string,JSONPath=`.spec.objectives.rpo`
// +kubebuilder:printcolumn:name="RTO",type=string,JSONPath=`.spec.objectives.rto`
// +kubebuilder:printcolumn:name="Schedule",type=string,JSONPath=`.spec.source.schedule`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type RecoveryPlan struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec RecoveryPlanSpec `json:"spec"`
}

// RecoveryPlanList is a list of plans.
//
// +kubebuilder:object:root=true
type RecoveryPlanList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []RecoveryPlan `json:"items"`
}

// RecoveryPlanSpec is what an operator writes.
type RecoveryPlanSpec struct {
	Objectives Objectives `json:"objectives"`
	Source     Source     `json:"source"`
	// Protect says how often backups are taken and how many are kept; kubectl dr
	// protect makes the Velero Schedules of it.
	Protect *Protect `json:"protect,omitempty"`
	// Profiles names the rewrite profile used for each kind of run.
	Profiles Profiles `json:"profiles,omitempty"`
	// Start lists waves of workloads in start order. Workloads in no wave start
	// after the last one.
	Start []Wave `json:"start,omitempty"`
	// Probes prove that the recovered application works.
	Probes []Probe `json:"probes,omitempty"`
	// Traffic says which names must point to the recovery site after failover.
	Traffic *Traffic `json:"traffic,omitempty"`
	// GitOps names what reconciles the application from Git. It is paused where it
	// would undo what a run does.
	GitOps *GitOps `json:"gitops,omitempty"`
	// Requires are services that the application needs and no backup holds: an identity
	// provider, a mail relay, monitoring. kubectl dr check asks each.
	Requires []Requirement `json:"requires,omitempty"`
	// Failback says how the application is protected while it runs at the recovery
	// site.
	Failback *Failback `json:"failback,omitempty"`
}

// Requirement is a service outside of what is recovered.
type Requirement struct {
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
	// URL is http, https or tcp. A service is there when it answers with a status below
	// 500, or takes a connection.
	//
	// +kubebuilder:validation:Pattern=`^(https?|tcp)://`
	URL string `json:"url"`
}

// GitOps names the objects of Argo CD and Flux at either site. Those that a site
// does not have are passed over there, except at the source of a planned failover.
type GitOps struct {
	ArgoCD []ArgoApplication `json:"argocd,omitempty"`
	Flux   []FluxObject      `json:"flux,omitempty"`
}

// ArgoApplication is an Application of Argo CD.
type ArgoApplication struct {
	// +kubebuilder:validation:MinLength=1
	Application string `json:"application"`
	// Namespace is the Application's; "argocd" when empty.
	Namespace string `json:"namespace,omitempty"`
}

// The kinds of FluxObject.
const (
	FluxKustomization = "Kustomization"
	FluxHelmRelease   = "HelmRelease"
)

// FluxObject is what Flux reconciles.
type FluxObject struct {
	// +kubebuilder:validation:Enum=Kustomization;HelmRelease
	Kind string `json:"kind"`
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
	// Namespace is the object's; "flux-system" when empty.
	Namespace string `json:"namespace,omitempty"`
}

// Failback is what the way back needs.
type Failback struct {
	// StorageLocation is the BackupStorageLocation that backups go to while the
	// application runs at the recovery site. Both clusters have it: the recovery
	// site may write to it, the source reads it. Empty stays with the schedule's.
	StorageLocation string `json:"storageLocation,omitempty"`
}

// Objectives are what a run is measured against.
type Objectives struct {
	// RPO is the most data, as time, that a failover may lose.
	RPO metav1.Duration `json:"rpo"`
	// RTO is the longest a failover may take.
	RTO metav1.Duration `json:"rto"`
	// DrillEvery is how old the last passed drill may be.
	DrillEvery *metav1.Duration `json:"drillEvery,omitempty"`
}

// Source says what is protected and by which Velero schedule.
type Source struct {
	// Namespaces are the source namespaces.
	//
	// +kubebuilder:validation:MinItems=1
	Namespaces []string `json:"namespaces"`
	// Schedule is the Velero Schedule whose backups are restore points.
	//
	// +kubebuilder:validation:MinLength=1
	Schedule string `json:"schedule"`
	// IgnoreClaims lists claims, "<name>" or "<namespace>/<name>", that are left
	// out of backups on purpose: they may come back empty.
	IgnoreClaims []string `json:"ignoreClaims,omitempty"`
	// StretchedPools are mirrored over both sites. A failover imports them where it
	// goes, with everything that was synced, and looks for no copies of what is on
	// them.
	StretchedPools []StretchedPool `json:"stretchedPools,omitempty"`
	// VeleroNamespace is where Velero runs; "velero" when empty.
	VeleroNamespace string `json:"veleroNamespace,omitempty"`
}

// StretchedPool is a ZFS pool whose disks a host at each site reaches.
type StretchedPool struct {
	// +kubebuilder:validation:MinLength=1
	Pool string `json:"pool"`
	// Source and Recovery are the nodes, as their agents are called.
	//
	// +kubebuilder:validation:MinLength=1
	Source string `json:"source"`
	// +kubebuilder:validation:MinLength=1
	Recovery string `json:"recovery"`
}

// Stretched returns the stretched pool that a node's dataset is on, nil for none.
func (s Source) Stretched(node, dataset string) *StretchedPool {
	for i, p := range s.StretchedPools {
		pool, _, _ := strings.Cut(dataset, "/")
		if p.Pool == pool && (p.Source == node || p.Recovery == node) {
			return &s.StretchedPools[i]
		}
	}
	return nil
}

// Mirrored reports whether every volume that is not empty comes with a stretched pool.
func Mirrored(volumes []Volume) bool {
	mirrored := false
	for _, v := range volumes {
		if !v.Unprotected && v.StretchedPool == "" {
			return false
		}
		mirrored = mirrored || v.StretchedPool != ""
	}
	return mirrored
}

// For is the source as a run of a kind sees it. A drill and a rebuild are made of copies
// alone. On the way back it is the recovery site that has stretched pools, and the source
// that imports them.
func (s Source) For(kind RunKind) Source {
	switch kind {
	case RunDrill, RunRebuild:
		return s.OfCopies()
	case RunReprotect, RunFailback:
		s.StretchedPools = slices.Clone(s.StretchedPools)
		for i, p := range s.StretchedPools {
			s.StretchedPools[i].Source, s.StretchedPools[i].Recovery = p.Recovery, p.Source
		}
	}
	return s
}

// OfCopies is the source for what takes no pool from it, and is made of copies alone: a
// drill, and a rebuild.
func (s Source) OfCopies() Source {
	s.StretchedPools = nil
	return s
}

// Protect is up to four classes of backups, each with a Velero Schedule of its
// own. Times are UTC, as long as Velero's server has no other time zone.
type Protect struct {
	// StorageLocation is the BackupStorageLocation of the backups; Velero's default
	// when empty.
	StorageLocation string `json:"storageLocation,omitempty"`
	// SnapshotLocations are the VolumeSnapshotLocations, one for each provider;
	// Velero's default ones when empty.
	SnapshotLocations []string `json:"snapshotLocations,omitempty"`
	// OperationTimeout is how long Velero waits for the copies of a backup, from when
	// each begins: itemOperationTimeout of the Schedules. Velero gives up a first full
	// copy that takes longer. What the Schedule says when empty, or else Velero's
	// server: 4h by default.
	OperationTimeout *metav1.Duration `json:"operationTimeout,omitempty"`
	// Interval backups are the restore points: their Schedule is
	// spec.source.schedule. The other Schedules are named after it, as
	// "<schedule>-daily"; their backups are there to go further back, by name.
	Interval *IntervalClass `json:"interval,omitempty"`
	Daily    *DailyClass    `json:"daily,omitempty"`
	Weekly   *WeeklyClass   `json:"weekly,omitempty"`
	Monthly  *MonthlyClass  `json:"monthly,omitempty"`
}

// IntervalClass is backups every so often.
type IntervalClass struct {
	// Every is the time between two, a minute at least.
	Every metav1.Duration `json:"every"`
	// Keep is how many are kept: each expires after so many times Every.
	//
	// +kubebuilder:validation:Minimum=2
	Keep int32 `json:"keep"`
}

// DailyClass is one backup a day.
type DailyClass struct {
	// At is "hh:mm".
	//
	// +kubebuilder:validation:Pattern=`^([01][0-9]|2[0-3]):[0-5][0-9]$`
	At string `json:"at"`
	// Keep is how many are kept: each expires after so many days.
	//
	// +kubebuilder:validation:Minimum=2
	Keep int32 `json:"keep"`
}

// WeeklyClass is one backup a week.
type WeeklyClass struct {
	// Day of the week.
	//
	// +kubebuilder:validation:Enum=sunday;monday;tuesday;wednesday;thursday;friday;saturday
	Day string `json:"day"`
	// At is "hh:mm".
	//
	// +kubebuilder:validation:Pattern=`^([01][0-9]|2[0-3]):[0-5][0-9]$`
	At string `json:"at"`
	// Keep is how many are kept: each expires after so many weeks.
	//
	// +kubebuilder:validation:Minimum=2
	Keep int32 `json:"keep"`
}

// MonthlyClass is one backup a month.
type MonthlyClass struct {
	// Day of the month; every month has those up to 28.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=28
	Day int32 `json:"day"`
	// At is "hh:mm".
	//
	// +kubebuilder:validation:Pattern=`^([01][0-9]|2[0-3]):[0-5][0-9]$`
	At string `json:"at"`
	// Keep is how many are kept: each expires after so many times 31 days.
	//
	// +kubebuilder:validation:Minimum=2
	Keep int32 `json:"keep"`
}

// Profiles names rewrite profiles by kind of run. Empty restores as it was.
type Profiles struct {
	Drill    string `json:"drill,omitempty"`
	Failover string `json:"failover,omitempty"`
	Failback string `json:"failback,omitempty"`
	// Standby is for the objects of a warm standby, which kubectl dr sync keeps: it
	// has state: standby, and keeps names from being claimed.
	Standby string `json:"standby,omitempty"`
	Rebuild string `json:"rebuild,omitempty"`
}

// Wave is a group of workloads started together; the next wave waits for it.
type Wave struct {
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
	// Workloads are "<kind>/<name>" or "<namespace>/<kind>/<name>", kind one of
	// deployment, statefulset, daemonset. The namespace is the source's; it may
	// be left out when the plan has one namespace.
	Workloads []string `json:"workloads"`
	// Timeout until the wave is ready; 5m when zero.
	Timeout metav1.Duration `json:"timeout,omitempty"`
	// Before is done, in order, before the wave is started, and After once it is ready.
	Before []Hook `json:"before,omitempty"`
	After  []Hook `json:"after,omitempty"`
}

// Hook is what a run does between waves: what a probe does, or a question. The run
// goes on when it has succeeded. One that was interrupted does the hook again that it
// was at. Exactly one of Prompt, HTTP, TCP, Exec, SQL and Job is set.
type Hook struct {
	Probe `json:",inline"`
	// Prompt is what somebody has to do, or to decide, who then answers yes.
	Prompt string `json:"prompt,omitempty"`
	// In are the commands whose runs have the hook; all that restore when empty.
	In []HookCommand `json:"in,omitempty"`
}

// HookCommand is a command whose runs start workloads.
//
// +kubebuilder:validation:Enum=drill;failover;failback;rollback;rebuild
type HookCommand string

// hookCommands are all of them.
var hookCommands = []HookCommand{"drill", "failover", "failback", "rollback", "rebuild"}

// For reports whether runs of a kind have the hook. A rollback starts what was there
// before, and has none but those that name it.
func (h Hook) For(kind RunKind) bool {
	return len(h.In) == 0 && kind != RunRollback || slices.Contains(h.In, HookCommand(kind.Verb()))
}

// Hooks are those before and after all waves.
func (s RecoveryPlanSpec) Hooks() []Hook {
	var all []Hook
	for _, w := range s.Start {
		all = append(append(all, w.Before...), w.After...)
	}
	return all
}

// Probe checks the running application. Exactly one of HTTP, TCP, Exec, SQL and Job is
// set.
type Probe struct {
	Name string `json:"name"`
	// Namespace is the source namespace; may be left out when the plan has one.
	Namespace string     `json:"namespace,omitempty"`
	HTTP      *HTTPProbe `json:"http,omitempty"`
	TCP       *TCPProbe  `json:"tcp,omitempty"`
	Exec      *ExecProbe `json:"exec,omitempty"`
	SQL       *SQLProbe  `json:"sql,omitempty"`
	Job       *JobProbe  `json:"job,omitempty"`
	// Timeout until the probe passes, retries included; 1m when zero, 10m for a job.
	Timeout metav1.Duration `json:"timeout,omitempty"`
}

// HTTPProbe gets a path from a ready pod behind a Service, through the API
// server's port forwarding.
type HTTPProbe struct {
	Service string `json:"service"`
	Port    int32  `json:"port,omitempty"` // service port; the first when zero
	Path    string `json:"path,omitempty"`
	// Host is the Host header as production has it. Where the profile of a run
	// replaces that name, the one it puts in its place is asked for.
	Host    string            `json:"host,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Expect  HTTPExpect        `json:"expect,omitempty"`
}

// HTTPExpect is what an HTTP answer must be.
type HTTPExpect struct {
	Status int `json:"status,omitempty"` // 200 when zero
	// Contains is in the answer. $(HOST) stands for the host that was asked for.
	Contains string `json:"contains,omitempty"`
}

// TCPProbe connects to a ready pod behind a Service.
type TCPProbe struct {
	Service string `json:"service"`
	Port    int32  `json:"port,omitempty"`
}

// ExecProbe runs a command in a pod of a workload.
type ExecProbe struct {
	Workload  string     `json:"workload"` // as in Wave.Workloads
	Container string     `json:"container,omitempty"`
	Command   []string   `json:"command"`
	Expect    ExecExpect `json:"expect,omitempty"`
}

// ExecExpect is what a command must end with.
type ExecExpect struct {
	ExitCode int    `json:"exitCode,omitempty"`
	Contains string `json:"contains,omitempty"`
}

// The clients of SQLProbe.
const (
	SQLMariaDB  = "mariadb"
	SQLMySQL    = "mysql"
	SQLPostgres = "psql"
)

// SQLProbe asks a database by its own client, in a pod of a workload.
type SQLProbe struct {
	Workload  string `json:"workload"` // as in Wave.Workloads
	Container string `json:"container,omitempty"`
	// Client is the program in the container.
	//
	// +kubebuilder:validation:Enum=mariadb;mysql;psql
	Client   string `json:"client"`
	User     string `json:"user,omitempty"`     // that of the client when empty
	Database string `json:"database,omitempty"` // that of the client when empty
	// PasswordEnv is the container's environment variable that holds the password;
	// none when empty.
	PasswordEnv string    `json:"passwordEnv,omitempty"`
	Query       string    `json:"query"`
	Expect      SQLExpect `json:"expect"`
}

// SQLExpect is what the answer must be; exactly one is set.
type SQLExpect struct {
	// Equals is the whole answer, with a line for each row.
	Equals *string `json:"equals,omitempty"`
	// AtLeast is the least that the answer, one number, may be.
	AtLeast *int64 `json:"atLeast,omitempty"`
}

// JobProbe runs a Job where the application is, once. It has to succeed, and is
// deleted afterwards.
type JobProbe struct {
	// Spec is that of a Job. Its pods are not restarted or tried again unless it says
	// so.
	//
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Spec runtime.RawExtension `json:"spec"`
}

// The methods of Traffic.
const (
	TrafficExternalDNS = "external-dns"
	TrafficManual      = "manual"
	TrafficUpdate      = "update"
)

// Traffic says how clients find the application.
type Traffic struct {
	Hosts []string `json:"hosts"`
	// Method is "external-dns" (the restored objects claim the names), "update" (the
	// zone's server is sent what to change) or "manual" (the report lists it).
	//
	// +kubebuilder:validation:Enum=external-dns;manual;update
	Method string `json:"method"`
	// Targets are what the hosts point to at each site, where that is not what load
	// balancers there give the restored objects.
	Targets *TrafficTargets `json:"targets,omitempty"`
	// TTL of records that are made where there were none; 1m when not given.
	TTL *metav1.Duration `json:"ttl,omitempty"`
	// Resolver is the name server that knows where the zones are, as host:port; this
	// machine's when empty.
	Resolver string `json:"resolver,omitempty"`
	// Update is how the zone's server takes changes (RFC 2136). With external-dns it
	// is used to hand records over that another external-dns owns.
	Update *DNSUpdate `json:"update,omitempty"`
	// Verify waits, after the names were pointed to a site, until they are.
	Verify *TrafficVerify `json:"verify,omitempty"`
}

// TrafficTargets are addresses, or one name, to which the hosts become aliases.
type TrafficTargets struct {
	Source   []string `json:"source,omitempty"`
	Recovery []string `json:"recovery,omitempty"`
}

// DNSUpdate is a server that takes signed updates.
type DNSUpdate struct {
	// Server is host:port; the primary that the zone names when empty.
	Server string `json:"server,omitempty"`
	// KeyName is the name of the key, as the server knows it.
	//
	// +kubebuilder:validation:MinLength=1
	KeyName string `json:"keyName"`
	// Algorithm is hmac-sha256 when empty.
	//
	// +kubebuilder:validation:Enum=hmac-sha256;hmac-sha384;hmac-sha512
	Algorithm string `json:"algorithm,omitempty"`
	// Secret is in Velero's namespace of the site that the application goes to, and
	// holds the key as servers write it, in base 64.
	Secret SecretKey `json:"secret"`
}

// SecretKey is one entry of a Secret.
type SecretKey struct {
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
	// +kubebuilder:validation:MinLength=1
	Key string `json:"key"`
}

// TrafficVerify is what proves that clients find the application.
type TrafficVerify struct {
	// Timeout until every server of the zone answers with the targets, and the URL as
	// expected; 5m when zero.
	Timeout metav1.Duration `json:"timeout,omitempty"`
	// URL is asked for from here, as any client would; none when empty.
	URL    string     `json:"url,omitempty"`
	Expect HTTPExpect `json:"expect,omitempty"`
}

// RunKind is what a RecoveryRun does.
//
// +kubebuilder:validation:Enum=Drill;Failover;PlannedFailover;Reprotect;Failback;Rollback;Rebuild
type RunKind string

// The kinds of run.
const (
	RunDrill           RunKind = "Drill"
	RunFailover        RunKind = "Failover"        // disaster: the source is not needed
	RunPlannedFailover RunKind = "PlannedFailover" // source quiesced, final backup, no loss
	RunReprotect       RunKind = "Reprotect"       // replication goes from the recovery site to the source
	RunFailback        RunKind = "Failback"        // as PlannedFailover, from the recovery site to the source
	RunRollback        RunKind = "Rollback"        // a failover that nothing followed is undone: the source goes on where it stopped
	RunRebuild         RunKind = "Rebuild"         // a fresh cluster gets what Git does not bring
)

// Phase of a run or a step.
type Phase string

// The phases. A run that is neither Passed, Failed nor Aborted goes on when the
// command is run again.
const (
	PhasePending Phase = "Pending"
	PhaseRunning Phase = "Running"
	PhasePassed  Phase = "Passed"
	PhaseFailed  Phase = "Failed"
	PhaseSkipped Phase = "Skipped"
	PhaseAborted Phase = "Aborted"
)

// RecoveryRun is the journal and the report of one drill or failover. It lives
// in the recovery cluster.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=drrun
// +kubebuilder:printcolumn:name="Kind",type=string,JSONPath=`.spec.kind`
// +kubebuilder:printcolumn:name="Plan",type=string,JSONPath=`.spec.plan`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="RPO",type=string,JSONPath=`.status.rpo`
// +kubebuilder:printcolumn:name="RTO",type=string,JSONPath=`.status.rto`
// +kubebuilder:printcolumn:name="Started",type=date,JSONPath=`.status.startedAt`
// +kubebuilder:printcolumn:name="By",type=string,priority=1,JSONPath=`.status.executedBy[0].user`
type RecoveryRun struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   RecoveryRunSpec   `json:"spec"`
	Status RecoveryRunStatus `json:"status,omitempty"`
}

// RecoveryRunList is a list of runs.
//
// +kubebuilder:object:root=true
type RecoveryRunList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []RecoveryRun `json:"items"`
}

// RecoveryRunSpec is fixed when the run starts.
type RecoveryRunSpec struct {
	Kind RunKind `json:"kind"`
	// Plan is the name of the plan; PlanSpec is the plan as it was.
	Plan     string           `json:"plan"`
	PlanSpec RecoveryPlanSpec `json:"planSpec"`
	// Backup is the restore point; empty for a Rollback, and for a Rebuild from pools
	// alone.
	Backup string `json:"backup"`
	// NamespaceMapping maps source to target namespaces; empty keeps them.
	NamespaceMapping map[string]string `json:"namespaceMapping,omitempty"`
	// Keep leaves a drill's objects in place.
	Keep bool `json:"keep,omitempty"`
	// TTL is how long after its end they are wanted; as long as nobody removes them
	// when nil.
	TTL *metav1.Duration `json:"ttl,omitempty"`
	// Epoch counts the runs of the plan that change roles, from 1; 0 for a drill.
	Epoch int64 `json:"epoch,omitempty"`
	// Follows names the run that moved the application to where it runs when this
	// one begins; empty while it runs where it was installed.
	Follows string `json:"follows,omitempty"`
	// SetAside makes room for the application where an earlier run stopped it: its
	// namespaces there are deleted, and its volumes are kept.
	SetAside bool `json:"setAside,omitempty"`
	// Standby says what becomes of a warm standby where the application goes; empty
	// when there is none.
	Standby StandbyUse `json:"standby,omitempty"`
	// Rebuild says what a run of that kind does.
	Rebuild *RebuildSpec `json:"rebuild,omitempty"`
}

// RebuildSpec says what a Rebuild does.
type RebuildSpec struct {
	// VolumesOnly restores volumes and nothing else.
	VolumesOnly bool `json:"volumesOnly,omitempty"`
	// ReplaceClaims are claims, "<namespace>/<name>", that were written to and are
	// replaced all the same: what they hold is kept. KeepClaims stay as they are.
	ReplaceClaims []string `json:"replaceClaims,omitempty"`
	KeepClaims    []string `json:"keepClaims,omitempty"`
	// Pools are nodes whose pools are all there is to rebuild from.
	Pools []string `json:"pools,omitempty"`
}

// StandbyUse is what a failover does with a warm standby.
//
// +kubebuilder:validation:Enum=activate;remove
type StandbyUse string

// The uses.
const (
	// StandbyActivate brings it to the restore point and restores the volumes alone.
	StandbyActivate StandbyUse = "activate"
	// StandbyRemove deletes it and restores everything.
	StandbyRemove StandbyUse = "remove"
)

// RecoveryRunStatus is the journal.
type RecoveryRunStatus struct {
	Phase     Phase        `json:"phase,omitempty"`
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	EndedAt   *metav1.Time `json:"endedAt,omitempty"`
	// ExecutedBy are those who worked on the run, in turn: who began it, and who went
	// on with it, ended it or cleaned up after it.
	ExecutedBy []Executor `json:"executedBy,omitempty"`
	// RPO is the time between the oldest volume's restored point and the start
	// of the run (the disaster, as far as known), zero for a planned failover;
	// RTO the time from the start to the last passed probe.
	RPO *metav1.Duration `json:"rpo,omitempty"`
	RTO *metav1.Duration `json:"rto,omitempty"`
	// RPOMet and RTOMet compare with the plan's objectives.
	RPOMet  *bool    `json:"rpoMet,omitempty"`
	RTOMet  *bool    `json:"rtoMet,omitempty"`
	Steps   []Step   `json:"steps,omitempty"`
	Volumes []Volume `json:"volumes,omitempty"`
	// RestoredTo is the oldest time that data goes back to.
	RestoredTo *metav1.Time `json:"restoredTo,omitempty"`
	// Message says in one sentence how the run ended or what it waits for.
	Message string `json:"message,omitempty"`
}

// Executor is who worked on a run, and with what.
type Executor struct {
	// User is what the API server of the recovery cluster calls them; empty where it
	// did not say.
	User string `json:"user,omitempty"`
	// Version is that of kubectl dr.
	Version string `json:"version"`
	// Since is when they wrote to the journal first.
	Since metav1.Time `json:"since"`
}

// Step is one journalled step. Every step is listed from the start; steps that
// were not executed stay Pending.
type Step struct {
	Name      string       `json:"name"`
	Phase     Phase        `json:"phase"`
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	EndedAt   *metav1.Time `json:"endedAt,omitempty"`
	Message   string       `json:"message,omitempty"`
}

// Method is how Velero backs up a volume without kubectl-dr.io/zfs.
type Method string

// The methods.
const (
	// MethodPodVolumeBackup reads files from a running pod into the backup's
	// repository, and restores them into one.
	MethodPodVolumeBackup Method = "PodVolumeBackup"
	// MethodDataUpload moves the data of a CSI snapshot into that repository.
	MethodDataUpload Method = "DataUpload"
	// MethodCSISnapshot leaves a snapshot with the volume's driver, and
	// MethodNativeSnapshot with the provider of another snapshotter.
	MethodCSISnapshot    Method = "CSISnapshot"
	MethodNativeSnapshot Method = "NativeSnapshot"
)

// AtSource reports whether what the method keeps stays with the storage of the source.
func (m Method) AtSource() bool { return m == MethodCSISnapshot || m == MethodNativeSnapshot }

// Volume is one volume of the restore point.
type Volume struct {
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	// SnapshotID is the volume snapshotter's identifier; empty for a volume that
	// Velero restores by another method than kubectl-dr.io/zfs.
	SnapshotID string `json:"snapshotID,omitempty"`
	// Method is how Velero backed up a volume that has no SnapshotID.
	Method     Method      `json:"method,omitempty"`
	SnapshotAt metav1.Time `json:"snapshotAt"`
	// Node and Snapshot say where the copy at the recovery site lies.
	Node     string `json:"node,omitempty"`
	Snapshot string `json:"snapshot,omitempty"`
	// StretchedPool is the pool, mirrored over both sites, that the volume comes with as
	// it was written last. It needs no copy.
	StretchedPool string `json:"stretchedPool,omitempty"`
	// Problem says why the volume cannot be recovered from this point.
	Problem string `json:"problem,omitempty"`
	// Runs is the volume in use when a Reprotect or a Rollback began, as
	// "<node>:<dataset>", and Changed how many bytes were written to it since the failover.
	Runs    string `json:"runs,omitempty"`
	Changed *int64 `json:"changed,omitempty"`
	// Left is the volume that the failover left, Diverged how many bytes were
	// written to it since, and Kept the snapshot that keeps them. Without Diverged
	// the two sides have no snapshot in common, and everything has to be sent. A
	// Rollback goes on with what was left, and keeps what was changed. A Rebuild that
	// replaces a claim leaves and keeps the volume it had.
	Left     string `json:"left,omitempty"`
	Diverged *int64 `json:"diverged,omitempty"`
	Kept     string `json:"kept,omitempty"`
	// Unprotected: the backup does not hold the volume's data, so it comes back
	// empty.
	Unprotected bool `json:"unprotected,omitempty"`
}
