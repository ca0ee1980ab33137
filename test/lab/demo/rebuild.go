package main

import (
	"context"
	"errors"
	"strings"
)

// gitClaims are the claims as Git has them for the new cluster. Its provisioner was
// quick with the first: the database found it empty, and has initialised itself.
const gitClaims = `
apiVersion: v1
kind: PersistentVolume
metadata: {name: pvc-of-git}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {storage: 1Gi}
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: wordpress, name: wordpress-db}
  csi: {driver: zfs.csi.openebs.io, fsType: zfs, volumeHandle: pvc-of-git, volumeAttributes: {openebs.io/poolname: backup/znvm/k3s}}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{key: openebs.io/nodeid, operator: In, values: [remote]}]
  persistentVolumeReclaimPolicy: Delete
  storageClassName: zfs-storage-znvm-dr
---
apiVersion: zfs.openebs.io/v1
kind: ZFSVolume
metadata: {name: pvc-of-git, namespace: openebs, labels: {kubernetes.io/nodename: remote}}
spec: {capacity: "1073741824", fsType: zfs, ownerNodeID: remote, poolName: backup/znvm/k3s, quotaType: quota, volumeType: DATASET}
status: {state: Ready}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: wordpress-db, namespace: wordpress}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
  storageClassName: zfs-storage-znvm-dr
  volumeName: pvc-of-git
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: wordpress-html, namespace: wordpress}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 2Gi}}
  storageClassName: zfs-storage-nas-dr
`

// freshVolume is what the provisioner of the new cluster has made.
const freshVolume = "backup/znvm/k3s/pvc-of-git"

// ofGit is by what Flux knows what it has applied.
var ofGit = []string{"kustomize.toolkit.fluxcd.io/name=apps", "kustomize.toolkit.fluxcd.io/namespace=flux-system"}

func (d *demo) rebuildChapters() []chapter {
	return []chapter{
		{"Two clusters: one to lose, and one that is fresh", d.bringUp},
		{"An application from Git runs, and has what Git does not", d.installFromGit},
		{"Velero backs it up; Completed means the copy is elsewhere", d.firstBackup},
		{"Data changes; the next backup moves only what changed", d.secondBackup},
		{"The cluster and its disks are gone", d.lose},
		{"A fresh cluster comes up from Git, faster than anybody", d.fresh},
		{"Who owns what?", d.owners},
		{"Rebuild", d.rebuild},
		{"What runs now", d.inspectRebuilt},
		{"Once more", d.again},
	}
}

