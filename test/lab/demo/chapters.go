package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	namespace = "wordpress"
	schedule  = "wordpress"
	replicas  = "backup/replica"
)

// claims of the application.
var claims = []string{"wordpress-db", "wordpress-html"}

// nodes of the sites.
var nodes = map[string]string{"primary": "hassio", "dr": "remote"}

// demo carries what one chapter learns to the next.
type demo struct {
	*story
	rig     string
	up      []string // what lab up is told besides
	volumes []string // datasets of the claims at the primary site
	backups []backup // in the order they were taken
	sums    string   // checksums of the files that are to be there
	notes   string   // those of the notes

	// Of the blog.
	pictures []picture
	newest   string // the title of its newest post
	posts    string // how many there are, and their checksum
}

// backup is one of the schedule, with its snapshots of the volumes, from their '@' on.
type backup struct {
	name      string
	snapshots []string
}

func (d *demo) lastBackup() backup { return d.backups[len(d.backups)-1] }

func (d *demo) kubectl(ctx context.Context, site string, args ...string) (string, error) {
	return d.output(ctx, append([]string{"kubectl", "--context", site}, args...)...)
}

func (d *demo) node(ctx context.Context, node string, argv ...string) (string, error) {
	return d.output(ctx, append([]string{"lab", "exec", "--name", d.rig, node, "--"}, argv...)...)
}

func (d *demo) bringUp(ctx context.Context) error {
	if err := d.useRig(ctx, d.rig, d.up...); err != nil {
		return err
	}
	_, _, err := d.show(ctx, "kubectl", "--context", "primary", "get", "nodes", "-o", "wide")
	if err != nil {
		return err
	}
	_, _, err = d.show(ctx, "kubectl", "--context", "dr", "get", "nodes")
	return err
}

// example is a file of examples/wordpress.
func example(name string) string { return filepath.Join("examples", "wordpress", name) }

// deploy makes the schedule, tells the recovery cluster of the plan, a file of
// examples/wordpress, and starts the application, whose workloads are what kubectl
// apply is told to.
func (d *demo) deploy(ctx context.Context, plan string, workloads ...[]string) error {
	d.say("The schedule is made with the application, and paused until its data is in.")
	if _, code, err := d.show(ctx, "velero", "--kubecontext", "primary", "schedule", "create", schedule, "--paused",
		"--schedule", "@every 5s", "--include-namespaces", namespace, "--volume-snapshot-locations", "zfs"); err != nil || code != 0 {
		return errors.Join(err, d.must(code == 0, "velero accepts the schedule"))
	}
	d.say("The recovery cluster gets the plan, and the profiles that rewrite what is restored.")
	for _, file := range []string{"profiles.yaml", plan} {
		if _, code, err := d.show(ctx, "kubectl", "--context", "dr", "apply", "-f", example(file)); err != nil || code != 0 {
			return errors.Join(err, d.must(code == 0, "%s is accepted by the recovery cluster", file))
		}
	}
	d.volumes = []string{"znvm/k3s/pvc-577cf97a-08a7-483e-b6ab-8367e0c6e6bb", "nas/k3s/pvc-232f16b3-3d12-40f0-ac9a-09241fffd551"}
	if _, err := d.node(ctx, "hassio", append([]string{"sh", "-ec", `for of; do zfs create -p -o mountpoint=legacy "$of"; done`, "sh"}, d.volumes...)...); err != nil {
		return err
	}
	var objects [][]string
	for _, file := range []string{
		"namespace.yaml", "config.yaml", "volumes.yaml", "zfsvolumes.yaml", "claims.yaml", "traffic.yaml", "ingressroute.yaml",
	} {
		objects = append(objects, []string{"-f", example(file)})
	}
	for _, what := range slices.Concat(objects, workloads) {
		if _, err := d.kubectl(ctx, "primary", append([]string{"apply"}, what...)...); err != nil {
			return err
		}
	}
	if _, code, err := d.show(ctx, "kubectl", "--context", "primary", "-n", namespace, "wait", "--for=condition=Available",
		"deployment", "--all", "--timeout=5m"); err != nil || code != 0 {
		return errors.Join(err, d.must(code == 0, "the application runs at the primary site"))
	}
	return nil
}

