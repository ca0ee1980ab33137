package check

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1api "k8s.io/api/core/v1"
	storagev1api "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/restorepoint"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/rpo"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/run"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
)

// Thresholds of free space in a pool, as a part of its size.
const (
	fewFree = 0.10
	veryFew = 0.03
)

// HintOr is what an error knows to do about it, or else the remedy.
func HintOr(err error, remedy string) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) && h.Hint() != "" {
		return h.Hint()
	}
	return remedy
}

// load reads what several subjects look at. What can't be read is reported
// where it is missed.
func (in *inspection) load(ctx context.Context) {
	in.backups, _ = in.Finder.Completed(ctx, in.plan.Spec.Source)
	if len(in.backups) > 0 {
		in.contents, _ = cluster.ReadJSON[map[string][]string](ctx, in.Cluster.Files,
			velerov1api.DownloadTargetKindBackupResourceList, in.backups[0].Name)
		if in.StorageErr == nil {
			in.points, in.pointsErr = in.Finder.Points(ctx, in.plan.Spec.Source)
		}
	}
}

// by returns the volumes of the newest backup that Velero backed up by a method.
func (in *inspection) by(m plan.Method) []string {
	if len(in.points) == 0 {
		return nil
	}
	return in.points[0].By(m)
}

func (in *inspection) lint(ctx context.Context) {
	faults := in.plan.Lint()
	for _, f := range faults {
		in.problem(f.Field, f.Message, "correct the plan")
	}
	if len(faults) == 0 {
		in.ok("format", "")
	}
	_, err := in.Finder.Completed(ctx, in.plan.Spec.Source)
	if err != nil {
		in.failed("schedule "+in.plan.Spec.Source.Schedule, err, "")
	} else {
		in.ok("schedule "+in.plan.Spec.Source.Schedule, report.Count(len(in.backups), "completed backup"))
	}
	if in.contents == nil {
		in.skip("references", "what the newest backup holds is not known")
		return
	}
	for _, ns := range in.plan.Spec.Source.Namespaces {
		if in.holdsNamespace(ns) {
			in.ok("namespace "+ns, "")
		} else {
			in.problem("namespace "+ns, fmt.Sprintf("backup %s holds nothing of it", in.backups[0].Name),
				"correct spec.source.namespaces, or include the namespace in the schedule's backups")
		}
	}
	in.references()
}

func (in *inspection) holdsNamespace(ns string) bool {
	for _, names := range in.contents {
		if slices.ContainsFunc(names, func(n string) bool { return n == ns || strings.HasPrefix(n, ns+"/") }) {
			return true
		}
	}
	return false
}

var kindOf = map[string]string{"deployment": "apps/v1/Deployment", "statefulset": "apps/v1/StatefulSet", "daemonset": "apps/v1/DaemonSet"}

// references looks whether what waves and probes name is in the backup.
func (in *inspection) references() {
	namespaces := in.plan.Spec.Source.Namespaces
	missing := map[string]bool{}
	look := func(where, kind, name string) {
		if !slices.Contains(in.contents[kind], name) {
			missing[fmt.Sprintf("%s: %s %s", where, kind[strings.LastIndex(kind, "/")+1:], name)] = true
		}
	}
	workload := func(where, s string) {
		if w, err := plan.ParseWorkload(s, namespaces); err == nil {
			look(where, kindOf[w.Kind], w.Namespace+"/"+w.Name)
		}
	}
	for _, wave := range in.plan.Spec.Start {
		for _, s := range wave.Workloads {
			workload("wave "+wave.Name, s)
		}
	}
	action := func(where string, p plan.Probe) {
		ns, err := plan.ParseNamespace(p.Namespace, namespaces)
		switch {
		case p.Exec != nil:
			workload(where, p.Exec.Workload)
		case p.SQL != nil:
			workload(where, p.SQL.Workload)
		case err != nil:
		case p.HTTP != nil:
			look(where, "v1/Service", ns+"/"+p.HTTP.Service)
		case p.TCP != nil:
			look(where, "v1/Service", ns+"/"+p.TCP.Service)
		}
	}
	for _, p := range in.plan.Spec.Probes {
		action("probe "+p.Name, p)
	}
	for _, h := range in.plan.Spec.Hooks() {
		action("hook "+h.Name, h.Probe)
	}
	for _, m := range slices.Sorted(maps.Keys(missing)) {
		in.problem(m, "not in backup "+in.backups[0].Name, "correct the name in the plan, or back the object up")
	}
	if len(missing) == 0 {
		in.ok("references", "every workload and service named is in the newest backup")
	}
	if len(in.plan.Spec.Probes) == 0 {
		in.warn("probes", "there is none", "add probes: without, a drill proves only that pods start")
	}
}

