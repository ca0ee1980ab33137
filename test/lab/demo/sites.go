package main

import (
	"context"
	"errors"
	"strings"
	"time"
)

// siteChapters measure what docs/sites.md says of a warm and of a hot site.
func (d *demo) siteChapters() []chapter {
	return []chapter{
		{"Two sites come up", d.bringUp},
		{"An application with real files runs at the primary site", d.install},
		{"Velero backs it up; Completed means the copy is off-site", d.firstBackup},
		{"Warm: its objects are at the recovery site, at rest", d.keepStandby},
		{"The primary site is gone", d.disaster},
		{"Failover from a warm standby", d.activate},
		{"The primary site is back, and the application comes home", d.comeBack},
		{"Hot: a backup every minute, a standby, and a drill", d.keepHot},
		{"The primary site is gone again", d.disaster},
		{"Failover from a hot standby", d.activate},
		{"The report", d.report},
	}
}

// keepStandby makes the warm standby from the last backup.
func (d *demo) keepStandby(ctx context.Context) error {
	if err := d.known(ctx); err != nil {
		return err
	}
	_, code, err := d.show(ctx, "kubectl", "dr", "--context", "dr", "sync", "wordpress")
	if err != nil {
		return err
	}
	if err := d.must(code == 0, "the standby has the objects of backup %s (exit status %d)", d.lastBackup().name, code); err != nil {
		return err
	}
	pods, err := d.kubectl(ctx, "dr", "-n", namespace, "get", "pods,persistentvolumeclaims", "-o", "name")
	d.claim(err == nil && pods == "", "nothing of it runs there, and its volumes are left to the failover")
	return err
}

// activate fails over, and claims that the standby was used.
func (d *demo) activate(ctx context.Context) error {
	out, err := d.survive(ctx)
	if err != nil {
		return err
	}
	d.claim(strings.Contains(out, "from a warm standby"), "Velero restored the volumes alone")
	return d.measured(ctx)
}

// comeBack brings the application home from a disaster, with what it wrote meanwhile.
func (d *demo) comeBack(ctx context.Context) error {
	if _, code, err := d.show(ctx, "lab", "start", "--name", d.rig, "primary", "hassio"); err != nil || code != 0 {
		return errors.Join(err, d.must(code == 0, "the primary site is up"))
	}
	if err := d.prepareWayHome(ctx); err != nil {
		return err
	}
	d.say("A post is written at the recovery site.")
	if err := d.post(ctx, "dr", 1); err != nil {
		return err
	}
	var err error
	if d.sums, err = d.filesAt(ctx, "dr"); err != nil {
		return err
	}
	if err := d.goHome(ctx, "wordpress"); err != nil {
		return err
	}
	if _, err := d.sameFiles(ctx, "primary", "it had at the recovery site"); err != nil {
		return err
	}
	if err := d.measured(ctx); err != nil {
		return err
	}
	if d.volumes, err = d.datasets(ctx, "primary"); err != nil {
		return err
	}
	d.say("What the failover left at the recovery site is not needed any more, and makes room for a standby.")
	_, code, err := d.show(ctx, "kubectl", "--context", "dr", "delete", "namespace", namespace)
	return errors.Join(err, d.must(code == 0, "the namespace is gone"))
}

// keepHot has everything done that is routine for a hot site.
func (d *demo) keepHot(ctx context.Context) error {
	asked := time.Now()
	if err := d.every(ctx, "1m"); err != nil {
		return err
	}
	if err := d.nextBackup(ctx, asked); err != nil {
		return err
	}
	if err := d.keepStandby(ctx); err != nil {
		return err
	}
	_, code, err := d.show(ctx, "kubectl", "dr", "--context", "dr", "drill", "wordpress")
	return errors.Join(err, d.must(code == 0, "the drill passed (exit status %d)", code))
}
