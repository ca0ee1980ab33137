package plugin

import (
	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	"github.com/vmware-tanzu/velero/pkg/plugin/framework"
	vsv1 "github.com/vmware-tanzu/velero/pkg/plugin/velero/volumesnapshotter/v1"

	"github.com/kubectl-dr/kubectl-dr/restore"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

var _ vsv1.VolumeSnapshotter = (*zfssnap.Snapshotter)(nil)

// Register adds the plugins of this binary to a server whose flags are parsed
// from flags when it serves.
func Register(server framework.Server, flags *pflag.FlagSet) framework.Server {
	c := &cluster{}
	c.bindFlags(flags)
	sites := &zfssnap.Sites{Connect: connect, Kube: c.kube}
	groups := &zfssnap.Groups{}
	return server.
		BindFlags(flags).
		RegisterVolumeSnapshotter(SnapshotterName, func(log logrus.FieldLogger) (any, error) {
			return &zfssnap.Snapshotter{
				Sites: sites, Namespace: c.namespace, Log: log, Groups: groups,
				Admit: restore.NewAction(log, rewriting{c.kube}, c.namespace).Admit,
			}, nil
		}).
		RegisterBackupItemActionV2(ReplicationName, func(log logrus.FieldLogger) (any, error) {
			return NewReplicationAction(sites, log), nil
		}).
		RegisterItemBlockAction(GroupName, func(log logrus.FieldLogger) (any, error) {
			return NewGroupAction(sites, groups, log), nil
		}).
		RegisterDeleteItemAction(UnrecordedName, func(log logrus.FieldLogger) (any, error) {
			return &UnrecordedAction{Sites: sites, Log: log}, nil
		}).
		RegisterRestoreItemActionV2(RewriteName, func(log logrus.FieldLogger) (any, error) {
			return restore.NewAction(log, rewriting{c.kube}, c.namespace), nil
		})
}
