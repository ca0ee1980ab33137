package zfssnap

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
)

// NoServerError says that a volume is reached through a host on which no agent
// is known.
type NoServerError struct{ Names []string }

func (e *NoServerError) Error() string {
	if len(e.Names) == 0 {
		return "it names no host it is reached at"
	}
	return fmt.Sprintf("no agent is known on the host it is reached at (%s); add <host>=<node> to %s in the config of the VolumeSnapshotLocation, or skip the volume with a volume policy",
		strings.Join(e.Names, ", "), KeyStorageHosts)
}

// nodeOf returns the node that a volume means by one of the names it is reached
// by, in the order of the names: what storageHosts says of it, the node of that
// name, or the only node whose agent has it for an address. A port does not
// count. The error is a *NoServerError.
func (l Location) nodeOf(names ...string) (string, error) {
	var asked []string
	for _, name := range names {
		name = hostOf(name)
		if name == "" {
			continue
		}
		asked = append(asked, name)
		if node, ok := l.StorageHosts[name]; ok {
			return node, nil
		}
		if _, ok := l.Agents[name]; ok {
			return name, nil
		}
		var at []string
		for node, address := range l.Agents {
			if hostOf(address) == name {
				at = append(at, node)
			}
		}
		if len(at) == 1 {
			return at[0], nil
		}
	}
	return "", &NoServerError{Names: asked}
}

// serverOf returns the name by which volumes on a node are reached: have where
// that means the node already, what storageHosts says, or the host of its
// agent's address.
func (l Location) serverOf(node, have string) string {
	if at, err := l.nodeOf(have); err == nil && at == node {
		return hostOf(have)
	}
	for _, server := range slices.Sorted(maps.Keys(l.StorageHosts)) {
		if l.StorageHosts[server] == node {
			return server
		}
	}
	return hostOf(l.Agents[node])
}

// portalOf is serverOf with the port of a portal kept.
func (l Location) portalOf(node, have string) string {
	server := l.serverOf(node, have)
	if _, port, err := net.SplitHostPort(have); err == nil {
		return net.JoinHostPort(server, port)
	}
	return server
}

// hostOf returns the host of "host", "host:port", "[v6]" or "[v6]:port".
func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return strings.Trim(address, "[]")
}