// installBoth installs an application, and a small one beside it.
func (d *demo) installBoth(ctx context.Context) error {
	if err := d.install(ctx); err != nil {
		return err
	}
	return d.installNotes(ctx)
}

func (d *demo) install(ctx context.Context) error {
	if err := d.deploy(ctx, "plan.yaml", []string{"-f", example("db.yaml")}, []string{"-f", example("web.yaml")}); err != nil {
		return err
	}
	d.say("Real files go into both volumes.")
	return errors.Join(d.upload(ctx, "uploads-1.bin", 6), d.post(ctx, "primary", 2))
}

// upload puts random data into a file of the web server.
func (d *demo) upload(ctx context.Context, name string, mib int) error {
	_, err := d.kubectl(ctx, "primary", "-n", namespace, "exec", "deployment/wordpress", "--", "dd", "if=/dev/urandom", "of=/var/www/html/"+name, "bs=1M",
		"count="+strconv.Itoa(mib))
	return err
}

// post adds a post to the database: a file named by its checksum.
func (d *demo) post(ctx context.Context, site string, mib int) error {
	_, err := d.kubectl(ctx, site, "-n", namespace, "exec", "deployment/wordpress-db", "--", "sh", "-ec", fmt.Sprintf(
		"cd /data/posts; dd if=/dev/urandom of=.new bs=1M count=%d 2>/dev/null; mv .new $(sha256sum .new | cut -d' ' -f1); sync", mib))
	return err
}

func (d *demo) firstBackup(ctx context.Context) error {
	after := time.Now()
	if _, code, err := d.show(ctx, "velero", "--kubecontext", "primary", "schedule", "unpause", schedule); err != nil || code != 0 {
		return errors.Join(err, d.must(code == 0, "velero starts the schedule"))
	}
	if err := d.eventually(ctx, 2*time.Minute, "the schedule begins a backup", func(ctx context.Context) (bool, string) {
		out, err := d.kubectl(ctx, "primary", "-n", "velero", "get", "backups.velero.io", "-l", "velero.io/schedule-name="+schedule, "-o", "name")
		return out != "", fmt.Sprint(err)
	}); err != nil {
		return err
	}
	d.say("That is one. From now on it is daily, and the story asks for a backup when it needs one.")
	if err := d.every(ctx, "24h"); err != nil {
		return err
	}
	return d.nextBackup(ctx, after)
}

// every has the schedule take backups so often from now on.
func (d *demo) every(ctx context.Context, period string) error {
	_, code, err := d.show(ctx, "kubectl", "--context", "primary", "-n", "velero", "patch", "schedule.velero.io", schedule,
		"--type=merge", `--patch={"spec":{"schedule":"@every `+period+`"}}`)
	if err != nil || code != 0 {
		err = errors.Join(err, d.must(code == 0, "the schedule is changed"))
	}
	return err
}

// nextBackup waits for a Completed backup that started after a time.
func (d *demo) nextBackup(ctx context.Context, after time.Time) error {
	var name string
	err := d.eventually(ctx, 8*time.Minute, "a scheduled backup is Completed", func(ctx context.Context) (bool, string) {
		out, err := d.kubectl(ctx, "primary", "-n", "velero", "get", "backups.velero.io", "-l", "velero.io/schedule-name="+schedule,
			"--sort-by=.metadata.creationTimestamp",
			"-o", `jsonpath={range .items[*]}{.metadata.name} {.metadata.creationTimestamp} {.status.phase}{"\n"}{end}`)
		if err != nil {
			return false, err.Error()
		}
		seen := "no backup yet"
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if len(f) < 3 {
				continue
			}
			if created, err := time.Parse(time.RFC3339, f[1]); err != nil || created.Before(after.Truncate(time.Second)) {
				continue
			}
			seen = f[0] + " " + f[2]
			if f[2] == "Completed" {
				name = f[0]
				return true, seen
			}
		}
		return false, seen
	})
	if err != nil {
		return err
	}
	d.claim(true, "backup %s is Completed", name)
	return d.copied(ctx, name)
}

