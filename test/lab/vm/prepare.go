package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/kubectl-dr/kubectl-dr/test/lab/guest/guestcfg"
)

// Prepare makes the machine's folder: keys and the disks of pools once, the
// disk with the guest's configuration and files every time. The machine must
// not be running.
func (m Machine) Prepare(ctx context.Context) error {
	if err := m.prepare(ctx); err != nil {
		return fmt.Errorf("prepare machine %s: %w", m.Name, err)
	}
	return nil
}

func (m Machine) prepare(ctx context.Context) error {
	if err := os.MkdirAll(m.Dir, 0o700); err != nil {
		return err
	}
	if err := m.makeKeys(); err != nil {
		return err
	}
	for _, d := range m.Disks {
		if err := makePoolDisk(m.poolDisk(d), d.SizeGB); err != nil {
			return err
		}
	}
	for _, d := range m.Shared {
		if err := makePoolDisk(d.File, d.SizeGB); err != nil {
			return err
		}
	}
	return m.makeConfigDisk(ctx)
}

func (m Machine) poolDisk(d Disk) string { return m.in("pool-" + d.Pool + ".img") }

func (m Machine) configDisk() string { return m.in("config.img") }

// guest is what the guest is told, complete.
func (m Machine) guest() guestcfg.Config {
	c := m.Guest
	c.Hostname = m.Name
	c.Pools = nil
	for _, d := range m.Disks {
		c.Pools = append(c.Pools, guestcfg.Pool{Name: d.Pool, Datasets: d.Datasets})
	}
	return c
}

func (m Machine) makeConfigDisk(ctx context.Context) error {
	staging := m.in("config")
	if err := errors.Join(os.RemoveAll(staging), os.Mkdir(staging, 0o700)); err != nil {
		return err
	}
	defer os.RemoveAll(staging)
	stage := func(name string, data io.Reader, mode fs.FileMode) error {
		if !filepath.IsLocal(name) {
			return fmt.Errorf("file %q: not a path below %s", name, guestcfg.Dir)
		}
		path := filepath.Join(staging, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, data)
		return errors.Join(err, f.Close())
	}
	for name, source := range m.Files {
		f, err := os.Open(source)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err == nil {
			err = stage(name, f, info.Mode().Perm())
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	k, err := m.readKeys()
	if err != nil {
		return err
	}
	config, err := json.MarshalIndent(m.guest(), "", "  ")
	if err != nil {
		return err
	}
	for path, data := range map[string][]byte{
		guestcfg.File:           config,
		guestcfg.HostKey:        k.dropbear,
		guestcfg.AuthorizedKeys: k.authorizedKeys(),
	} {
		name := strings.TrimPrefix(path, guestcfg.Dir+"/")
		if err := stage(name, strings.NewReader(string(data)), 0o600); err != nil {
			return err
		}
	}
	return makeExt4(ctx, m.configDisk(), staging)
}

// makeExt4 makes an image of a file system with the folder's content and little
// room to spare.
func makeExt4(ctx context.Context, image, folder string) error {
	var content int64
	err := filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		content += info.Size() + 4096
		return err
	})
	if err != nil {
		return err
	}
	if err := os.RemoveAll(image); err != nil {
		return err
	}
	size := content + content/16 + 8<<20
	out, err := exec.CommandContext(ctx, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0",
		"-d", folder, image, fmt.Sprintf("%dk", size>>10)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make file system %s: %w: %s", image, err, strings.TrimSpace(string(out)))
	}
	return nil
}