func (in *inspection) velero(ctx context.Context) {
	in.server(ctx)
	list := &velerov1api.BackupStorageLocationList{}
	if err := in.Cluster.Client.List(ctx, list, client.InNamespace(in.Cluster.Namespace)); err != nil {
		in.failed("backup storage locations", err, "")
		return
	}
	looked := 0
	for i := range list.Items {
		if bsl := &list.Items[i]; len(in.backups) == 0 || bsl.Name == in.backups[0].Spec.StorageLocation {
			looked++
			in.backupLocation(bsl)
		}
	}
	if looked > 0 {
		return
	}
	missing := "there is none"
	if len(in.backups) > 0 {
		missing = fmt.Sprintf("there is none named %q, as the newest backup has it", in.backups[0].Spec.StorageLocation)
	}
	in.problem("backup storage location", missing, "create it with the bucket and prefix it has at the source, and accessMode: ReadOnly")
}

func (in *inspection) backupLocation(bsl *velerov1api.BackupStorageLocation) {
	name := "backup storage location " + bsl.Name
	if bsl.Status.Phase == velerov1api.BackupStorageLocationPhaseAvailable {
		in.ok(name, "Available")
	} else {
		phase := string(bsl.Status.Phase)
		if phase == "" {
			phase = "not validated"
		}
		in.problem(name, strings.TrimSuffix(phase+": "+bsl.Status.Message, ": "),
			"make its object storage reachable from the recovery site, and its credential valid")
	}
	if bsl.Spec.AccessMode == velerov1api.BackupStorageLocationAccessModeReadOnly {
		in.ok(name+" access", "ReadOnly")
	} else {
		in.warn(name+" access", "ReadWrite: Velero here deletes the source's backups when they expire",
			fmt.Sprintf(`kubectl -n %s patch backupstoragelocation %s --type merge -p '{"spec":{"accessMode":"ReadOnly"}}'`, bsl.Namespace, bsl.Name))
	}
}

// server asks Velero's server for a sign of life.
func (in *inspection) server(ctx context.Context) {
	status, err := serverStatus(ctx, in.Cluster, in.Interval, in.ServerTimeout)
	if err != nil {
		in.failed("server", err, "start Velero in the recovery cluster and look at its log")
		return
	}
	in.ok("server", status.ServerVersion)
	in.plugins(status)
	in.deployment(ctx)
	in.format()
}

// ServerVersion returns the version that a cluster's Velero server says it has.
func ServerVersion(ctx context.Context, c *cluster.Cluster, interval, timeout time.Duration) (string, error) {
	status, err := serverStatus(ctx, c, interval, timeout)
	if err != nil {
		return "", err
	}
	return status.ServerVersion, nil
}

// serverStatus asks a cluster's Velero server for its version and plugins.
func serverStatus(ctx context.Context, c *cluster.Cluster, interval, timeout time.Duration) (*velerov1api.ServerStatusRequestStatus, error) {
	req := &velerov1api.ServerStatusRequest{ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, GenerateName: "kubectl-dr-"}}
	if err := c.Client.Create(ctx, req); err != nil {
		return nil, fmt.Errorf("ask Velero for its status: %w", err)
	}
	defer func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		_ = c.Client.Delete(after, req) // Velero deletes it too, in time
	}()
	err := cluster.Poll(ctx, interval, timeout, func(ctx context.Context) (bool, error) {
		err := c.Client.Get(ctx, client.ObjectKeyFromObject(req), req)
		return req.Status.Phase == velerov1api.ServerStatusRequestPhaseProcessed, err
	})
	if errors.Is(err, cluster.ErrTimedOut) {
		return nil, fmt.Errorf("no answer within %s", timeout)
	}
	return &req.Status, err
}