// copied claims that the other site has each snapshot of a backup.
func (d *demo) copied(ctx context.Context, name string) error {
	taken := backup{name: name}
	here, err := d.guids(ctx, "hassio", d.volumes)
	if err != nil {
		return err
	}
	var copies []string
	for _, volume := range d.volumes {
		copies = append(copies, replicas+"/"+volume)
	}
	there, err := d.guids(ctx, "remote", copies)
	if err != nil {
		return err
	}
	for _, volume := range d.volumes {
		i := slices.IndexFunc(here, func(s [2]string) bool { return strings.HasPrefix(s[0], volume+"@dr-"+name+"-") })
		if i < 0 {
			return fmt.Errorf("%s has no snapshot of backup %s", volume, name)
		}
		snapshot, guid := here[i][0], here[i][1]
		if err := d.must(slices.Contains(there, [2]string{replicas + "/" + snapshot, guid}), "%s is on remote with the same guid %s", snapshot, guid); err != nil {
			return err
		}
		taken.snapshots = append(taken.snapshots, strings.TrimPrefix(snapshot, volume))
	}
	d.backups = append(d.backups, taken)
	return nil
}

// guids lists the snapshots of datasets, each with its guid.
func (d *demo) guids(ctx context.Context, node string, datasets []string) ([][2]string, error) {
	out, err := d.node(ctx, node, append([]string{"zfs", "list", "-Hp", "-t", "snapshot", "-o", "name,guid"}, datasets...)...)
	var snapshots [][2]string
	for line := range strings.Lines(out) {
		name, guid, _ := strings.Cut(strings.TrimSpace(line), "\t")
		snapshots = append(snapshots, [2]string{name, guid})
	}
	return snapshots, err
}

func (d *demo) secondBackup(ctx context.Context) error {
	if err := d.change(ctx); err != nil {
		return err
	}
	d.say("The backup that the schedule would make can be asked for.")
	if err := d.backUp(ctx); err != nil {
		return err
	}
	if err := d.increment(ctx); err != nil {
		return err
	}
	return d.sumBackup(ctx)
}

// backUp asks for a backup of the schedule, and waits for it.
func (d *demo) backUp(ctx context.Context) error {
	asked, err := d.askForBackup(ctx)
	if err != nil {
		return err
	}
	return d.nextBackup(ctx, asked)
}

// askForBackup returns when it asked.
func (d *demo) askForBackup(ctx context.Context) (time.Time, error) {
	asked := time.Now()
	_, code, err := d.show(ctx, "velero", "--kubecontext", "primary", "backup", "create", "--from-schedule", schedule)
	if err != nil || code != 0 {
		err = errors.Join(err, d.must(code == 0, "velero starts a backup"))
	}
	return asked, err
}

func (d *demo) change(ctx context.Context) error {
	d.say("A 2 MiB upload and a 1 MiB post are added.")
	return errors.Join(d.upload(ctx, "uploads-2.bin", 2), d.post(ctx, "primary", 1))
}

// increment claims that the last backup moved what had changed since the one before,
// and no more.
func (d *demo) increment(ctx context.Context) error {
	from, to := d.backups[len(d.backups)-2], d.lastBackup()
	out, err := d.output(ctx, "velero", "--kubecontext", "primary", "backup", "describe", to.name, "--details")
	if err != nil {
		return err
	}
	sent := sum(out, regexp.MustCompile(`Progress:\s+(\d+) of \d+ complete \(Bytes\)`))
	argv := []string{"sh", "-ec", `while [ $# -gt 0 ]; do zfs send -nvP -L -e -c -i "$1" "$2"; shift 2; done`, "sh"}
	for i, volume := range d.volumes {
		argv = append(argv, from.snapshots[i], volume+to.snapshots[i])
	}
	if out, err = d.node(ctx, "hassio", argv...); err != nil {
		return err
	}
	estimate := sum(out, regexp.MustCompile(`(?m)^size\s+(\d+)`))
	ratio := float64(sent) / float64(estimate)
	d.claim(ratio > 0.9 && ratio < 1.1, "velero reports %d bytes moved; zfs send -nvP -i says %d (ratio %.3f)", sent, estimate, ratio)
	return nil
}

