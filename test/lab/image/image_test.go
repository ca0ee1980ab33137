package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestBuild_IsWhatImportersExpect(t *testing.T) {
	t.Parallel()
	tree := NewTree()
	tree.Dir("bin", 0o755)
	tree.File("bin/hello", 0o755, []byte("program"))
	tree.Link("bin/hi", "hello")
	layer, err := tree.Layer()
	require.NoError(t, err)
	var out, again bytes.Buffer
	config := Config{Entrypoint: []string{"/bin/hello"}, Env: []string{"PATH=/bin"}}
	require.NoError(t, Build(&out, "docker.io/local/hello:1", config, layer, layer))
	require.NoError(t, Build(&again, "docker.io/local/hello:1", config, layer, layer))
	assert.Equal(t, out.Bytes(), again.Bytes())

	files := unpack(t, out.Bytes())
	require.Len(t, files, 3, "a layer that is there twice is written once")
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	require.NoError(t, json.Unmarshal(files["manifest.json"], &manifest))
	require.Len(t, manifest, 1)
	id := digest(layer)
	assert.Equal(t, []string{"docker.io/local/hello:1"}, manifest[0].RepoTags)
	assert.Equal(t, []string{id + "/layer.tar", id + "/layer.tar"}, manifest[0].Layers)
	assert.Equal(t, digest(files[manifest[0].Config])+".json", manifest[0].Config)
	assert.JSONEq(t, `{"architecture": "amd64", "os": "linux",
		"config": {"Entrypoint": ["/bin/hello"], "Env": ["PATH=/bin"]},
		"rootfs": {"type": "layers", "diff_ids": ["sha256:`+id+`", "sha256:`+id+`"]}}`, string(files[manifest[0].Config]))
	assert.Equal(t, "program", string(unpack(t, files[id+"/layer.tar"])["bin/hello"]))
}

func TestLayers_AreThoseOfTheImage(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "hello.tar")
	var out bytes.Buffer
	require.NoError(t, Build(&out, "docker.io/local/hello:1", Config{}, Layer("below"), Layer("above")))
	require.NoError(t, os.WriteFile(file, out.Bytes(), 0o600))
	layers, err := Layers(file)
	require.NoError(t, err)
	assert.Equal(t, []Layer{Layer("below"), Layer("above")}, layers)
	_, err = Layers(file + ".gone")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestTree_Layer_ReturnsTheFirstError(t *testing.T) {
	t.Parallel()
	tree := NewTree()
	tree.add(&tar.Header{Name: "negative", Size: -1}, nil)
	tree.File("fine", 0o644, nil)
	_, err := tree.Layer()
	require.Error(t, err)
}

func TestBuildBusybox_HasItsAppletsAsLinks(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, BuildBusybox(&out, []byte("program"), []string{"busybox", "httpd", "sh"}))
	links := map[string]string{}
	for name, data := range unpack(t, out.Bytes()) {
		if !bytes.HasSuffix([]byte(name), []byte("layer.tar")) {
			continue
		}
		for r := tar.NewReader(bytes.NewReader(data)); ; {
			h, err := r.Next()
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
			if h.Typeflag == tar.TypeSymlink {
				links[h.Name] = h.Linkname
			}
		}
	}
	assert.Equal(t, map[string]string{"bin/httpd": "busybox", "bin/sh": "busybox"}, links)
}

func unpack(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		require.NoError(t, err)
		content, err := io.ReadAll(r)
		require.NoError(t, err)
		files[h.Name] = content
	}
}