func (in *inspection) storage(ctx context.Context) {
	if in.StorageErr != nil {
		in.failed("snapshot location", in.StorageErr, "")
		return
	}
	if !in.Storage.Used() {
		in.skip("snapshot location", "there is none of ours: no agent is asked")
		return
	}
	in.locationNames(ctx)
	hosts := in.Storage.Hosts(ctx, in.Now)
	found := in.examine(ctx, hosts)
	for _, h := range hosts {
		in.host(h)
		if h.Err == nil && !in.examined(found[h.Node]) {
			in.pools(h)
		}
	}
	in.leftovers(ctx)
	in.timeouts()
}

// timeouts compares how long Velero waits for copies with how long the location
// would: the shorter ends a backup.
func (in *inspection) timeouts() {
	if len(in.backups) == 0 {
		return
	}
	b := &in.backups[0]
	waits := b.Spec.ItemOperationTimeout.Duration
	if waits == 0 {
		waits = zfssnap.DefaultReplicationTimeout
	}
	for _, l := range in.Storage.Locations {
		if l.Target == "" && l.Archive == "" || l.ReplicationTimeout <= waits || !slices.Contains(b.Spec.VolumeSnapshotLocations, l.Name) {
			continue
		}
		in.warn("timeout of "+l.Name,
			fmt.Sprintf("Velero gives up the copies of a backup after %s, before the %s of %s", waits, l.ReplicationTimeout, zfssnap.KeyReplicationTimeout),
			fmt.Sprintf("operationTimeout: %s in spec.protect of the plan, and kubectl dr protect; or itemOperationTimeout in the template of the schedule", l.ReplicationTimeout))
	}
}

// leftovers names the volumes that restores of Velero made and nothing uses.
func (in *inspection) leftovers(ctx context.Context) {
	left, err := in.Storage.Leftovers(ctx, in.Cluster)
	if errors.Is(err, agent.ErrUnreachable) {
		return // host says so
	}
	if err != nil {
		in.warn("leftovers", "it is not known whether restores left volumes that nothing uses: "+err.Error(), HintOr(err, "make the agents reachable"))
		return
	}
	for _, l := range left {
		in.warn(fmt.Sprintf("volume %s on %s", l.Dataset, l.Node),
			fmt.Sprintf("it was made for restore %s, which %s, and no PersistentVolume leads to it; it keeps the snapshot it was made of", l.Restore, l.State()),
			"if nothing needs it: kubectl dr drill cleanup --restore="+l.Restore)
	}
}

// examination is what a host's own doctor said.
type examination = cluster.Reply[*agentpb.DoctorResponse]

// examine asks the doctors of the hosts that answer, side by side.
func (in *inspection) examine(ctx context.Context, hosts []cluster.Host) map[string]examination {
	var nodes []string
	for _, h := range hosts {
		if h.Err == nil {
			nodes = append(nodes, h.Node)
		}
	}
	if len(nodes) == 0 {
		return nil
	}
	replies, err := cluster.Examine(ctx, in.Storage, nodes, in.Now)
	found := map[string]examination{}
	for _, node := range nodes {
		found[node] = examination{Node: node, Err: err}
	}
	for _, r := range replies {
		found[r.Node] = r
	}
	return found
}

// examined tells what a host's own doctor found. It returns false for an agent from
// before there was one.
func (in *inspection) examined(r examination) bool {
	if status.Code(r.Err) == codes.Unimplemented {
		return false
	}
	node := r.Node
	name := "doctor on " + node
	if r.Err != nil {
		in.failed(name, r.Err, "zfs-agent doctor tells more on the host")
		return true
	}
	fine := 0
	findings := r.Said.GetFindings()
	for _, f := range findings {
		if report.State(f.GetState()) == report.OK {
			fine++
		}
		if f.GetGroup() == "pools" || report.State(f.GetState()) != report.OK {
			in.add(report.State(f.GetState()), f.GetName()+" on "+node, f.GetMessage(), f.GetRemedy())
		}
	}
	in.ok(name, fmt.Sprintf("%d of %d checks are ok", fine, len(findings)))
	return true
}

