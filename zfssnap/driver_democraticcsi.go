package zfssnap

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Volume attributes of democratic-csi.
const (
	democraticProvisioner = "provisioner_driver"
	democraticAttach      = "node_attach_driver"
	democraticAsset       = "zfs_asset_name"
	democraticServer      = "server"
	democraticShare       = "share"
	democraticPortal      = "portal"
	democraticPortals     = "portals"
	democraticIQN         = "iqn"
	democraticTransport   = "transport"
)

const topologyDemocraticNode = "org.democratic-csi.topology/node"

// democraticCSI is democratic-csi's drivers over ZFS. The name of the CSI
// driver is the user's choice, so they are known by their attributes:
// provisioner_driver says what made the volume, node_attach_driver how nodes
// reach it. The volume handle is the dataset's name below the driver's
// datasetParentName, which only the driver's own configuration knows.
type democraticCSI struct{}

func (democraticCSI) claims(pv *corev1api.PersistentVolume) bool {
	if pv.Spec.CSI == nil {
		return false
	}
	switch by := pv.Spec.CSI.VolumeAttributes[democraticProvisioner]; {
	case strings.HasPrefix(by, "zfs-local-"), strings.HasPrefix(by, "zfs-generic-"), strings.HasPrefix(by, "freenas-"):
		return true
	case by == "node-manual":
		return pv.Spec.CSI.VolumeAttributes[democraticAttach] == "nfs"
	}
	return false
}

func (democraticCSI) locate(ctx context.Context, s *Site, pv *corev1api.PersistentVolume) (VolumeID, error) {
	csi, attr := pv.Spec.CSI, pv.Spec.CSI.VolumeAttributes
	if attr[democraticAttach] == "zfs-local" {
		node, dataset := pinnedTo(pv), attr[democraticAsset]
		if node == "" || dataset == "" {
			return VolumeID{}, fmt.Errorf("it names no %s, or no node in its affinity", democraticAsset)
		}
		return VolumeID{Node: node, Dataset: dataset}, nil
	}
	manual := attr[democraticProvisioner] == "node-manual"
	node, err := s.nodeOf(attr[democraticServer], attr[democraticPortal], transportHost(attr[democraticTransport]))
	switch parent, known := s.DatasetParents[csi.Driver]; {
	case err != nil && manual:
		return VolumeID{}, errForeign
	case err != nil:
		return VolumeID{}, err
	case known && csi.VolumeHandle != "":
		return VolumeID{Node: node, Dataset: parent + "/" + csi.VolumeHandle}, nil
	case attr[democraticAttach] != "nfs":
		return VolumeID{}, fmt.Errorf("a volume of %s does not name its dataset; add %s=<datasetParentName> to %s in the config of the VolumeSnapshotLocation",
			attr[democraticProvisioner], csi.Driver, KeyDatasetParents)
	}
	id, err := s.locateDataset(ctx, node, attr[democraticShare], byMountpoint(attr[democraticShare]))
	if errors.Is(err, errForeign) && !manual {
		err = fmt.Errorf("node %s has no dataset mounted at %q, which it is said to share", node, attr[democraticShare])
	}
	return id, err
}

func (democraticCSI) rewrite(_ context.Context, s *Site, pv *unstructured.Unstructured, vol restored) error {
	spec, attributes := []string{"spec", "csi"}, []string{"spec", "csi", "volumeAttributes"}
	attr, _, err := unstructured.NestedStringMap(pv.Object, attributes...)
	if err != nil {
		return fmt.Errorf("read volume attributes: %w", err)
	}
	was, _, _ := unstructured.NestedString(pv.Object, "spec", "csi", "volumeHandle")
	handle := path.Base(vol.Dataset)
	set := map[string]string{}
	switch attr[democraticAttach] {
	case "zfs-local":
		set[democraticAsset] = vol.Dataset
		if err := pin(pv, vol.Node, topologyDemocraticNode); err != nil {
			return err
		}
	case "nfs":
		dir, err := sharePath(vol.dataset)
		if err != nil {
			return err
		}
		set[democraticShare], set[democraticServer] = dir, s.serverOf(vol.Node, attr[democraticServer])
	case "iscsi":
		// Names of targets end in that of the dataset, between a prefix and a
		// suffix of the driver's configuration.
		set[democraticIQN] = strings.Replace(attr[democraticIQN], path.Base(was), handle, 1)
		set[democraticPortal], set[democraticPortals] = s.portalOf(vol.Node, attr[democraticPortal]), ""
	default:
		return fmt.Errorf("a volume attached by %q can not be restored in kind; set %s: %s in the config of the VolumeSnapshotLocation",
			attr[democraticAttach], KeyRestoreAs, AsLocal)
	}
	return errors.Join(setStrings(pv, spec, map[string]string{"volumeHandle": handle}), setStrings(pv, attributes, set))
}

// transportHost returns the host of an NVMe-oF transport, "tcp://host:port".
func transportHost(transport string) string {
	_, address, _ := strings.Cut(transport, "://")
	return address
}
