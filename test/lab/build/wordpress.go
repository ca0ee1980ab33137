package build

import (
	"context"
	"debug/elf"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/test/lab/image"
)

// WordPress are the images that only rigs with WordPress have.
var WordPress = []string{"mariadb", "wordpress"}

// wordpressPackages are what these images are made of. PHP asks for a server of
// its own, and WordPress for a library of pictures: they are left out of the image.
var wordpressPackages = []string{
	"mariadb-server-core", "mariadb-client-core",
	"apache2-bin", "libapache2-mod-php8.2", "php8.2-cli", "php8.2-mysql", "media-types",
	"wordpress", "wordpress-theme-twentytwentyone",
}

// wordpressFiles are how the programs are started and configured.
//
//go:embed wordpress
var wordpressFiles embed.FS

// wordpressInputs are the contents of wordpressFiles.
func wordpressInputs() ([]string, error) {
	entries, err := wordpressFiles.ReadDir("wordpress")
	var contents []string
	for _, e := range entries {
		content, readErr := wordpressFiles.ReadFile(path.Join("wordpress", e.Name()))
		contents, err = append(contents, string(content)), errors.Join(err, readErr)
	}
	return contents, err
}

// wordpressImages makes images of MariaDB and of WordPress with Apache and PHP from
// Debian packages, of which they have the programs, what those are linked to, and the
// files that are read at run time; everything else is busybox.
func (b *builder) wordpressImages(ctx context.Context, busyboxImage string) (map[string]string, error) {
	packages, err := b.debian(ctx, "wordpress-packages", append(mmdebstrap("extract", wordpressPackages...), suite, packagesFile))
	if err != nil {
		return nil, err
	}
	inputs, err := wordpressInputs()
	if err != nil {
		return nil, err
	}
	dir, err := b.ensure(ctx, recipe{
		name: "wordpress",
		// The format is part of what they are made of.
		inputs: append(inputs, "1", packages, busyboxImage),
		make: func(ctx context.Context, dir string, log *os.File) error {
			tree := filepath.Join(dir, "tree")
			if err := os.Mkdir(tree, 0o755); err != nil {
				return err
			}
			if err := run(command(ctx, log, tree, "tar", "--no-same-owner", "--exclude=./dev", "-xf", filepath.Join(packages, packagesFile))); err != nil {
				return err
			}
			base, err := image.Layers(busyboxImage)
			if err != nil {
				return err
			}
			root, err := os.OpenRoot(tree)
			if err != nil {
				return err
			}
			return errors.Join(
				mariadbImage(filepath.Join(dir, "mariadb.tar"), root, base),
				wordpressImage(filepath.Join(dir, "wordpress.tar"), root, base),
				root.Close(), os.RemoveAll(tree),
			)
		},
	})
	files := map[string]string{}
	for _, name := range WordPress {
		files[name] = filepath.Join(dir, name+".tar")
	}
	return files, err
}

func mariadbImage(file string, packages *os.Root, base []image.Layer) error {
	l := newLayer(packages)
	l.users("mysql:x:999:999::/var/lib/mysql:/bin/false")
	l.programs("usr/sbin/mariadbd", "usr/bin/mariadb")
	// The socket is there.
	l.tree.Dir("run/mysqld", 0o777)
	l.files("usr/share/mysql", "usr/share/mysql", func(name string) bool {
		return strings.HasPrefix(name, "mysql_system_tables") || path.Dir(name) == "english" || path.Dir(name) == "charsets"
	})
	l.own("mariadb.sh", "entrypoint", 0o755)
	return l.write(file, image.MariaDB, base)
}

// phpExtensions and apacheModules are those that are configured to be loaded.
var (
	phpExtensions = []string{"mysqlnd", "mysqli", "ctype", "tokenizer", "opcache"}
	apacheModules = []string{"mod_mpm_prefork", "mod_authz_core", "mod_dir", "mod_mime", "libphp8.2"}
)

func wordpressImage(file string, packages *os.Root, base []image.Layer) error {
	l := newLayer(packages)
	l.users("www-data:x:33:33::/var/www:/bin/false")
	l.programs("usr/sbin/apache2", "usr/bin/php8.2")
	l.tree.Link("usr/bin/php", "php8.2")
	l.tree.Dir("run", 0o755)
	for _, m := range apacheModules {
		l.programs("usr/lib/apache2/modules/" + m + ".so")
	}
	for _, e := range phpExtensions {
		l.programs("usr/lib/php/20220829/" + e + ".so")
	}
	for _, name := range []string{"etc/mime.types", "usr/share/zoneinfo/UTC", "usr/share/zoneinfo/zone.tab"} {
		l.file(name, name, 0o644)
	}
	l.own("apache2.conf", "etc/apache2/apache2.conf", 0o644)
	l.own("php.ini", "etc/php/8.2/apache2/php.ini", 0o644)
	l.own("php.ini", "etc/php/8.2/cli/php.ini", 0o644)
	// Many small files are slow under emulation: they are made once, on the volume.
	site := newLayer(packages)
	site.files("usr/share/wordpress", ".", neededOfWordPress(packages))
	archive, err := site.tree.Layer()
	l.err = errors.Join(l.err, site.err, err)
	l.tree.File("usr/src/wordpress.tar", 0o644, archive)
	l.own("wp-config.php", "usr/src/wp-config.php", 0o644)
	l.own("wordpress.sh", "entrypoint", 0o755)
	return l.write(file, image.WordPress, base)
}

