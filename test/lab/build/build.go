// Package build makes what rigs are made of: programs of Kubernetes, containerd,
// etcd, Velero and an S3 server from the Go module proxy, a kernel with OpenZFS
// and a node's root file system from Debian packages.
//
// Each artefact is kept in a cache under a key of everything it is made of, and
// appears there complete or not at all. Several builders may run at once: one
// builds, the others wait and use what it made.
package build

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"
)

// Options say what to build and where to keep it.
type Options struct {
	// Cache is the folder with what was built before; empty means DefaultCache.
	Cache string
	// Source is this module's folder; empty means that it is searched for above
	// the running program and the working folder.
	Source string
	// HostsOnly leaves out everything but the object store, the kernel and a root
	// file system for machines with OpenZFS and no Kubernetes.
	HostsOnly bool
	// WordPress adds what nodes need to run one: its images, and kube-proxy, by which
	// it reaches its database.
	WordPress bool
	// Tell receives a line when a step has begun or ended that takes time; nil
	// means nobody asks. It may be called from several goroutines at once.
	Tell func(step, what string)
}

// Set is everything that was asked for, ready to be used.
type Set struct {
	// Kernel, Initrd and Root are what a machine boots from.
	Kernel, Initrd, Root string
	// programs and images have the file of each, by name.
	programs, images map[string]string
}

// Bin is the file of a program: etcd, kube-apiserver, kube-controller-manager,
// kube-scheduler, kubectl, velero, velero-restore-helper, velero-plugin-for-aws or
// versitygw; kube-proxy with WordPress. Asking for one that wasn't built is a mistake
// of the caller.
func (s *Set) Bin(name string) string { return lookUp(s.programs, "program", name) }

// Image is the tar file of a container image that nodes can import: pause or
// busybox, and those of WordPress with it. Their references are in package image.
func (s *Set) Image(name string) string { return lookUp(s.images, "image", name) }

func lookUp(files map[string]string, kind, name string) string {
	file, ok := files[name]
	if !ok {
		panic(fmt.Sprintf("%s %q is none of those built", kind, name))
	}
	return file
}

// Ensure builds what the cache doesn't have yet. A first build takes a quarter
// of an hour on two cores, later ones a second.
func Ensure(ctx context.Context, o Options) (*Set, error) {
	b, err := newBuilder(ctx, o)
	if err != nil {
		return nil, err
	}
	var set Set
	var programs map[string]string
	var kernel, packages string
	// The Debian packages keep one core busy, the Go programs the others.
	lanes, laneCtx := errgroup.WithContext(ctx)
	lanes.Go(func() error {
		if err := b.installTools(laneCtx, slices.Sorted(maps.Keys(hostTools))...); err != nil {
			return err
		}
		var err error
		if packages, err = b.packages(laneCtx); err != nil {
			return err
		}
		kernel, err = b.kernel(laneCtx)
		return err
	})
	lanes.Go(func() error {
		var err error
		programs, err = b.programs(laneCtx)
		return err
	})
	if err := lanes.Wait(); err != nil {
		return nil, err
	}
	set.programs = programs
	set.Kernel = filepath.Join(kernel, kernelFile)
	if set.Initrd, err = b.initrd(ctx, kernel, programs); err != nil {
		return nil, err
	}
	if set.Root, err = b.root(ctx, kernel, packages, programs); err != nil {
		return nil, err
	}
	if !o.HostsOnly {
		if set.images, err = b.images(ctx, packages, programs); err != nil {
			return nil, err
		}
	}
	if o.WordPress {
		images, err := b.wordpressImages(ctx, set.Image("busybox"))
		if err != nil {
			return nil, err
		}
		maps.Copy(set.images, images)
	}
	return &set, nil
}
