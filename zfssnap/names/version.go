package names

// Version of this build, set by the linker; all three programs report it.
var Version = "dev"
