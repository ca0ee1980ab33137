package plugin

import (
	"fmt"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// claim is bound to the volume of its name; one of a group has its label.
func claim(name, group string) *corev1api.PersistentVolumeClaim {
	c := &corev1api.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "wordpress", Name: name},
		Spec:       corev1api.PersistentVolumeClaimSpec{VolumeName: name},
		Status:     corev1api.PersistentVolumeClaimStatus{Phase: corev1api.ClaimBound},
	}
	if group != "" {
		c.Labels = map[string]string{"velero.io/volume-group": group}
	}
	return c
}

func groupAction(t *testing.T, groupBy string) *GroupAction {
	t.Helper()
	scheme, err := newScheme()
	require.NoError(t, err)
	config := withTarget()
	if groupBy != "" {
		config["groupBy"] = groupBy
	}
	vsl := snapshotLocation(config)
	vsl.Spec.Credential = nil
	pending := claim("pending", "")
	pending.Spec.VolumeName = ""
	elsewhere := claim("elsewhere", "")
	elsewhere.Namespace = "other"
	kube := fake.NewClientBuilder().WithScheme(scheme).WithObjects(
		vsl, claim("data", "db"), claim("logs", "db"), claim("uploads", ""), pending, elsewhere,
		&velerov1api.VolumeSnapshotLocation{ObjectMeta: metav1.ObjectMeta{Namespace: "velero", Name: "aws"}},
	).Build()
	log := logrus.New()
	log.SetOutput(t.Output())
	return NewGroupAction(&zfssnap.Sites{
		Connect: func(zfssnap.Location, []byte) (zfssnap.Agents, error) { return theAgent{&fakeAgent{}}, nil },
		Kube:    func() (client.Client, error) { return kube, nil },
	}, &zfssnap.Groups{}, log)
}

func grouped() *velerov1api.Backup {
	b := nightly()
	b.Spec.VolumeGroupSnapshotLabelKey = "velero.io/volume-group"
	return b
}

func TestGroupAction_claims(t *testing.T) {
	t.Parallel()
	tests := []struct {
		groupBy, claim string
		want           []string
	}{
		{"", "data", []string{"logs", "uploads"}},
		{"namespace", "uploads", []string{"data", "logs"}},
		{"label", "data", []string{"logs"}},
		{"label", "uploads", nil},
		{"volume", "data", nil},
	}
	for _, tt := range tests {
		t.Run(tt.groupBy+" "+tt.claim, func(t *testing.T) {
			t.Parallel()
			a := groupAction(t, tt.groupBy)
			label := ""
			if tt.claim == "data" {
				label = "db"
			}
			item := object(t, fmt.Sprintf("{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {namespace: wordpress, name: %s, labels: {velero.io/volume-group: '%s'}}, spec: {volumeName: %s}}", tt.claim, label, tt.claim))
			items, err := a.GetRelatedItems(item, grouped())
			require.NoError(t, err)
			var names []string
			for _, i := range items {
				assert.Equal(t, "persistentvolumeclaims", i.GroupResource.Resource)
				assert.Equal(t, "wordpress", i.Namespace)
				names = append(names, i.Name)
			}
			assert.Equal(t, tt.want, names)
		})
	}
}

// volume is an OpenEBS volume bound to the claim of its name.
func volume(claim string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: %[1]s}
spec:
  claimRef: {namespace: wordpress, name: %[1]s}
  csi: {driver: zfs.csi.openebs.io, volumeHandle: %[1]s, volumeAttributes: {openebs.io/poolname: znvm/k3s}}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: openebs.io/nodeid, operator: In, values: [hassio]}]}]}}
`, claim)
}

func TestGroupAction_volumes(t *testing.T) {
	t.Parallel()
	no := false
	tests := []struct {
		name, groupBy string
		backup        func(*velerov1api.Backup)
		item          string
		want          string
	}{
		{name: "of a namespace", item: volume("uploads"), want: "wordpress"},
		{name: "by the label of their claim", groupBy: "label", item: volume("data"), want: "wordpress/db"},
		{name: "without the label", groupBy: "label", item: volume("uploads")},
		{name: "each for itself", groupBy: "volume", item: volume("data")},
		{name: "that get no snapshot", item: volume("data"), backup: func(b *velerov1api.Backup) { b.Spec.SnapshotVolumes = &no }},
		{name: "of a backup without our location", item: volume("data"), backup: func(b *velerov1api.Backup) { b.Spec.VolumeSnapshotLocations = []string{"aws"} }},
		{name: "that nobody claimed", item: "{apiVersion: v1, kind: PersistentVolume, metadata: {name: pv}, spec: {csi: {driver: zfs.csi.openebs.io, volumeHandle: pv}}}"},
		{name: "that are foreign", item: "{apiVersion: v1, kind: PersistentVolume, metadata: {name: pv}, spec: {claimRef: {namespace: wordpress, name: data}, nfs: {server: s, path: /p}}}"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, backup := groupAction(t, tt.groupBy), grouped()
			if tt.backup != nil {
				tt.backup(backup)
			}
			items, err := a.GetRelatedItems(object(t, tt.item), backup)
			require.NoError(t, err)
			assert.Empty(t, items, "Velero relates claims and volumes itself")
			name := object(t, tt.item).GetName()
			assert.Equal(t, tt.want, a.Groups.NameOf("nightly", zfssnap.VolumeID{Node: "hassio", Dataset: "znvm/k3s/" + name}))
		})
	}
}

func TestGroupAction_saysWhatIsWrong(t *testing.T) {
	t.Parallel()
	a := groupAction(t, "")
	backup := grouped()
	backup.Spec.VolumeSnapshotLocations = []string{"gone"}
	_, err := a.GetRelatedItems(object(t, volume("data")), backup)
	require.ErrorContains(t, err, "get snapshot location gone")
	_, err = groupAction(t, "label").GetRelatedItems(object(t, volume("none")), grouped())
	require.ErrorContains(t, err, "get claim of PersistentVolume none")
}
