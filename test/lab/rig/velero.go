package rig

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/test/lab/proc"
)

// bucket is the one that both sites use; it is a folder of the object store.
const bucket = "velero"

// archiveBucket is the one that the agents' archive is in, and recoveryBucket the one
// for backups of the recovery site: Velero takes no folder that it does not know into a
// location of its own.
const (
	archiveBucket  = "archive"
	recoveryBucket = "recovery"
)

const accessKey = "lab"

// s3Part serves a folder as object storage.
func (r *Rig) s3Part() part {
	port := r.port("s3")
	return part{
		name: "s3", port: port,
		start: func(context.Context) (proc.ID, error) {
			secret, err := r.s3Secret()
			if err != nil {
				return proc.ID{}, err
			}
			return r.run("s3", proc.Spec{
				Argv: []string{r.set.Bin("versitygw"), "--port=" + local(port), "posix", r.S3()},
				Env:  []string{"ROOT_ACCESS_KEY=" + accessKey, "ROOT_SECRET_KEY=" + secret},
			})
		},
		ready: func(ctx context.Context) error { return tcpReady(ctx, port) },
	}
}

const secretField = "aws_secret_access_key = "

// writeS3Credentials makes up the secret once.
func (r *Rig) writeS3Credentials() error {
	if _, err := os.Stat(r.S3Credentials()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\n%s%s\n", accessKey, secretField, rand.Text())
	return replaceFile(r.S3Credentials(), []byte(text), 0o600)
}

func (r *Rig) s3Secret() (string, error) {
	data, err := os.ReadFile(r.S3Credentials())
	if err != nil {
		return "", err
	}
	_, rest, ok := strings.Cut(string(data), secretField)
	if !ok {
		return "", fmt.Errorf("read %s: it has no secret", r.S3Credentials())
	}
	return strings.TrimSpace(rest), nil
}

// veleroPart is the Velero server of a site, outside of its cluster.
func (r *Rig) veleroPart(s site) part {
	name := s.name + "/velero"
	home := r.in("velero", s.name)
	plugins := filepath.Join(home, "plugins")
	port := r.port(name)
	return part{
		name: name, needs: []string{s.name + "/objects", "s3"}, port: port,
		renew: func() (bool, error) { return r.installPlugins(plugins) },
		start: func(context.Context) (proc.ID, error) {
			// Temporary files, credentials among them, stay in the rig: two
			// servers on one machine would otherwise share them.
			tmp := filepath.Join(home, "tmp")
			if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o700)); err != nil {
				return proc.ID{}, err
			}
			return r.run(name, proc.Spec{
				Argv: []string{
					r.set.Bin("velero"), "server",
					"--features=" + strings.Join(r.state.Features, ","),
					"--namespace=velero",
					"--plugin-dir=" + plugins,
					"--metrics-address=" + local(port),
					"--profiler-address=",
					"--store-validation-frequency=5s",
					"--backup-sync-period=5s",
					"--item-operation-sync-frequency=1s",
					"--garbage-collection-frequency=5s",
					"--concurrent-backups=4",
					"--item-block-worker-count=4",
					"--resource-timeout=2m",
					"--terminating-resource-timeout=20s",
				},
				Env: []string{
					"KUBECONFIG=" + r.Kubeconfig(s.name),
					"VELERO_NAMESPACE=velero",
					"AWS_SHARED_CREDENTIALS_FILE=" + r.S3Credentials(),
					"AWS_EC2_METADATA_DISABLED=true",
					"HOME=" + home,
					"TMPDIR=" + tmp,
				},
			})
		},
		ready: func(ctx context.Context) error {
			return httpReady(ctx, http.DefaultClient, "http://"+local(port)+"/metrics")
		},
	}
}

// SetFeatures starts the Velero servers anew, from now on with these of the features
// that are off by default.
func (r *Rig) SetFeatures(ctx context.Context, out io.Writer, features ...string) error {
	var servers []string
	for _, s := range sites {
		servers = append(servers, s.name+"/velero")
	}
	if err := r.Stop(ctx, out, servers...); err != nil {
		return err
	}
	err := r.change(out, servers, func() error {
		r.state.Features = features
		return r.state.write(r.Paths)
	})
	return errors.Join(err, r.Start(ctx, out, servers...))
}

// installPlugins copies the plugins into the server's folder, because it
// follows no links there. It reports whether one of them changed.
func (r *Rig) installPlugins(dir string) (bool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	sources := []string{r.set.Bin("velero-plugin-for-aws")}
	switch _, err := os.Stat(r.state.Plugin); {
	case err == nil:
		sources = append(sources, r.state.Plugin)
	case errors.Is(err, os.ErrNotExist):
		r.progress.tell("warning", fmt.Sprintf("no plugin %q: Velero runs without it", r.state.Plugin))
	default:
		return false, err
	}
	changed := false
	for _, source := range sources {
		c, err := copyChanged(source, filepath.Join(dir, filepath.Base(source)))
		if err != nil {
			return false, err
		}
		changed = changed || c
	}
	return changed, nil
}

// copyChanged copies an executable unless the copy is the same already.
func copyChanged(from, to string) (bool, error) {
	want, err := digest(from)
	if err != nil {
		return false, err
	}
	if have, err := digest(to); err == nil && bytes.Equal(have, want) {
		return false, nil
	}
	in, err := os.Open(from)
	if err != nil {
		return false, err
	}
	defer in.Close()
	out, err := os.OpenFile(to+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o700)
	if err != nil {
		return false, err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return false, fmt.Errorf("copy %s: %w", from, err)
	}
	return true, os.Rename(to+".new", to)
}

func digest(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return h.Sum(nil), nil
}
