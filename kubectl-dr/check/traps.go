package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/restorepoint"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

const (
	// veleroRelease is the release of Velero that the product is tested with.
	veleroRelease = "v1.18"
	// veleroFormat is the format of the backups that this release makes.
	veleroFormat = "1.1.0"
	pluginImage  = "velero-plugin-zfs-dr"
	featureCSI   = "EnableCSI"

	withoutCSI = "start Velero's server at the source without --features=" + featureCSI + ": with it, it skips native snapshots of CSI volumes without saying so"
)

// plugins looks whether the server knows our plugins: without them a restore
// makes volumes of nothing, and changes nothing that a profile says.
func (in *inspection) plugins(status *velerov1api.ServerStatusRequestStatus) {
	if release, _, _ := strings.Cut(status.ServerVersion, "-"); !strings.HasPrefix(release+".", veleroRelease+".") {
		in.warn("server release", fmt.Sprintf("%s; tested with %s", status.ServerVersion, veleroRelease), "rehearse with a drill, or run Velero "+veleroRelease)
	}
	var wanted []string
	if in.StorageErr != nil || in.Storage.Used() {
		wanted = append(wanted, zfssnap.Provider)
	}
	if len(in.usedProfiles()) > 0 {
		wanted = append(wanted, zfssnap.Domain+"/rewrite")
	}
	for _, want := range wanted {
		if slices.ContainsFunc(status.Plugins, func(p velerov1api.PluginInfo) bool { return p.Name == want }) {
			in.ok("plugin "+want, "")
			continue
		}
		in.problem("plugin "+want, "Velero's server does not know it", "velero plugin add <registry>/"+pluginImage+":<version>, in the recovery cluster too")
	}
}

// deployment looks at how Velero's server is run. It may be run otherwise than
// by a Deployment, and then there is nothing to see.
func (in *inspection) deployment(ctx context.Context) {
	d := &appsv1api.Deployment{}
	if err := in.Cluster.Client.Get(ctx, client.ObjectKey{Namespace: in.Cluster.Namespace, Name: "velero"}, d); err != nil {
		return
	}
	for _, c := range d.Spec.Template.Spec.InitContainers {
		if image, tag, ok := cutTag(c.Image); ok && strings.HasSuffix(image, "/"+pluginImage) {
			in.pluginVersion = tag
		}
	}
	if numbered(in.pluginVersion) && numbered(zfssnap.Version) && in.pluginVersion != zfssnap.Version {
		in.warn("plugin release", fmt.Sprintf("the plugin is %s, kubectl dr %s", in.pluginVersion, zfssnap.Version), "run the same release of both")
	}
	in.features(d)
}

// numbered tells a release from what was built otherwise, which is not compared.
func numbered(v string) bool { return len(v) > 1 && v[0] == 'v' && v[1] >= '0' && v[1] <= '9' }

// features looks at EnableCSI: with it Velero leaves our snapshots of CSI volumes
// out, and without it it can't restore its own.
func (in *inspection) features(d *appsv1api.Deployment) {
	features, _ := cluster.Flag("features", d.Spec.Template.Spec.Containers...)
	on := slices.Contains(strings.Split(features, ","), featureCSI)
	snapshots := append(in.by(plan.MethodDataUpload), in.by(plan.MethodCSISnapshot)...)
	switch {
	case len(snapshots) > 0 && !on:
		in.problem("server features", fmt.Sprintf("%s is off, and restoring %s needs it", featureCSI, strings.Join(snapshots, ", ")),
			"add "+featureCSI+" to --features of deployment velero")
	case len(snapshots) == 0 && on && in.StorageErr == nil && in.Storage.Used():
		in.warn("server features", featureCSI+" is on: once this site is active, its backups leave out native snapshots of CSI volumes",
			"remove "+featureCSI+" from --features of deployment velero")
	}
}

