package zfssnap

import "github.com/kubectl-dr/kubectl-dr/zfssnap/names"

// Version of this build; all three programs report it.
var Version = names.Version
