package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/test/lab/pki"
)

// FolderVariable overrides where the rig's folder lies.
const FolderVariable = "KUBECTL_DR_LAB"

// maxFolder keeps the Unix sockets below a rig's folder within the 107
// characters that sun_path allows.
const maxFolder = 75

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// Folder is where the rig of that name lies: dir if given, else what
// KUBECTL_DR_LAB says, else below the user's state folder.
func Folder(name, dir string) (string, error) {
	if !validName.MatchString(name) {
		return "", fmt.Errorf("rig name %q: use up to 32 lower-case letters, digits and dashes", name)
	}
	if dir == "" {
		dir = os.Getenv(FolderVariable)
	}
	if dir == "" {
		state := os.Getenv("XDG_STATE_HOME")
		if state == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", err
			}
			state = filepath.Join(home, ".local", "state")
		}
		dir = filepath.Join(state, "kubectl-dr", "lab", name)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if len(dir) > maxFolder {
		return "", fmt.Errorf("rig folder %s: longer than %d characters, so sockets in it could not be named", dir, maxFolder)
	}
	return dir, nil
}

// Paths are the files of a rig.
type Paths struct{ Dir string }

func (p Paths) in(elem ...string) string { return filepath.Join(append([]string{p.Dir}, elem...)...) }

func (p Paths) state() string { return p.in("state.json") }
func (p Paths) lock() string  { return p.in("lock") }

// PKI is the folder with certificates.
func (p Paths) PKI() pki.Dir { return pki.Dir(p.in("pki")) }

// Bin is a folder with kubectl and velero, for PATH.
func (p Paths) Bin() string { return p.in("bin") }

// Log is the file with the output of a part.
func (p Paths) Log(part string) string {
	return p.in("log", strings.ReplaceAll(part, "/", "-")+".log")
}

// EtcdData is where the data of a site's etcd are.
func (p Paths) EtcdData(site string) string { return p.in("etcd", site) }

// Kubeconfig is the administrator's file for one site.
func (p Paths) Kubeconfig(site string) string { return p.in("kubeconfig", site+".yaml") }

// MergedKubeconfig has a context for each site.
func (p Paths) MergedKubeconfig() string { return p.in("kubeconfig", "both.yaml") }

// hosts is what the API servers see as /etc/hosts.
func (p Paths) hosts() string { return p.in("hosts") }

// S3 is the folder that object storage serves; a bucket is a folder in it.
func (p Paths) S3() string { return p.in("s3") }

// S3Credentials is the shared credentials file of the AWS tools.
func (p Paths) S3Credentials() string { return p.in("s3-credentials") }