// sum adds up what a pattern's group matches.
func sum(out string, pattern *regexp.Regexp) (total int64) {
	for _, m := range pattern.FindAllStringSubmatch(out, -1) {
		n, _ := strconv.ParseInt(m[1], 10, 64)
		total += n
	}
	return total
}

// sumBackup notes the files in the last backup's snapshots.
func (d *demo) sumBackup(ctx context.Context) error {
	var snapshots []string
	for i, volume := range d.volumes {
		snapshots = append(snapshots, volume+d.lastBackup().snapshots[i])
	}
	var err error
	d.sums, err = d.checksums(ctx, "hassio", snapshots)
	return err
}

// checksums lists every file of datasets or snapshots, sorted. The front page is left
// out: the web server writes it anew from its configuration on each start.
func (d *demo) checksums(ctx context.Context, node string, datasets []string) (string, error) {
	return d.node(ctx, node, append([]string{"sh", "-ec", `for of; do
at=$(findmnt -n -o TARGET -S "$of" | head -n 1)
[ -n "$at" ] || { at=$(mktemp -d); mount -t zfs -o ro "$of" "$at"; mounted="$mounted $at"; }
cd "$at"; find . -type f ! -name index.html ! -name ready -exec sha256sum {} + | sort
done
cd /; [ -z "$mounted" ] || umount $mounted`, "sh"}, datasets...)...)
}