func (d *demo) installFromGit(ctx context.Context) error {
	if err := d.install(ctx); err != nil {
		return err
	}
	d.say("What Git has carries the labels of Flux. A Secret and an account were made by hand.")
	label := append([]string{"-n", namespace, "label", "deployment,service,configmap,persistentvolumeclaim,ingressroutes.traefik.io", "--all"}, ofGit...)
	for _, args := range [][]string{
		label,
		{"-n", namespace, "create", "secret", "generic", "smtp", "--from-literal=password=by-hand"},
		{"-n", namespace, "create", "serviceaccount", "importer"},
	} {
		if _, err := d.kubectl(ctx, "primary", args...); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) lose(ctx context.Context) error {
	if err := d.disaster(ctx); err != nil {
		return err
	}
	return d.known(ctx)
}

// fresh has "Git" apply what it has: files with the labels by which Flux knows them,
// rewritten for the nodes and classes of the new cluster.
func (d *demo) fresh(ctx context.Context) error {
	if _, err := d.node(ctx, "remote", "zfs", "create", "-p", "-o", "mountpoint=legacy", freshVolume); err != nil {
		return err
	}
	rewritten, err := d.output(ctx, "kubectl", "dr", "rewrite", example("namespace.yaml"), example("config.yaml"), example("db.yaml"), example("web.yaml"),
		example("traffic.yaml"), example("ingressroute.yaml"), "--profiles="+example("profiles.yaml"), "--profile=wordpress-rebuild")
	if err != nil {
		return err
	}
	labelled, err := d.input(ctx, strings.NewReader(gitClaims+"---\n"+rewritten), append([]string{"kubectl", "--context", "dr", "label", "--local", "-o", "json", "-f", "-"}, ofGit...)...)
	if err != nil {
		return err
	}
	// The namespace has to be there before what is in it.
	for _, what := range []string{rewrittenNamespace, labelled} {
		if _, err := d.input(ctx, strings.NewReader(what), "kubectl", "--context", "dr", "apply", "-f", "-"); err != nil {
			return err
		}
	}
	if _, code, err := d.show(ctx, "kubectl", "--context", "dr", "-n", namespace, "wait", "--for=condition=Available", "deployment/wordpress-db", "--timeout=5m"); err != nil || code != 0 {
		return errors.Join(err, d.must(code == 0, "the database runs, on an empty volume"))
	}
	posts, err := d.kubectl(ctx, "dr", "-n", namespace, "exec", "deployment/wordpress-db", "--", "ls", "/data/posts")
	if err != nil {
		return err
	}
	d.claim(strings.Count(posts, "\n") == 1, "the database has initialised itself, and knows of one post")
	_, _, err = d.show(ctx, "kubectl", "--context", "dr", "-n", namespace, "get", "pods,pvc")
	return err
}

const rewrittenNamespace = "{apiVersion: v1, kind: Namespace, metadata: {name: wordpress}}"

func (d *demo) owners(ctx context.Context) error {
	out, code, err := d.show(ctx, "kubectl", "dr", "--context", "dr", "rebuild", "-f", example("plan.yaml"), "--plan")
	if err != nil {
		return err
	}
	d.claim(code == 1, "it would not begin (exit status %d): the database has written", code)
	owner := func(owner, kind, name string) bool {
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if len(f) > 5 && f[0] == owner && f[4] == kind && f[5] == name {
				return true
			}
		}
		return false
	}
	d.claim(owner("both", "Deployment.apps", "wordpress-db"), "Git owns the Deployments")
	d.claim(owner("backup", "Secret", "smtp") && owner("backup", "ServiceAccount", "importer"), "nobody but the backup has the Secret and the account")
	return nil
}

func (d *demo) rebuild(ctx context.Context) error {
	_, code, err := d.show(ctx, "kubectl", "dr", "--context", "dr", "rebuild", "-f", example("plan.yaml"), "--yes", "--replace-claim="+namespace+"/wordpress-db")
	if err != nil {
		return err
	}
	return d.must(code == 0, "the rebuild passed (exit status %d)", code)
}

func (d *demo) inspectRebuilt(ctx context.Context) error {
	if _, err := d.sameFiles(ctx, "dr", "of the last replicated snapshot"); err != nil {
		return err
	}
	password, err := d.kubectl(ctx, "dr", "-n", namespace, "get", "secret", "smtp", "-o", "go-template={{.data.password | base64decode}}")
	d.claim(err == nil && password == "by-hand", "the Secret that was made by hand is back")
	kept, err := d.node(ctx, "remote", "zfs", "list", "-H", "-t", "snapshot", "-o", "name", "-r", freshVolume)
	if err != nil {
		return err
	}
	d.claim(strings.Contains(kept, "@dr-kept-"), "what the database had written is kept: %s", strings.TrimSpace(kept))
	labels, err := d.kubectl(ctx, "dr", "-n", namespace, "get", "pvc", "-o", `jsonpath={.items[*].metadata.labels.kustomize\.toolkit\.fluxcd\.io/name}`)
	if err != nil {
		return err
	}
	d.claim(labels == "apps apps", "Git knows both claims as its own")
	_, _, err = d.show(ctx, "kubectl", "dr", "--context", "dr", "history")
	return err
}

// again runs the same command, and sees that nothing has changed.
func (d *demo) again(ctx context.Context) error {
	before, err := d.leftovers(ctx)
	if err != nil {
		return err
	}
	out, code, err := d.show(ctx, "kubectl", "dr", "--context", "dr", "rebuild", "-f", example("plan.yaml"), "--yes")
	if err != nil {
		return err
	}
	d.claim(code == 0 && strings.Contains(out, "nothing to do"), "there is nothing to do (exit status %d)", code)
	after, err := d.leftovers(ctx)
	d.claim(before == after, "no volume, clone or namespace has changed")
	return err
}