// locationNames compares with what the backup names: Velero looks up the
// location by that name when it restores.
func (in *inspection) locationNames(ctx context.Context) {
	var have []string
	for _, l := range in.Storage.Locations {
		have = append(have, l.Name)
	}
	for _, name := range have {
		in.ok("snapshot location "+name, "")
	}
	for _, name := range slices.Sorted(maps.Keys(in.Storage.Broken)) {
		in.failed("snapshot location "+name, in.Storage.Broken[name], "correct it, or delete it if nothing uses it")
		have = append(have, name)
	}
	if len(in.backups) == 0 {
		return
	}
	others := &velerov1api.VolumeSnapshotLocationList{}
	for _, want := range in.backups[0].Spec.VolumeSnapshotLocations {
		if slices.Contains(have, want) {
			continue
		}
		// It may be another provider's, and then it is none of ours.
		err := in.Cluster.Client.List(ctx, others, client.InNamespace(in.Cluster.Namespace))
		if err == nil && slices.ContainsFunc(others.Items, func(l velerov1api.VolumeSnapshotLocation) bool { return l.Name == want }) {
			continue
		}
		in.problem("snapshot location "+want, "there is none of that name, which the newest backup has",
			"give the VolumeSnapshotLocation here the name it has at the source")
	}
}

func (in *inspection) host(h cluster.Host) {
	name := "agent on " + h.Node
	if h.Err != nil {
		in.failed(name, h.Err, "start zfs-agent there and make it reachable from here, or say where it is with --agents")
		return
	}
	in.ok(name, fmt.Sprintf("version %s, OpenZFS %s", h.Info.GetAgentVersion(), h.Info.GetZfsVersion()))
	in.agentVersions[h.Node] = h.Info.GetAgentVersion()
	in.sameVersion(h.Node, h.Info.GetAgentVersion())
	skew, uncertain := h.Skew()
	if skew.Abs() > rpo.Noticeable+uncertain {
		in.warn("clock of "+h.Node, rpo.Skewed(skew), "let both follow the same time servers: ages are told by clocks")
	} else {
		in.ok("clock of "+h.Node, "")
	}
}

func (in *inspection) pools(h cluster.Host) {
	for _, p := range h.Info.GetPools() {
		pool := fmt.Sprintf("pool %s on %s", p.GetName(), h.Node)
		free := 1.0
		if p.GetSize() > 0 {
			free = float64(p.GetFree()) / float64(p.GetSize())
		}
		message := fmt.Sprintf("%s, %.0f%% free", p.GetHealth(), free*100)
		switch {
		case p.GetHealth() == "DEGRADED":
			in.warn(pool, message, "zpool status says which device to replace")
		case p.GetHealth() != "ONLINE":
			in.problem(pool, message, "zpool status says what is wrong")
		case free < veryFew:
			in.problem(pool, message, "free space: replication stops when the pool is full")
		case free < fewFree:
			in.warn(pool, message, "free space before the pool is full")
		default:
			in.ok(pool, message)
		}
	}
}

