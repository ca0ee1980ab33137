package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	appsv1api "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

const (
	// veleroRelease is the release of Velero that the product is tested with.
	veleroRelease = "v1.18"
	pluginImage   = "velero-plugin-zfs-dr"
	featureCSI    = "EnableCSI"

	withoutCSI = "start Velero's server at the source without --features=" + featureCSI + ": with it, it skips native snapshots of CSI volumes without saying so"
)

// plugins looks whether the server knows our plugins: without them a restore
// makes volumes of nothing, and changes nothing that a profile says.
func (in *inspection) plugins(status *velerov1api.ServerStatusRequestStatus) {
	if release, _, _ := strings.Cut(status.ServerVersion, "-"); !strings.HasPrefix(release+".", veleroRelease+".") {
		in.warn("server release", fmt.Sprintf("%s; tested with %s", status.ServerVersion, veleroRelease), "rehearse with a drill, or run Velero "+veleroRelease)
	}
	for _, want := range []string{zfssnap.Provider, zfssnap.Domain + "/rewrite"} {
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
	for _, c := range d.Spec.Template.Spec.Containers {
		for _, arg := range append(c.Command, c.Args...) {
			if value, ok := strings.CutPrefix(arg, "--features="); ok && slices.Contains(strings.Split(value, ","), featureCSI) {
				in.warn("server features", featureCSI+" is on: once this site is active, its backups leave out native snapshots of CSI volumes",
					"remove "+featureCSI+" from --features of deployment velero")
				return
			}
		}
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
// two are made together; what has no number is not compared.
func (in *inspection) sameVersion(node, agent string) {
	numbered := func(v string) bool { return len(v) > 1 && v[0] == 'v' && v[1] >= '0' && v[1] <= '9' }
	if numbered(in.pluginVersion) && numbered(agent) && in.pluginVersion != agent {
		in.warn("version on "+node, fmt.Sprintf("the agent is %s, the plugin %s", agent, in.pluginVersion), "run the same release of both")
	}
}

// volumeInfo is what Velero's file of volumes says of how one was backed up.
type volumeInfo struct {
	PVCName           string `json:"pvcName"`
	PVCNamespace      string `json:"pvcNamespace"`
	BackupMethod      string `json:"backupMethod"`
	SnapshotDataMoved bool   `json:"snapshotDataMoved"`
	CSISnapshotInfo   *struct {
		Driver string `json:"driver"`
	} `json:"csiSnapshotInfo"`
}

// volumes looks for claims whose data the newest backup does not have, though it
// is Completed.
func (in *inspection) volumes(ctx context.Context) {
	if len(in.backups) == 0 || in.contents == nil {
		return
	}
	newest := &in.backups[0]
	infos, err := cluster.ReadJSON[[]volumeInfo](ctx, in.Cluster.Files, velerov1api.DownloadTargetKindBackupVolumeInfos, newest.Name)
	if err != nil {
		return // the restore point says so
	}
	for _, name := range in.contents["v1/PersistentVolumeClaim"] {
		namespace, claim, _ := strings.Cut(name, "/")
		if !slices.Contains(in.plan.Spec.Source.Namespaces, namespace) || in.plan.Spec.Source.IgnoresClaim(namespace, claim) {
			continue
		}
		i := slices.IndexFunc(infos, func(v volumeInfo) bool { return v.PVCNamespace == namespace && v.PVCName == claim })
		switch {
		case i < 0 && newest.Spec.SnapshotVolumes != nil && !*newest.Spec.SnapshotVolumes:
			in.problem("claim "+name, fmt.Sprintf("backup %s is %s without its volume: it takes no snapshots", newest.Name, newest.Status.Phase),
				"remove snapshotVolumes: false from the schedule")
		case i < 0:
			in.problem("claim "+name, fmt.Sprintf("backup %s is %s without its volume", newest.Name, newest.Status.Phase),
				withoutCSI+"; a claim that is not bound has none: list it in spec.source.ignoreClaims")
		case infos[i].BackupMethod == "CSISnapshot" && !infos[i].SnapshotDataMoved:
			driver := "its driver"
			if infos[i].CSISnapshotInfo != nil {
				driver = infos[i].CSISnapshotInfo.Driver
			}
			in.warn("claim "+name, fmt.Sprintf("its snapshot stays with %s at the source: it can be restored here only where the two sites share that storage", driver),
				"for a copy at this site, "+withoutCSI+"; or move the data, with snapshotMoveData: true in the schedule")
		}
	}
}

// unprotectedRemedy says what to do about a volume that a backup leaves out, by
// the reason that Velero recorded.
func unprotectedRemedy(problem string) string {
	switch {
	case strings.Contains(problem, "no applicable volumesnapshotter found"):
		return "see kubectl logs of Velero's server at the source: no VolumeSnapshotLocation of the backup knows the volume; docs/drivers.md says which can be known"
	case strings.Contains(problem, "resource policy"), strings.Contains(problem, "VolumePolicy"):
		return "a volume policy of the schedule, or an annotation of a pod, leaves it out: change that, or list it in spec.source.ignoreClaims if it may come back empty"
	}
	return "back it up, or list it in spec.source.ignoreClaims if it may come back empty"
}
