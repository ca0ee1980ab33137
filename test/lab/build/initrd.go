package build

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

const initrdFile = "initrd.img"

// bootModules are those it takes to reach the root file system.
var bootModules = []string{"virtio_pci", "virtio_blk", "ext4"}

// initrd makes the initial RAM file system: the guest's first process and the
// modules it loads itself.
func (b *builder) initrd(ctx context.Context, kernel string, programs map[string]string) (string, error) {
	dir, err := b.ensure(ctx, recipe{
		name:   "initrd",
		quick:  true,
		inputs: append([]string{kernel, programs["init"]}, bootModules...),
		make: func(_ context.Context, dir string, _ *os.File) error {
			files, err := bootFiles(filepath.Join(kernel, modulesFile))
			if err != nil {
				return err
			}
			program, err := os.ReadFile(programs["init"])
			if err != nil {
				return err
			}
			f, err := os.Create(filepath.Join(dir, initrdFile))
			if err != nil {
				return err
			}
			z := gzip.NewWriter(f)
			return errors.Join(writeCPIO(z, append(files, file{"init", program})), z.Close(), f.Close())
		},
	})
	return filepath.Join(dir, initrdFile), err
}

// file is one to be written into an archive.
type file struct {
	name string
	data []byte
}

// bootFiles takes the modules for booting from the kernel's, named so that they
// sort in the order of loading.
func bootFiles(modulesTar string) ([]file, error) {
	index := map[string][]byte{}
	if err := readTar(modulesTar, func(name string) bool {
		return path.Base(name) == "modules.dep" || path.Base(name) == "modules.builtin"
	},
		func(name string, data []byte) { index[path.Base(name)] = data }); err != nil {
		return nil, err
	}
	order, err := loadOrder(string(index["modules.dep"]), string(index["modules.builtin"]), bootModules)
	if err != nil {
		return nil, err
	}
	content := map[string][]byte{}
	if err := readTar(modulesTar, func(name string) bool { return path.Ext(name) == ".ko" },
		func(name string, data []byte) {
			for _, module := range order {
				if strings.HasSuffix(name, "/"+module) {
					content[module] = data
				}
			}
		}); err != nil {
		return nil, err
	}
	var files []file
	for i, module := range order {
		if content[module] == nil {
			return nil, fmt.Errorf("take module %s from %s: it isn't there", module, modulesTar)
		}
		files = append(files, file{fmt.Sprintf("modules/%02d-%s", i, path.Base(module)), content[module]})
	}
	return files, nil
}

func readTar(tarFile string, want func(name string) bool, take func(name string, data []byte)) error {
	f, err := os.Open(tarFile)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", tarFile, err)
		}
		if !want(header.Name) {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("read %s: %w", tarFile, err)
		}
		take(header.Name, data)
	}
}

// loadOrder is the files of the modules and those they need, each after what it
// needs. dep and builtin are modules.dep and modules.builtin of depmod(8).
func loadOrder(dep, builtin string, modules []string) ([]string, error) {
	needs, paths := map[string][]string{}, map[string]string{}
	for line := range strings.Lines(dep) {
		module, list, ok := strings.Cut(line, ":")
		if ok {
			needs[module], paths[moduleName(module)] = strings.Fields(list), module
		}
	}
	inKernel := map[string]bool{}
	for line := range strings.Lines(builtin) {
		inKernel[moduleName(strings.TrimSpace(line))] = true
	}
	var order []string
	seen := map[string]bool{}
	var add func(string)
	add = func(module string) {
		if seen[module] {
			return
		}
		seen[module] = true
		// depmod lists what a module needs with the most basic last.
		for i := len(needs[module]) - 1; i >= 0; i-- {
			add(needs[module][i])
		}
		order = append(order, module)
	}
	for _, name := range modules {
		switch file, ok := paths[name]; {
		case ok:
			add(file)
		case !inKernel[name]:
			return nil, fmt.Errorf("find module %s: the kernel has none of that name", name)
		}
	}
	return order, nil
}

// moduleName is a module's name as programs know it: files may have dashes.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}

// writeCPIO writes an archive as Linux unpacks it at boot ("newc"), with the
// folders that the files lie in.
func writeCPIO(w io.Writer, files []file) error {
	const folder, program = 0o040755, 0o100755
	inode := 0
	entry := func(name string, mode int, data []byte) error {
		inode++
		links, none := 1, 0
		var b strings.Builder
		b.WriteString("070701")
		for _, field := range []int{inode, mode, none, none, links, none, len(data), none, none, none, none, len(name) + 1, none} {
			fmt.Fprintf(&b, "%08x", field)
		}
		b.WriteString(name + "\x00")
		b.WriteString(padding(b.Len()))
		if _, err := io.WriteString(w, b.String()); err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		_, err := io.WriteString(w, padding(len(data)))
		return err
	}
	made := map[string]bool{".": true}
	for _, f := range files {
		if dir := path.Dir(f.name); !made[dir] {
			made[dir] = true
			if err := entry(dir, folder, nil); err != nil {
				return err
			}
		}
		if err := entry(f.name, program, f.data); err != nil {
			return err
		}
	}
	return entry("TRAILER!!!", 0, nil)
}

// padding fills up to a multiple of four.
func padding(n int) string { return "\x00\x00\x00"[:(4-n%4)%4] }