func (in *inspection) restorePoint(ctx context.Context) {
	if in.StorageErr != nil || len(in.backups) == 0 {
		in.skip("newest", "there is nothing to look at")
		return
	}
	points := in.points
	if in.pointsErr != nil {
		in.failed("newest", in.pointsErr, "")
		return
	}
	last := points[len(points)-1]
	switch {
	case !last.Recoverable():
		in.failed("newest", &restorepoint.UnrecoverableError{Points: points}, "")
	case len(points) > 1:
		in.warn("newest", fmt.Sprintf("%s, because %s: %s", last.Backup, points[0].Backup, strings.Join(points[0].Problems(), "; ")),
			"see whether replication runs at the source")
	default:
		in.ok("newest", fmt.Sprintf("%s, %s", last.Backup, report.Count(len(last.Volumes), "volume")))
	}
	for _, v := range last.Unprotected() {
		name := fmt.Sprintf("volume %s/%s", v.Namespace, v.Claim)
		if v.Problem == "" {
			in.skip(name, "left out of backups, as the plan says")
			continue
		}
		in.problem(name, v.Problem, in.unprotectedRemedy(v.Problem))
	}
	if !last.Recoverable() {
		return
	}
	in.takenBy(ctx, last)
	age, objective := in.Now().Sub(last.At()), in.plan.Spec.Objectives.RPO.Duration
	message := fmt.Sprintf("%s old, objective %s", report.Age(age), report.Age(objective))
	switch {
	case age > 2*objective:
		in.problem("age", message, "see kubectl dr rpo; run backups more often, or look why they fail")
	case age > objective:
		in.warn("age", message, "see kubectl dr rpo; run backups more often, or look why they fail")
	default:
		in.ok("age", message)
	}
}

func (in *inspection) profiles(ctx context.Context) {
	used := in.usedProfiles()
	standby := in.plan.Spec.Profiles.Standby
	if len(used) == 0 && standby == "" {
		in.skip("profiles", "the plan names none: objects are restored as they were")
		return
	}
	set, err := in.Cluster.Profiles(ctx)
	if err != nil {
		in.failed("profiles", err, "create one ConfigMap of profiles in Velero's namespace: a restore that asks for a profile fails without")
		return
	}
	in.rules = set
	for _, name := range used {
		p, err := set.Profile(name)
		if err != nil {
			in.failed("profile "+name, err, "correct spec.profiles of the plan, or add the profile")
			continue
		}
		in.ok("profile "+name, "")
		switch files := in.by(plan.MethodPodVolumeBackup); {
		case p.State == rules.StateStandby && len(files) > 0:
			in.problem("profile "+name+" state", fmt.Sprintf("it drops the pods that Velero restores the files of %s into", strings.Join(files, ", ")), run.StandbyHint)
		case p.State != rules.StateStandby && len(files) == 0:
			in.warn("profile "+name+" state", "workloads start as soon as they are restored, not in waves", "set state: standby in the profile")
		}
	}
	if standby == "" || slices.Contains(used, standby) {
		return
	}
	switch p, err := set.Profile(standby); {
	case err != nil:
		in.failed("profile "+standby, err, "correct spec.profiles of the plan, or add the profile")
	case p.State != rules.StateStandby:
		in.problem("profile "+standby, "kubectl dr sync refuses it: it would start the application", "set state: standby in the profile")
	default:
		in.ok("profile "+standby, "")
	}
}

// usedProfiles returns the profiles that the plan names, each once.
func (in *inspection) usedProfiles() []string {
	var used []string
	for _, name := range []string{in.plan.Spec.Profiles.Drill, in.plan.Spec.Profiles.Failover} {
		if name != "" && !slices.Contains(used, name) {
			used = append(used, name)
		}
	}
	return used
}

func (in *inspection) cluster(ctx context.Context) {
	nodes := &corev1api.NodeList{}
	if err := in.Cluster.Client.List(ctx, nodes); err != nil {
		in.failed("nodes", err, "")
		return
	}
	if in.rules == nil {
		in.nodes("nodes", nodes, nil)
		return
	}
	classes := map[string]bool{}
	for _, name := range in.usedProfiles() {
		p, err := in.rules.Profile(name)
		if err != nil {
			continue
		}
		in.nodes("nodes for profile "+name, nodes, p)
		for _, class := range p.StorageClasses {
			classes[class] = true
		}
	}
	for _, class := range slices.Sorted(maps.Keys(classes)) {
		err := in.Cluster.Client.Get(ctx, client.ObjectKey{Name: class}, &storagev1api.StorageClass{})
		switch {
		case err == nil:
			in.ok("storage class "+class, "")
		case apierrors.IsNotFound(err):
			in.problem("storage class "+class, "it does not exist here, and a profile maps to it", "create it")
		default:
			in.failed("storage class "+class, err, "")
		}
	}
}