// datasets are those of the claims at a site.
func (d *demo) datasets(ctx context.Context, site string) ([]string, error) {
	var datasets []string
	for _, claim := range claims {
		name, err := d.kubectl(ctx, site, "-n", namespace, "get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
		if err != nil {
			return nil, err
		}
		pool, err := d.kubectl(ctx, site, "get", "pv", name, "-o", `jsonpath={.spec.csi.volumeAttributes.openebs\.io/poolname}`)
		if err != nil {
			return nil, err
		}
		datasets = append(datasets, pool+"/"+name)
	}
	return datasets, nil
}

// known waits until the recovery cluster knows the last backup.
func (d *demo) known(ctx context.Context) error {
	return d.eventually(ctx, 4*time.Minute, "the recovery cluster knows the newest backup", func(ctx context.Context) (bool, string) {
		_, err := d.kubectl(ctx, "dr", "-n", "velero", "get", "backups.velero.io", d.lastBackup().name)
		return err == nil, fmt.Sprint(err)
	})
}

func (d *demo) measure(ctx context.Context) error {
	if err := d.known(ctx); err != nil {
		return err
	}
	_, code, err := d.show(ctx, "kubectl", "dr", "--context", "dr", "rpo", "wordpress")
	if err != nil {
		return err
	}
	d.claim(code == 0, "kubectl dr rpo finds the objective met (exit status %d)", code)
	_, code, err = d.show(ctx, "kubectl", "dr", "--context", "dr", "check", "wordpress")
	d.claim(code == 0, "kubectl dr check finds no problem (exit status %d)", code)
	return err
}

func (d *demo) drill(ctx context.Context) error {
	if err := d.change(ctx); err != nil {
		return err
	}
	if _, err := d.rehearse(ctx); err != nil {
		return err
	}
	if err := d.increment(ctx); err != nil {
		return err
	}
	return d.sumBackup(ctx)
}

// rehearse drills while a backup is taken, and returns what the drill said.
func (d *demo) rehearse(ctx context.Context) (string, error) {
	before, err := d.leftovers(ctx)
	if err != nil {
		return "", err
	}
	d.say("The backup that the schedule would make is asked for, and replicated meanwhile.")
	asked, err := d.askForBackup(ctx)
	if err != nil {
		return "", err
	}
	out, code, err := d.show(ctx, "kubectl", "dr", "--context", "dr", "drill", "wordpress")
	if err != nil {
		return "", err
	}
	if err := d.must(code == 0, "the drill passed (exit status %d)", code); err != nil {
		return "", err
	}
	after, err := d.leftovers(ctx)
	if err != nil {
		return "", err
	}
	d.claim(before == after, "no namespace, volume, clone or hold of the drill is left")
	if before != after {
		d.say("before:\n%s\nafter:\n%s", before, after)
	}
	return out, d.nextBackup(ctx, asked)
}

// leftovers lists what a drill could leave at the recovery site.
func (d *demo) leftovers(ctx context.Context) (string, error) {
	objects, err := d.kubectl(ctx, "dr", "get", "namespaces,persistentvolumes", "-o", "name")
	if err != nil {
		return "", err
	}
	clones, err := d.node(ctx, "remote", "zfs", "get", "-H", "-r", "-s", "local", "-t", "filesystem,volume", "-o", "name,value", "io.kubectl-dr:restore", "backup")
	return objects + clones, err
}

func (d *demo) disaster(ctx context.Context) error {
	d.say("A last upload is made that no backup has: it is what a disaster costs.")
	if err := d.eventually(ctx, 5*time.Minute, "no backup is under way", func(ctx context.Context) (bool, string) {
		phases, err := d.kubectl(ctx, "primary", "-n", "velero", "get", "backups.velero.io", "-o", "jsonpath={.items[*].status.phase}")
		for _, phase := range strings.Fields(phases) {
			if phase != "Completed" {
				return false, phase
			}
		}
		return err == nil, phases
	}); err != nil {
		return err
	}
	if err := d.upload(ctx, "lost.bin", 1); err != nil {
		return err
	}
	d.say("Then the control plane, Velero and the ZFS host of the primary site lose power.")
	if _, code, err := d.show(ctx, "lab", "stop", "--name", d.rig, "primary", "hassio"); err != nil || code != 0 {
		return errors.Join(err, d.must(code == 0, "the primary site is cut off"))
	}
	_, err := d.kubectl(ctx, "primary", "get", "--raw", "/readyz", "--request-timeout=5s")
	return d.must(err != nil, "the primary's API does not answer")
}

func (d *demo) failover(ctx context.Context) error {
	_, err := d.survive(ctx)
	return err
}

// survive fails over without the primary site, and returns what that said.
func (d *demo) survive(ctx context.Context) (string, error) {
	out, code, err := d.show(ctx, "kubectl", "dr", "--context", "dr", "failover", "wordpress", "--disaster", "--yes", "--accept-data-loss=15m")
	if err != nil {
		return "", err
	}
	return out, d.must(code == 0, "the failover passed with nothing from the primary site (exit status %d)", code)
}

// filesAt lists the checksums of the files that a site has.
func (d *demo) filesAt(ctx context.Context, site string) (string, error) {
	datasets, err := d.datasets(ctx, site)
	if err != nil {
		return "", err
	}
	return d.checksums(ctx, nodes[site], datasets)
}

// sameFiles claims that every file at a site has the checksum that was noted, and
// lists them.
func (d *demo) sameFiles(ctx context.Context, site, noted string) (string, error) {
	sums, err := d.filesAt(ctx, site)
	if err != nil {
		return "", err
	}
	d.claim(d.sums == sums && sums != "", "every file has the checksum %s (%d files)", noted, strings.Count(sums, "\n"))
	if d.sums != sums {
		d.say("want:\n%s\ngot:\n%s", d.sums, sums)
	}
	return sums, nil
}

func (d *demo) inspect(ctx context.Context) error {
	if _, _, err := d.show(ctx, "kubectl", "--context", "dr", "-n", namespace, "get", "pods,pvc", "-o", "wide"); err != nil {
		return err
	}
	ready, err := d.kubectl(ctx, "dr", "-n", namespace, "get", "deployments", "-o", `jsonpath={range .items[*]}{.metadata.name}={.status.readyReplicas} {end}`)
	if err != nil {
		return err
	}
	d.claim(strings.Contains(ready, "wordpress=1") && strings.Contains(ready, "wordpress-db=1"), "both deployments are ready: %s", ready)

	sums, err := d.sameFiles(ctx, "dr", "of the last replicated snapshot")
	if err != nil {
		return err
	}
	d.claim(!strings.Contains(sums, "lost.bin"), "the upload made after the last backup is not there: the loss that was announced")

	route, err := d.kubectl(ctx, "dr", "-n", namespace, "get", "ingressroutes.traefik.io", "-o", "jsonpath={.items[*].spec.routes[*].match}")
	if err != nil {
		return err
	}
	d.claim(strings.Contains(route, "vegard.blog.example.org") && strings.Contains(route, "vegard-dr.blog.example.org"), "the route serves %s", route)
	classes, err := d.kubectl(ctx, "dr", "-n", namespace, "get", "pvc", "-o", "jsonpath={.items[*].spec.storageClassName}")
	if err != nil {
		return err
	}
	d.claim(strings.Contains(classes, "zfs-storage-znvm-dr") && strings.Contains(classes, "zfs-storage-nas-dr"), "claims have the classes %s", classes)
	tolerations, err := d.kubectl(ctx, "dr", "-n", namespace, "get", "deployment", "wordpress", "-o", "jsonpath={.spec.template.spec.tolerations}")
	if err != nil {
		return err
	}
	d.claim(strings.Contains(tolerations, `"dedicated"`), "pods tolerate %s", tolerations)

	return d.measured(ctx)
}

// recoveryRun is a RecoveryRun as far as the story looks at it.
type recoveryRun struct {
	Metadata struct{ Name string }
	Status   struct {
		Phase, RPO, RTO string
		RPOMet, RTOMet  *bool
	}
}

func (d *demo) runs(ctx context.Context) ([]recoveryRun, error) {
	out, err := d.kubectl(ctx, "dr", "-n", "velero", "get", "recoveryruns.kubectl-dr.io", "--sort-by=.metadata.creationTimestamp", "-o", "json")
	if err != nil {
		return nil, err
	}
	var runs struct{ Items []recoveryRun }
	if err := json.Unmarshal([]byte(out), &runs); err != nil {
		return nil, fmt.Errorf("read recovery runs: %w", err)
	}
	return runs.Items, nil
}

// measured checks what the newest run has measured.
func (d *demo) measured(ctx context.Context) error {
	runs, err := d.runs(ctx)
	if err != nil {
		return err
	}
	if err := d.must(len(runs) > 0, "the run is recorded at the recovery site"); err != nil {
		return err
	}
	run, met := runs[len(runs)-1], func(b *bool) bool { return b != nil && *b }
	d.claim(run.Status.Phase == "Passed", "run %s is %s", run.Metadata.Name, run.Status.Phase)
	d.claim(met(run.Status.RPOMet), "measured RPO %s meets the objective", run.Status.RPO)
	d.claim(met(run.Status.RTOMet), "measured RTO %s meets the objective", run.Status.RTO)
	return nil
}

// report shows all runs, and writes each as a page.
func (d *demo) report(ctx context.Context) error {
	if _, _, err := d.show(ctx, "kubectl", "dr", "--context", "dr", "history"); err != nil {
		return err
	}
	runs, err := d.runs(ctx)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir := filepath.Join(filepath.Dir(self), "report")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	passed, pages := 0, 0
	for _, run := range runs {
		file := filepath.Join(dir, run.Metadata.Name+".html")
		if _, _, err := d.show(ctx, "kubectl", "dr", "--context", "dr", "report", run.Metadata.Name, "--file="+file); err != nil {
			return err
		}
		page, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if strings.Contains(string(page), run.Metadata.Name) && strings.Contains(string(page), "</html>") {
			pages++
		}
		if run.Status.Phase == "Passed" {
			passed++
		}
	}
	d.claim(passed == len(runs), "every run is recorded at the recovery site, and passed (%d)", passed)
	d.claim(pages == len(runs), "%d runs are pages in %s", pages, dir)
	return nil
}
