package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/test/lab/image"
)

// images makes the container images that every node has.
func (b *builder) images(ctx context.Context, packages string, programs map[string]string) (map[string]string, error) {
	names := []string{"pause", "busybox"}
	dir, err := b.ensure(ctx, recipe{
		name:  "images",
		quick: true,
		// The format is part of what they are made of.
		inputs: []string{"1", packages, programs["pause"]},
		make: func(ctx context.Context, dir string, log *os.File) error {
			pause, err := os.ReadFile(programs["pause"])
			if err != nil {
				return err
			}
			busybox, applets, err := busybox(ctx, dir, filepath.Join(packages, packagesFile))
			if err != nil {
				return err
			}
			return errors.Join(
				writeImage(filepath.Join(dir, "pause.tar"), func(w io.Writer) error { return image.BuildPause(w, pause) }),
				writeImage(filepath.Join(dir, "busybox.tar"), func(w io.Writer) error {
					return image.BuildBusybox(w, busybox, applets)
				}),
			)
		},
	})
	files := map[string]string{}
	for _, name := range names {
		files[name] = filepath.Join(dir, name+".tar")
	}
	return files, err
}

// busybox takes the program from Debian's package and asks it for its applets.
func busybox(ctx context.Context, dir, packagesTar string) (program []byte, applets []string, err error) {
	if err := readTar(packagesTar, func(name string) bool { return strings.HasSuffix(name, "/bin/busybox") },
		func(_ string, data []byte) { program = data }); err != nil {
		return nil, nil, err
	}
	file := filepath.Join(dir, "busybox")
	if err := os.WriteFile(file, program, 0o755); err != nil {
		return nil, nil, err
	}
	defer os.Remove(file)
	out, err := exec.CommandContext(ctx, file, "--list").Output()
	if err != nil {
		return nil, nil, fmt.Errorf("list the applets of busybox: %w", err)
	}
	return program, strings.Fields(string(out)), nil
}

func writeImage(path string, build func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(build(f), f.Close())
}
