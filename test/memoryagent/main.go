// Command memoryagent is an agent over pools in memory, for tests that need one
// beside a real cluster and no ZFS.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs/zfstest"
)

func main() {
	node := flag.String("node", "", "its name")
	listen := flag.String("listen", "", "host:port")
	bundle := flag.String("tls", "", "PEM bundle")
	datasets := flag.String("datasets", "", "name=bytes,… to make, each with a file of that size")
	flag.Parse()
	if err := serve(*node, *listen, *bundle, *datasets); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func serve(node, listen, bundle, datasets string) error {
	b, err := agent.LoadBundle(bundle)
	if err != nil {
		return err
	}
	var pools []string
	sizes := map[string]int{}
	for pair := range strings.SplitSeq(datasets, ",") {
		name, text, _ := strings.Cut(pair, "=")
		var size int
		if _, err := fmt.Sscan(text, &size); err != nil {
			return fmt.Errorf("size of %s: %w", name, err)
		}
		if !slices.Contains(pools, zfs.Pool(name)) {
			pools = append(pools, zfs.Pool(name))
		}
		sizes[name] = size
	}
	pool := zfstest.NewPool(pools...)
	c := &zfs.Client{Runner: pool}
	var errs []error
	for name, size := range sizes {
		errs = append(errs, c.Create(context.Background(), name, zfs.CreateOptions{Parents: true, Properties: map[string]string{"mountpoint": "legacy"}}))
		if size > 0 {
			errs = append(errs, pool.Write(name, "data", bytes.Repeat([]byte("x"), size)))
		}
	}
	l, err := net.Listen("tcp", listen)
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	server := &agent.Server{
		Node: node, Bundle: b, ZFS: c, Clock: time.Now, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Policy: agent.Policy{Identities: []agent.Grant{{Name: "velero", Verbs: []agent.Verb{agent.AnyVerb}, Prefixes: []string{"*"}}}},
	}
	return server.Serve(l)
}
