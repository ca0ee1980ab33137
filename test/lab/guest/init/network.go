package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/test/lab/guest/guestcfg"
)

// setUpNetwork configures eth0, which leads to the host through the emulator's
// own address translation, and eth1, the link to the other guest.
func setUpNetwork(c guestcfg.Config) error {
	lines := []string{
		"link set lo up",
		"address add 10.0.2.15/24 dev eth0",
		"link set eth0 up",
		"route add default via 10.0.2.2",
	}
	if c.Link.Address != "" {
		lines = append(lines, "address add "+c.Link.Address+" dev eth1", "link set eth1 up")
	}
	for _, r := range c.Link.Routes {
		lines = append(lines, "route add "+r.Destination+" via "+r.Via)
	}
	if err := commandWithInput(strings.Join(lines, "\n")+"\n", "ip", "-batch", "-"); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"net/ipv4/ip_forward":                "1",
		"net/bridge/bridge-nf-call-iptables": "1",
		// What kubelet insists on, for it not to change them itself.
		"vm/overcommit_memory": "1",
		"kernel/panic":         "10",
		"kernel/panic_on_oops": "1",
	} {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s: %w", strings.ReplaceAll(name, "/", "."), err)
		}
	}
	if c.PodSubnet == "" {
		return nil
	}
	// The emulator answers only the guest's own address. Between nodes, pods
	// keep theirs.
	return command("iptables", "--wait", "--table", "nat", "--append", "POSTROUTING",
		"--source", c.PodSubnet, "--out-interface", "eth0", "--jump", "MASQUERADE")
}