// cutTag splits an image into its name and tag; a digest is no tag.
func cutTag(image string) (name, tag string, ok bool) {
	image, _, _ = strings.Cut(image, "@")
	i := strings.LastIndex(image, ":")
	if i < 0 || strings.Contains(image[i:], "/") {
		return image, "", false
	}
	return image[:i], image[i+1:], true
}

// sameVersion warns of an agent that is of another release than the plugin. The
// two are made together.
func (in *inspection) sameVersion(node, agent string) {
	if numbered(in.pluginVersion) && numbered(agent) && in.pluginVersion != agent {
		in.warn("version on "+node, fmt.Sprintf("the agent is %s, the plugin %s", agent, in.pluginVersion), "run the same release of both")
	}
}

// takenBy warns of snapshots that another release of the plugin took than the one
// that makes volumes of them here. A backup is one plugin's: one volume tells.
func (in *inspection) takenBy(ctx context.Context, p restorepoint.Point) {
	const name = "taken by"
	copies := p.Copies()
	if len(copies) == 0 {
		return
	}
	here := in.agentVersions[copies[0].Node]
	if numbered(in.pluginVersion) {
		here = in.pluginVersion
	}
	there, err := in.Storage.TakenBy(ctx, copies[0])
	switch {
	case err != nil:
		in.failed(name, err, "make the agent reachable")
	case there == "" || here == "":
	case release(there) != release(here):
		in.warn(name, fmt.Sprintf("the plugin of version %s; here it is %s", there, here), "run the same release of plugin and agents at both sites")
	default:
		in.ok(name, "version "+there)
	}
}

// release is what versions have in common that go together: major and minor. What
// is not numbered goes with itself alone.
func release(version string) string {
	if parts := strings.SplitN(version, ".", 3); numbered(version) && len(parts) == 3 {
		return parts[0] + "." + parts[1]
	}
	return version
}

// format looks at the newest backup's, which is all that a backup tells of the
// release of Velero that made it.
func (in *inspection) format() {
	if len(in.backups) == 0 {
		return
	}
	if b := &in.backups[0]; b.Status.FormatVersion != "" && b.Status.FormatVersion != veleroFormat {
		in.warn("backup format", fmt.Sprintf("%s has %s, and Velero %s makes %s", b.Name, b.Status.FormatVersion, veleroRelease, veleroFormat),
			"run the same release of Velero at both sites, "+veleroRelease)
	}
}

// volumes looks at what the recovery site needs to restore what Velero keeps by
// itself.
func (in *inspection) volumes(ctx context.Context) {
	remedy := "move its data, with snapshotMoveData: true in the schedule, or back it up from its pod"
	if in.StorageErr != nil || in.Storage.Used() {
		remedy += "; if it is on ZFS, " + withoutCSI
	}
	for _, m := range []plan.Method{plan.MethodCSISnapshot, plan.MethodNativeSnapshot} {
		for _, name := range in.by(m) {
			in.warn("claim "+name, "its snapshot stays with the source's storage: it can be restored here only where the two sites share that", remedy)
		}
	}
	in.inPlace(ctx)
	if moved := append(in.by(plan.MethodPodVolumeBackup), in.by(plan.MethodDataUpload)...); len(moved) > 0 {
		in.nodeAgent(ctx, moved)
	}
	if moved := in.by(plan.MethodDataUpload); len(moved) > 0 {
		in.movers(ctx, moved)
	}
}

// toleratedByMovers are the keys of the only taints that Velero's pods may tolerate:
// ThirdPartyTolerations in its pkg/util.
var toleratedByMovers = []string{"kubernetes.azure.com/scalesetpriority", "CriticalAddonsOnly"}

