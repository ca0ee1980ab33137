// Package image makes container images as tar files in the format of `docker
// save`, which containerd imports: for rigs whose nodes have no registry.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
)

// The images that every node has.
const (
	Pause   = "docker.io/local/pause:1"
	Busybox = "docker.io/local/busybox:1"
)

// The images of rigs with WordPress.
const (
	MariaDB   = "docker.io/local/mariadb:1"
	WordPress = "docker.io/local/wordpress:1"
)

// Config is how a container of the image is run, in the words of an image's
// configuration.
type Config struct {
	Entrypoint []string `json:"Entrypoint,omitempty"`
	Cmd        []string `json:"Cmd,omitempty"`
	Env        []string `json:"Env,omitempty"`
	WorkingDir string   `json:"WorkingDir,omitempty"`
	User       string   `json:"User,omitempty"`
}

// Layer is a tar archive of files, not compressed.
type Layer []byte

// Build writes the image called ref. The same input gives the same bytes.
func Build(w io.Writer, ref string, config Config, layers ...Layer) error {
	type rootfs struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	fs := rootfs{Type: "layers", DiffIDs: []string{}}
	var files []string
	for _, l := range layers {
		id := digest(l)
		fs.DiffIDs = append(fs.DiffIDs, "sha256:"+id)
		files = append(files, id+"/layer.tar")
	}
	configData, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": config, "rootfs": fs,
	})
	if err != nil {
		return err
	}
	configFile := digest(configData) + ".json"
	manifest, err := json.Marshal([]map[string]any{{
		"Config": configFile, "RepoTags": []string{ref}, "Layers": files,
	}})
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	write := func(name string, data []byte) error {
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err := t.Write(data)
		return err
	}
	written := map[string]bool{}
	for i, l := range layers {
		if written[files[i]] {
			continue
		}
		written[files[i]] = true
		if err := write(files[i], l); err != nil {
			return fmt.Errorf("write image %s: %w", ref, err)
		}
	}
	if err := write(configFile, configData); err != nil {
		return fmt.Errorf("write image %s: %w", ref, err)
	}
	if err := write("manifest.json", manifest); err != nil {
		return fmt.Errorf("write image %s: %w", ref, err)
	}
	return t.Close()
}

// Layers returns those of an image that Build has written to a file, for others to
// stand on: what containers share is kept once.
func Layers(file string) ([]Layer, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var layers []Layer
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return layers, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read image %s: %w", file, err)
		}
		if path.Base(header.Name) != "layer.tar" {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, fmt.Errorf("read image %s: %w", file, err)
		}
		layers = append(layers, data)
	}
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Tree collects the files of a layer.
type Tree struct {
	buffer bytes.Buffer
	tar    *tar.Writer
	err    error
}

// NewTree returns an empty tree.
func NewTree() *Tree {
	t := &Tree{}
	t.tar = tar.NewWriter(&t.buffer)
	return t
}

// Dir adds a folder.
func (t *Tree) Dir(name string, mode int64) {
	t.add(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
}

// File adds a file.
func (t *Tree) File(name string, mode int64, data []byte) {
	t.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))}, data)
}

// Link adds a symbolic link.
func (t *Tree) Link(name, target string) {
	t.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

func (t *Tree) add(h *tar.Header, data []byte) {
	if t.err != nil {
		return
	}
	if t.err = t.tar.WriteHeader(h); t.err == nil {
		_, t.err = t.tar.Write(data)
	}
}

// Layer returns what was added, or the first error in adding it.
func (t *Tree) Layer() (Layer, error) {
	if t.err != nil {
		return nil, t.err
	}
	if err := t.tar.Close(); err != nil {
		return nil, err
	}
	return t.buffer.Bytes(), nil
}

// BuildPause writes the image with the program that holds a pod's namespaces.
func BuildPause(w io.Writer, program []byte) error {
	t := NewTree()
	t.File("pause", 0o755, program)
	layer, err := t.Layer()
	if err != nil {
		return err
	}
	return Build(w, Pause, Config{Entrypoint: []string{"/pause"}}, layer)
}

// BuildBusybox writes an image with busybox, a static program, under the name
// of each of its applets. Their list is what `busybox --list` prints. Debian's
// static build has one that crashes: wget with -T.
func BuildBusybox(w io.Writer, program []byte, applets []string) error {
	t := NewTree()
	for _, dir := range []string{"bin", "etc", "root", "var", "var/www", "data"} {
		t.Dir(dir, 0o755)
	}
	t.Dir("tmp", 0o1777)
	t.File("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	t.File("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	t.File("bin/busybox", 0o755, program)
	for _, a := range applets {
		if a != "busybox" {
			t.Link("bin/"+a, "busybox")
		}
	}
	layer, err := t.Layer()
	if err != nil {
		return err
	}
	return Build(w, Busybox, Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}}, layer)
}
