package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

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
	dbVolume  = "znvm/k3s/pvc-577cf97a-08a7-483e-b6ab-8367e0c6e6bb"
	webVolume = "nas/k3s/pvc-232f16b3-3d12-40f0-ac9a-09241fffd551"
	replicas  = "backup/replica"
)

// demo carries what one chapter learns to the next.
type demo struct {
	*story
	rig     string
	up      []string // what lab up is told besides
	backups []string // names, in the order they were taken
	sums    string   // checksums of the files in the last snapshot, both volumes

	// Of the blog.
	pictures []picture
	newest   string // the title of its newest post
	posts    string // how many there are, and their checksum
}

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
	for _, volume := range []string{dbVolume, webVolume} {
		if _, err := d.node(ctx, "hassio", "zfs", "create", "-p", "-o", "mountpoint=legacy", volume); err != nil {
			return err
		}
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

func (d *demo) install(ctx context.Context) error {
	if err := d.deploy(ctx, "plan.yaml", []string{"-f", example("db.yaml")}, []string{"-f", example("web.yaml")}); err != nil {
		return err
	}
	d.say("Real files go into both volumes.")
	if err := d.write(ctx, "deployment/wordpress", "/var/www/html/uploads-1.bin", 24); err != nil {
		return err
	}
	if err := d.post(ctx, 8); err != nil {
		return err
	}
	return nil
}

// write puts random data into a file of a running pod.
func (d *demo) write(ctx context.Context, workload, path string, mib int) error {
	_, err := d.kubectl(ctx, "primary", "-n", namespace, "exec", workload, "--", "dd", "if=/dev/urandom", "of="+path, "bs=1M",
		"count="+strconv.Itoa(mib))
	return err
}

// post adds a post to the database: a file named by its checksum.
func (d *demo) post(ctx context.Context, mib int) error {
	_, err := d.kubectl(ctx, "primary", "-n", namespace, "exec", "deployment/wordpress-db", "--", "sh", "-ec", fmt.Sprintf(
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
	d.say("That is one. The others come when the story needs them.")
	if _, code, err := d.show(ctx, "velero", "--kubecontext", "primary", "schedule", "pause", schedule); err != nil || code != 0 {
		return errors.Join(err, d.must(code == 0, "velero pauses the schedule"))
	}
	return d.nextBackup(ctx, after)
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
	d.backups = append(d.backups, name)
	d.claim(true, "backup %s is Completed", name)
	for _, volume := range []string{dbVolume, webVolume} {
		snapshot, err := d.snapshot(ctx, volume, name)
		if err != nil {
			return err
		}
		here, err := d.node(ctx, "hassio", "zfs", "get", "-Hp", "-o", "value", "guid", volume+snapshot)
		if err != nil {
			return err
		}
		there, err := d.node(ctx, "remote", "zfs", "get", "-Hp", "-o", "value", "guid", replicas+"/"+volume+snapshot)
		if err != nil {
			return err
		}
		if err := d.must(here == there, "%s%s is on remote with the same guid %s", volume, snapshot, strings.TrimSpace(there)); err != nil {
			return err
		}
	}
	return nil
}

// snapshot returns the name of a volume's snapshot for a backup, from its '@' on.
func (d *demo) snapshot(ctx context.Context, volume, backup string) (string, error) {
	out, err := d.node(ctx, "hassio", "zfs", "list", "-H", "-t", "snapshot", "-o", "name,io.kubectl-dr:backup", volume)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if name, of, _ := strings.Cut(strings.TrimSpace(line), "\t"); of == backup {
			return strings.TrimPrefix(name, volume), nil
		}
	}
	return "", fmt.Errorf("%s has no snapshot of backup %s: %q", volume, backup, out)
}

func (d *demo) secondBackup(ctx context.Context) error {
	d.say("A 2 MiB upload and a 1 MiB post are added.")
	if err := d.write(ctx, "deployment/wordpress", "/var/www/html/uploads-2.bin", 2); err != nil {
		return err
	}
	if err := d.post(ctx, 1); err != nil {
		return err
	}
	d.say("The backup that the schedule would make can be asked for.")
	after := time.Now()
	if _, code, err := d.show(ctx, "velero", "--kubecontext", "primary", "backup", "create", "--from-schedule", schedule); err != nil || code != 0 {
		return errors.Join(err, d.must(code == 0, "velero starts a backup"))
	}
	if err := d.nextBackup(ctx, after); err != nil {
		return err
	}
	out, err := d.output(ctx, "velero", "--kubecontext", "primary", "backup", "describe", d.backups[len(d.backups)-1], "--details")
	if err != nil {
		return err
	}
	var sent int64
	for _, m := range regexp.MustCompile(`Progress:\s+(\d+) of (\d+) complete \(Bytes\)`).FindAllStringSubmatch(out, -1) {
		n, _ := strconv.ParseInt(m[1], 10, 64)
		sent += n
	}
	var estimate int64
	var last string
	for _, volume := range []string{dbVolume, webVolume} {
		from, err := d.snapshot(ctx, volume, d.backups[len(d.backups)-2])
		if err != nil {
			return err
		}
		to, err := d.snapshot(ctx, volume, d.backups[len(d.backups)-1])
		if err != nil {
			return err
		}
		last = to
		out, err := d.node(ctx, "hassio", "zfs", "send", "-nvP", "-L", "-e", "-c", "-i", from, volume+to)
		if err != nil {
			return err
		}
		m := regexp.MustCompile(`(?m)^size\s+(\d+)`).FindStringSubmatch(out)
		if m == nil {
			return fmt.Errorf("zfs send -nvP says no size: %q", out)
		}
		n, _ := strconv.ParseInt(m[1], 10, 64)
		estimate += n
	}
	ratio := float64(sent) / float64(estimate)
	d.claim(ratio > 0.9 && ratio < 1.1, "velero reports %d bytes moved; zfs send -nvP -i says %d (ratio %.3f)", sent, estimate, ratio)
	d.sums, err = d.checksums(ctx, last)
	return err
}

// checksums of every file in both volumes' snapshots at the primary site.
func (d *demo) checksums(ctx context.Context, snapshot string) (string, error) {
	db, err := d.sumDataset(ctx, "hassio", dbVolume+snapshot)
	if err != nil {
		return "", err
	}
	web, err := d.sumDataset(ctx, "hassio", webVolume+snapshot)
	return db + web, err
}

// sumDataset lists the checksum of every file of a dataset or snapshot, sorted.
// The front page is left out: the web server writes it anew from its
// configuration on each start.
func (d *demo) sumDataset(ctx context.Context, node, dataset string) (string, error) {
	return d.node(ctx, node, "sh", "-ec", `at=$(findmnt -n -o TARGET -S "$1" | head -n 1)
[ -n "$at" ] || { at=/tmp/sum; mkdir -p $at; mount -t zfs -o ro "$1" $at; trap 'cd /; umount /tmp/sum' EXIT; }
cd "$at"; find . -type f ! -name index.html ! -name ready -exec sha256sum {} + | sort`, "sh", dataset)
}

func (d *demo) measure(ctx context.Context) error {
	if err := d.eventually(ctx, 4*time.Minute, "the recovery cluster knows the newest backup", func(ctx context.Context) (bool, string) {
		_, err := d.kubectl(ctx, "dr", "-n", "velero", "get", "backups.velero.io", d.backups[len(d.backups)-1])
		return err == nil, fmt.Sprint(err)
	}); err != nil {
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
	_, err := d.rehearse(ctx)
	return err
}

// rehearse drills while a backup is taken, and returns what the drill said.
func (d *demo) rehearse(ctx context.Context) (string, error) {
	before, err := d.leftovers(ctx)
	if err != nil {
		return "", err
	}
	d.say("One more backup is asked for, which is replicated meanwhile. It is the last one.")
	asked := time.Now()
	if _, code, err := d.show(ctx, "velero", "--kubecontext", "primary", "backup", "create", "--from-schedule", schedule); err != nil || code != 0 {
		return "", errors.Join(err, d.must(code == 0, "velero starts a backup"))
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
	if err := d.write(ctx, "deployment/wordpress", "/var/www/html/lost.bin", 1); err != nil {
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
	_, code, err := d.show(ctx, "kubectl", "dr", "--context", "dr", "failover", "wordpress", "--disaster", "--yes", "--accept-data-loss=15m")
	if err != nil {
		return err
	}
	return d.must(code == 0, "the failover passed with nothing from the primary site (exit status %d)", code)
}

// restoredDataset is the volume of a claim at the recovery site.
func (d *demo) restoredDataset(ctx context.Context, claim string) (string, error) {
	name, err := d.kubectl(ctx, "dr", "-n", namespace, "get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
	if err != nil {
		return "", err
	}
	pool, err := d.kubectl(ctx, "dr", "get", "pv", name, "-o", `jsonpath={.spec.csi.volumeAttributes.openebs\.io/poolname}`)
	return pool + "/" + name, err
}

// restoredFiles claims that what was restored is what was last replicated, and
// lists it.
func (d *demo) restoredFiles(ctx context.Context) (string, error) {
	var sums string
	for _, claim := range []string{"wordpress-db", "wordpress-html"} {
		dataset, err := d.restoredDataset(ctx, claim)
		if err != nil {
			return "", err
		}
		sum, err := d.sumDataset(ctx, "remote", dataset)
		if err != nil {
			return "", err
		}
		sums += sum
	}
	want, got := byPath(d.sums), byPath(sums)
	d.claim(want == got && want != "", "every file has the checksum of the last replicated snapshot (%d files)", strings.Count(got, "\n"))
	if want != got {
		d.say("want:\n%s\ngot:\n%s", want, got)
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

	sums, err := d.restoredFiles(ctx)
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

	if _, _, err := d.show(ctx, "kubectl", "dr", "--context", "dr", "history"); err != nil {
		return err
	}
	return d.report(ctx)
}

// report shows the timeline and checks what was measured.
func (d *demo) report(ctx context.Context) error {
	out, err := d.kubectl(ctx, "dr", "-n", "velero", "get", "recoveryruns.kubectl-dr.io", "--sort-by=.metadata.creationTimestamp", "-o", "json")
	if err != nil {
		return err
	}
	var runs struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ Kind string }
			Status   struct {
				Phase, RPO, RTO string
				RPOMet, RTOMet  *bool
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &runs); err != nil {
		return fmt.Errorf("read recovery runs: %w", err)
	}
	if err := d.must(len(runs.Items) >= 2, "every run is recorded at the recovery site (%d)", len(runs.Items)); err != nil {
		return err
	}
	run := runs.Items[len(runs.Items)-1]
	if _, _, err := d.show(ctx, "kubectl", "dr", "--context", "dr", "report", run.Metadata.Name); err != nil {
		return err
	}
	met := func(b *bool) bool { return b != nil && *b }
	d.claim(run.Status.Phase == "Passed", "run %s is %s", run.Metadata.Name, run.Status.Phase)
	d.claim(met(run.Status.RPOMet), "measured RPO %s meets the objective", run.Status.RPO)
	d.claim(met(run.Status.RTOMet), "measured RTO %s meets the objective", run.Status.RTO)
	return nil
}

// byPath sorts checksum lines, both volumes together.
func byPath(sums string) string {
	lines := strings.Split(strings.TrimSpace(sums), "\n")
	return strings.Join(lines, "\n") + "\n"
}
