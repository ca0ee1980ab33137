package plugin

import (
	"github.com/vmware-tanzu/velero/pkg/plugin/framework"
	_ "github.com/vmware-tanzu/velero/pkg/plugin/clientmgmt"
)

func Register(s framework.Server) framework.Server { return s }