// neededOfWordPress leaves out the long forms of what is there in a short one, which
// is what browsers get, and Debian's own configuration.
func neededOfWordPress(packages *os.Root) func(name string) bool {
	return func(name string) bool {
		if name == "wp-config.php" || name == ".htaccess" {
			return false
		}
		ext := path.Ext(name)
		if ext != ".js" && ext != ".css" {
			return true
		}
		_, err := packages.Stat(path.Join("usr/share/wordpress", strings.TrimSuffix(name, ext)+".min"+ext))
		return err != nil
	}
}

// layer collects files of unpacked packages, as links in them lead to, and never
// beyond them.
type layer struct {
	packages *os.Root
	tree     *image.Tree
	have     map[string]bool
	err      error
}

func newLayer(packages *os.Root) *layer {
	return &layer{packages: packages, tree: image.NewTree(), have: map[string]bool{}}
}

// users adds a line for the user that the server runs as.
func (l *layer) users(line string) {
	f := strings.Split(line, ":")
	l.tree.File("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"+line+"\n"))
	l.tree.File("etc/group", 0o644, []byte("root:x:0:\n"+f[0]+":x:"+f[3]+":\n"))
}

// file adds one.
func (l *layer) file(from, name string, mode int64) {
	data, err := l.packages.ReadFile(from)
	l.err = errors.Join(l.err, err)
	l.have[name] = true
	l.tree.File(name, mode, data)
}

// own adds one of this module's.
func (l *layer) own(from, name string, mode int64) {
	data, err := wordpressFiles.ReadFile(path.Join("wordpress", from))
	l.err = errors.Join(l.err, err)
	l.tree.File(name, mode, data)
}

// files adds those of a folder, by their names in it, that are wanted. Links to what
// is made when a package is installed are left out.
func (l *layer) files(folder, at string, want func(name string) bool) {
	err := fs.WalkDir(l.packages.FS(), folder, func(file string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(file, folder+"/")
		if err != nil || d.IsDir() || !want(name) {
			return err
		}
		if _, err := l.packages.Stat(file); err == nil {
			l.file(file, path.Join(at, name), 0o644)
		}
		return nil
	})
	l.err = errors.Join(l.err, err)
}

// loader is what the kernel starts for every program.
const loader = "ld-linux-x86-64.so.2"

// libraryFolders are where Debian has libraries.
var libraryFolders = []string{"lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"}

// programs adds programs, or libraries that are loaded by name, with the libraries
// they are linked to.
func (l *layer) programs(names ...string) {
	l.file(path.Join(libraryFolders[0], loader), path.Join("lib64", loader), 0o755)
	for ; len(names) > 0 && l.err == nil; names = names[1:] {
		name := names[0]
		if l.have[name] {
			continue
		}
		l.file(name, name, 0o755)
		libraries, err := l.linkedTo(name)
		l.err = errors.Join(l.err, err)
		names = append(names, libraries...)
	}
}

// linkedTo returns the files of the libraries that a program names.
func (l *layer) linkedTo(name string) ([]string, error) {
	f, err := l.packages.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	program, err := elf.NewFile(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	libraries, err := program.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("read what %s is linked to: %w", name, err)
	}
	var files []string
	for _, library := range libraries {
		if library == loader {
			continue
		}
		i := slices.IndexFunc(libraryFolders, func(folder string) bool {
			_, err := l.packages.Stat(path.Join(folder, library))
			return err == nil
		})
		if i < 0 {
			return nil, fmt.Errorf("find library %s of %s: no package has it", library, name)
		}
		files = append(files, path.Join(libraryFolders[i], library))
	}
	return files, nil
}

// write makes the image, in which the entry point is started.
func (l *layer) write(file, ref string, base []image.Layer) error {
	own, err := l.tree.Layer()
	if err := errors.Join(l.err, err); err != nil {
		return fmt.Errorf("make image %s: %w", ref, err)
	}
	return writeImage(file, func(w io.Writer) error {
		return image.Build(w, ref, image.Config{
			Entrypoint: []string{"/entrypoint"},
			Env:        []string{"PATH=/bin:/usr/sbin:/usr/bin"},
		}, append(slices.Clone(base), own)...)
	})
}
