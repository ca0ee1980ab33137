// Command velero-plugin-zfs-dr is the Velero plugin: the ZFS volume
// snapshotter, the replication backup action and the rewrite restore action.
package main

import (
	"github.com/spf13/pflag"
	"github.com/vmware-tanzu/velero/pkg/plugin/framework"

	"github.com/kubectl-dr/kubectl-dr/plugin"
)

func main() {
	plugin.Register(framework.NewServer(), pflag.CommandLine).Serve()
}