// movers looks for a node that may run the pods which bring moved data back. They
// tolerate next to nothing, whatever node-agent and the application do.
func (in *inspection) movers(ctx context.Context, claims []string) {
	const name = "node for data"
	nodes := &corev1api.NodeList{}
	if err := in.Cluster.Client.List(ctx, nodes); err != nil {
		in.failed(name, err, "")
		return
	}
	var tainted []string
	for i := range nodes.Items {
		n := &nodes.Items[i]
		if !nodeReady(n) {
			continue
		}
		j := slices.IndexFunc(n.Spec.Taints, func(t corev1api.Taint) bool {
			return t.Effect != corev1api.TaintEffectPreferNoSchedule && !slices.Contains(toleratedByMovers, t.Key)
		})
		if j < 0 {
			in.ok(name, n.Name)
			return
		}
		tainted = append(tainted, fmt.Sprintf("%s has %s", n.Name, n.Spec.Taints[j].ToString()))
	}
	if len(tainted) > 0 {
		in.problem(name, fmt.Sprintf("Velero's pods that bring back the data of %s tolerate no taint, and no Ready node is without: %s",
			strings.Join(claims, ", "), strings.Join(tainted, ", ")), "remove the taint for as long as a restore takes, or add a node without")
	}
}

// inPlace looks for volumes that would keep the backup's from being restored.
func (in *inspection) inPlace(ctx context.Context) {
	if len(in.backups) == 0 {
		return
	}
	volumes, err := in.Cluster.InPlace(ctx, in.backups[0].Name)
	if err != nil {
		in.failed("volumes in place", err, "")
	}
	for _, v := range volumes {
		state := report.Warning
		if v.Going {
			state = report.Problem
		}
		in.add(state, "volume "+v.Name, v.Error(), v.Hint())
	}
}

// nodeAgent is Velero's, which writes the data of volumes on their nodes.
func (in *inspection) nodeAgent(ctx context.Context, volumes []string) {
	const name = cluster.NodeAgent
	d := &appsv1api.DaemonSet{}
	err := in.Cluster.Client.Get(ctx, client.ObjectKey{Namespace: in.Cluster.Namespace, Name: name}, d)
	missing := fmt.Sprintf("Velero's, which restores %s here", strings.Join(volumes, ", "))
	switch {
	case apierrors.IsNotFound(err):
		in.problem(name, "there is none of "+missing, "velero install --use-node-agent, or deployNodeAgent: true in its Helm chart, in the recovery cluster too")
	case err != nil:
		in.failed(name, err, "")
	case d.Status.NumberReady < d.Status.DesiredNumberScheduled || d.Status.NumberReady == 0:
		in.problem(name, fmt.Sprintf("%d of %d is ready of %s", d.Status.NumberReady, d.Status.DesiredNumberScheduled, missing),
			fmt.Sprintf("kubectl -n %s describe daemonset %s", d.Namespace, name))
	default:
		in.ok(name, fmt.Sprintf("ready on %s", report.Count(int(d.Status.NumberReady), "node")))
	}
}

// unprotectedRemedy says what to do about a volume that a backup leaves out, by
// the reason that Velero recorded.
func (in *inspection) unprotectedRemedy(problem string) string {
	const unbound = "a claim that is not bound has none: list it in spec.source.ignoreClaims"
	switch {
	case strings.HasSuffix(problem, restorepoint.NotTaking):
		return "remove snapshotVolumes: false from the schedule, or set defaultVolumesToFsBackup: true"
	case strings.HasSuffix(problem, restorepoint.NoRecord) && in.Storage.Used():
		return withoutCSI + "; " + unbound
	case strings.HasSuffix(problem, restorepoint.NoRecord):
		return "have the schedule back it up, by CSI snapshots whose data is moved or from its pod; " + unbound
	case strings.Contains(problem, "no applicable volumesnapshotter found"):
		return "see kubectl logs of Velero's server at the source: no VolumeSnapshotLocation of the backup knows the volume; docs/drivers.md says which can be known"
	case strings.Contains(problem, "resource policy"), strings.Contains(problem, "VolumePolicy"):
		return "a volume policy of the schedule, or an annotation of a pod, leaves it out: change that, or list it in spec.source.ignoreClaims if it may come back empty"
	}
	return "back it up, or list it in spec.source.ignoreClaims if it may come back empty"
}