// nodes looks for a node that the workloads of a profile may run on. What pods
// ask for besides is not looked at.
func (in *inspection) nodes(name string, nodes *corev1api.NodeList, p *rules.Profile) {
	var fit, ready []string
	for i := range nodes.Items {
		n := &nodes.Items[i]
		if !nodeReady(n) {
			continue
		}
		ready = append(ready, n.Name)
		if p == nil || selected(n, p) && tolerated(n, p) {
			fit = append(fit, n.Name)
		}
	}
	switch {
	case len(ready) == 0:
		in.problem(name, fmt.Sprintf("none of %d nodes is Ready", len(nodes.Items)), "start a node at the recovery site")
	case len(fit) == 0:
		in.problem(name, fmt.Sprintf("no Ready node has the labels that the profile selects and only taints that it tolerates (Ready: %s)", strings.Join(ready, ", ")),
			"correct nodeSelector and tolerations of the profile, or labels and taints of a node")
	default:
		in.ok(name, strings.Join(fit, ", "))
	}
}

func nodeReady(n *corev1api.Node) bool {
	return !n.Spec.Unschedulable && slices.ContainsFunc(n.Status.Conditions, func(c corev1api.NodeCondition) bool {
		return c.Type == corev1api.NodeReady && c.Status == corev1api.ConditionTrue
	})
}

func selected(n *corev1api.Node, p *rules.Profile) bool {
	return p.NodeSelector == nil || labels.SelectorFromSet(p.NodeSelector.Set).Matches(labels.Set(n.Labels))
}

func tolerated(n *corev1api.Node, p *rules.Profile) bool {
	for i := range n.Spec.Taints {
		taint := &n.Spec.Taints[i]
		if taint.Effect == corev1api.TaintEffectPreferNoSchedule {
			continue
		}
		if p.Tolerations == nil || !slices.ContainsFunc(p.Tolerations.Add, func(t rules.Toleration) bool {
			k := corev1api.Toleration{Key: t.Key, Operator: corev1api.TolerationOperator(t.Operator), Value: t.Value, Effect: corev1api.TaintEffect(t.Effect)}
			return k.ToleratesTaint(taint)
		}) {
			return false
		}
	}
	return true
}

func (in *inspection) drills(ctx context.Context) {
	runs, err := run.Runs(ctx, in.Cluster.Client, in.Cluster.Namespace, in.plan.Name)
	if err != nil {
		in.failed("last", err, "")
		return
	}
	if r := run.InProgress(runs); r != nil {
		in.warn("in progress", fmt.Sprintf("%s %s: %s", r.Spec.Kind.Words(), r.Name, r.Status.Message), "run the same command again to end it; nothing else runs meanwhile")
	}
	var last, passed *plan.RecoveryRun
	for i := range runs {
		r := &runs[i]
		if r.Spec.Kind != plan.RunDrill || r.InProgress() {
			continue
		}
		if last == nil {
			last = r
		}
		if passed == nil && r.Status.Phase == plan.PhasePassed {
			passed = r
		}
	}
	const remedy = "kubectl dr drill"
	every := in.plan.Spec.Objectives.DrillEvery
	switch {
	case last == nil:
		in.warn("last", "there was none: whether this plan works is not known", remedy)
	case last.Status.Phase == plan.PhaseFailed:
		in.problem("last", fmt.Sprintf("%s failed: %s", last.Name, last.Status.Message), "kubectl dr report "+last.Name)
	case passed == nil:
		in.warn("last", fmt.Sprintf("%s was %s; none passed yet", last.Name, strings.ToLower(string(last.Status.Phase))), remedy)
	default:
		age := in.Now().Sub(passed.Status.StartedAt.Time)
		message := fmt.Sprintf("%s passed %s ago", passed.Name, report.Age(age))
		if every != nil && age > every.Duration {
			in.warn("last", fmt.Sprintf("%s; the plan wants one every %s", message, report.Age(every.Duration)), remedy)
			return
		}
		in.ok("last", message)
	}
}
