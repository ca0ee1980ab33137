package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
)

// installNotes starts a small application beside, which is moved to the other site and
// home again.
func (d *demo) installNotes(ctx context.Context) error {
	d.say("A small application beside it has one volume, and a schedule of its own.")
	if _, code, err := d.show(ctx, "velero", "--kubecontext", "primary", "schedule", "create", notes,
		"--schedule", "@every 24h", "--include-namespaces", notes, "--volume-snapshot-locations", "zfs"); err != nil || code != 0 {
		return errors.Join(err, d.must(code == 0, "velero accepts the schedule"))
	}
	if _, err := d.node(ctx, "hassio", "zfs", "create", "-p", "-o", "mountpoint=legacy", "znvm/k3s/pvc-notes"); err != nil {
		return err
	}
	if _, err := d.kubectl(ctx, "dr", "-n", "velero", "patch", "configmap", "wordpress-rewrite", "--patch-file", note("profiles.yaml")); err != nil {
		return err
	}
	for file, site := range map[string]string{"app.yaml": "primary", "home.yaml": "primary", "plan.yaml": "dr"} {
		if _, err := d.kubectl(ctx, site, "apply", "-f", note(file)); err != nil {
			return err
		}
	}
	return d.recoveryLocation(ctx)
}

// note is a file of the notes.
func note(name string) string { return filepath.Join("test", "lab", "demo", "notes", name) }

// notes is the application's namespace, and the name of its plan and of all else.
const notes = "notes"

// write adds a note, and remembers the checksums of all there are.
func (d *demo) write(ctx context.Context, site string) error {
	_, err := d.kubectl(ctx, site, "-n", notes, "exec", "deployment/notes", "--", "sh", "-ec",
		"cd /data/notes; dd if=/dev/urandom of=../new bs=64k count=1 2>/dev/null; mv ../new $(sha256sum ../new | cut -d' ' -f1); sync")
	if err != nil {
		return err
	}
	d.notes, err = d.read(ctx, site)
	return err
}

// read lists the checksums of the notes at a site.
func (d *demo) read(ctx context.Context, site string) (string, error) {
	return d.kubectl(ctx, site, "-n", notes, "exec", "deployment/notes", "--", "sh", "-ec", "cd /data/notes; sha256sum *")
}

// sameNotes claims that a site has every note that was written, and the other runs
// nothing.
func (d *demo) sameNotes(ctx context.Context, site, other string) error {
	got, err := d.read(ctx, site)
	if err != nil {
		return err
	}
	d.claim(got == d.notes, "every note is there, and has the checksum it had (%d)", strings.Count(got, "\n"))
	running, err := d.kubectl(ctx, other, "-n", notes, "get", "pods", "-o", "name")
	d.claim(err == nil && running == "", "nothing of it runs at the other site any more")
	return errors.Join(err, d.measured(ctx))
}

func (d *demo) moveNotes(ctx context.Context) error {
	d.say("A note is written, that no backup has.")
	if err := d.write(ctx, "primary"); err != nil {
		return err
	}
	if err := d.move(ctx, notes, "failover", "--planned"); err != nil {
		return err
	}
	return d.sameNotes(ctx, "dr", "primary")
}

func (d *demo) bringNotesHome(ctx context.Context) error {
	d.say("A note is written at the recovery site.")
	if err := d.write(ctx, "dr"); err != nil {
		return err
	}
	if err := d.goHome(ctx, notes); err != nil {
		return err
	}
	return d.sameNotes(ctx, "primary", "dr")
}

// move executes a run that needs both sites.
func (d *demo) move(ctx context.Context, plan, verb string, more ...string) error {
	argv := append([]string{"kubectl", "dr", "--context", "dr", verb, plan}, more...)
	_, code, err := d.show(ctx, append(argv, "--yes", "--source-context", "primary")...)
	if err != nil {
		return err
	}
	return d.must(code == 0, "the %s passed (exit status %d)", verb, code)
}

// goHome moves an application back, which runs at the recovery site.
func (d *demo) goHome(ctx context.Context, plan string) error {
	if err := d.move(ctx, plan, "reprotect"); err != nil {
		return err
	}
	return d.move(ctx, plan, "failback")
}
