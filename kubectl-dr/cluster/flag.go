package cluster

import (
	"slices"
	"strings"

	corev1api "k8s.io/api/core/v1"
)

// Flag returns the value that a flag has on the command lines of containers, the last
// if it is there more than once, and whether it is there.
func Flag(name string, containers ...corev1api.Container) (value string, given bool) {
	for _, c := range containers {
		args := slices.Concat(c.Command, c.Args)
		for i, arg := range args {
			if v, ok := strings.CutPrefix(arg, "--"+name+"="); ok {
				value, given = v, true
			} else if arg == "--"+name && i+1 < len(args) {
				value, given = args[i+1], true
			}
		}
	}
	return value, given
}
