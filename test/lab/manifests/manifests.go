// Package manifests holds what a rig puts into its clusters before anything else.
package manifests

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"text/template"
)

//go:embed crds/*.yaml
var crds embed.FS

//go:embed site.yaml.tmpl
var siteText string

var siteTemplate = template.Must(template.New("site.yaml").Option("missingkey=error").Parse(siteText))

// CRDs are the definitions of other projects' kinds, as one YAML stream.
func CRDs() ([]byte, error) {
	var out bytes.Buffer
	err := fs.WalkDir(crds, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := crds.ReadFile(path)
		fmt.Fprintf(&out, "---\n%s", data)
		return err
	})
	return out.Bytes(), err
}

// StorageClass is a class of the OpenEBS ZFS driver.
type StorageClass struct{ Name, Pool string }

// Site is what differs between the sites.
type Site struct {
	StorageClasses []StorageClass
	// S3URL and Bucket are where backups lie.
	S3URL, Bucket string
	// ReadOnly makes the backup location one that is only restored from.
	ReadOnly bool
	// Location is the configuration of the volume snapshot location.
	Location map[string]string
	// ClientBundle is the base64 of the plugin's PEM bundle.
	ClientBundle string
}

// YAML is the site's objects as one YAML stream.
func (s Site) YAML() ([]byte, error) {
	var out bytes.Buffer
	if err := siteTemplate.Execute(&out, s); err != nil {
		return nil, fmt.Errorf("render site: %w", err)
	}
	return out.Bytes(), nil
}
