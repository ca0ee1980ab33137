// Package bundle collects what somebody needs who helps from afar: plans, runs,
// Velero's objects and logs, and what was found out about them. Secrets are not
// collected, and their values are blanked in everything else.
package bundle

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	appsv1api "k8s.io/api/apps/v1"
	corev1api "k8s.io/api/core/v1"
	storagev1api "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

// Bounds of what is collected.
const (
	logLines = 5000
	maxLog   = 8 << 20 // of one log that Velero keeps
)

// Site is a cluster to collect from.
type Site struct {
	Name    string // "recovery" or "source"
	Cluster *cluster.Cluster
}

// Report is something to find out on the way.
type Report struct {
	Name string
	Make func(context.Context) (runtime.Object, error)
}

// Collector collects.
type Collector struct {
	Sites   []Site
	Reports []Report
	// AgentNamespace is where zfs-agent runs in a cluster, if it does.
	AgentNamespace string
	// About is what the bundle begins with.
	About string
	Now   func() time.Time
	// Missed is told what could not be collected.
	Missed func(what string, err error)

	redactor Redactor
	tar      *tar.Writer
	root     string
	files    int
	errs     []string
}

// Summary is what a bundle became.
type Summary struct {
	// Files and Redacted count.
	Files, Redacted int
	// Missing says what could not be collected, and why.
	Missing []string
}

// Write writes a bundle, a gzipped tar with one folder of the given name. What can't
// be collected is left out, and named in it; the error is of writing alone.
func (c *Collector) Write(ctx context.Context, w io.Writer, name string) (Summary, error) {
	zip := gzip.NewWriter(w)
	c.tar, c.root = tar.NewWriter(zip), name
	for _, s := range c.Sites {
		c.secrets(ctx, s)
	}
	err := c.collect(ctx)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = c.add("missing.txt", strings.Join(append(c.errs, ""), "\n"))
	}
	return Summary{Files: c.files, Redacted: c.redactor.Count, Missing: c.errs}, errors.Join(err, c.tar.Close(), zip.Close())
}

// add writes a file. Everything goes through here, and through the redactor.
func (c *Collector) add(name, content string) error {
	content = c.redactor.Text(content)
	h := &tar.Header{Name: path.Join(c.root, name), Mode: 0o600, Size: int64(len(content)), ModTime: c.Now()}
	if err := c.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if _, err := io.WriteString(c.tar, content); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	c.files++
	return nil
}

// miss notes what could not be collected. Errors may quote secrets too.
func (c *Collector) miss(what string, err error) {
	text := c.redactor.Text(strings.ReplaceAll(err.Error(), "\n", "; "))
	c.errs = append(c.errs, what+": "+text)
	c.Missed(what, errors.New(text))
}

// namespaces returns those whose Secrets and pods are looked at.
func (c *Collector) namespaces(s Site) []string {
	return slices.Compact([]string{s.Cluster.Namespace, c.AgentNamespace})
}

// secrets learns what must not be in the bundle, before anything is written.
func (c *Collector) secrets(ctx context.Context, s Site) {
	for _, ns := range c.namespaces(s) {
		list := &corev1api.SecretList{}
		if err := s.Cluster.Client.List(ctx, list, client.InNamespace(ns)); err != nil {
			c.miss(fmt.Sprintf("%s: Secrets in namespace %s, to blank their values; what looks like a secret is blanked all the same", s.Name, ns), err)
			continue
		}
		for i := range list.Items {
			c.redactor.Learn(&list.Items[i])
		}
	}
}

func (c *Collector) collect(ctx context.Context) error {
	about := c.About + "\nSecrets are not in here, and what is known of their values is blanked everywhere:\nlook through it before you send it all the same.\n"
	if err := c.add("README.txt", about); err != nil {
		return err
	}
	for _, r := range c.Reports {
		obj, err := r.Make(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			c.miss("report "+r.Name, err)
			continue
		}
		raw, err := yaml.Marshal(obj)
		if err != nil {
			return fmt.Errorf("write report %s: %w", r.Name, err)
		}
		if err := c.add("reports/"+r.Name+".yaml", string(raw)); err != nil {
			return err
		}
	}
	for _, s := range c.Sites {
		if err := c.site(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// kept are the kinds of objects in Velero's namespace that are collected. Requests
// for downloads are not: they hold signed URLs.
var kept = []schema.GroupVersionKind{
	plan.GroupVersion.WithKind("RecoveryPlan"),
	plan.GroupVersion.WithKind("RecoveryRun"),
	velerov1api.SchemeGroupVersion.WithKind("BackupStorageLocation"),
	velerov1api.SchemeGroupVersion.WithKind("VolumeSnapshotLocation"),
	velerov1api.SchemeGroupVersion.WithKind("Schedule"),
	velerov1api.SchemeGroupVersion.WithKind("Backup"),
	velerov1api.SchemeGroupVersion.WithKind("Restore"),
	appsv1api.SchemeGroupVersion.WithKind("Deployment"),
	appsv1api.SchemeGroupVersion.WithKind("DaemonSet"),
	corev1api.SchemeGroupVersion.WithKind("Pod"),
	corev1api.SchemeGroupVersion.WithKind("Event"),
}

// everywhere are the kinds that are in no namespace.
var everywhere = []schema.GroupVersionKind{
	corev1api.SchemeGroupVersion.WithKind("Node"),
	storagev1api.SchemeGroupVersion.WithKind("StorageClass"),
}

func (c *Collector) site(ctx context.Context, s Site) error {
	profiles, err := labels.Parse(rules.ConfigMapSelector)
	if err != nil {
		return err
	}
	for _, ns := range c.namespaces(s) {
		for _, gvk := range kept {
			if err := c.objects(ctx, s, gvk, client.InNamespace(ns)); err != nil {
				return err
			}
		}
		cm := corev1api.SchemeGroupVersion.WithKind("ConfigMap")
		if err := c.objects(ctx, s, cm, client.InNamespace(ns), client.MatchingLabelsSelector{Selector: profiles}); err != nil {
			return err
		}
		if err := c.logs(ctx, s, ns); err != nil {
			return err
		}
	}
	for _, gvk := range everywhere {
		if err := c.objects(ctx, s, gvk); err != nil {
			return err
		}
	}
	return c.velero(ctx, s)
}

func (c *Collector) objects(ctx context.Context, s Site, gvk schema.GroupVersionKind, opts ...client.ListOption) error {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
	if err := s.Cluster.Client.List(ctx, list, opts...); err != nil {
		if !meta.IsNoMatchError(err) {
			c.miss(fmt.Sprintf("%s: %ss", s.Name, gvk.Kind), err)
		}
		return nil
	}
	for i := range list.Items {
		obj := &list.Items[i]
		c.redactor.Object(obj)
		raw, err := yaml.Marshal(obj.Object)
		if err != nil {
			return fmt.Errorf("write %s %s: %w", gvk.Kind, obj.GetName(), err)
		}
		if err := c.add(path.Join(s.Name, "objects", obj.GetNamespace(), strings.ToLower(gvk.Kind), obj.GetName()+".yaml"), string(raw)); err != nil {
			return err
		}
	}
	return nil
}

// logs collects those of Velero, in which its plugins' are, and of the agents.
func (c *Collector) logs(ctx context.Context, s Site, ns string) error {
	pods := &corev1api.PodList{}
	if err := s.Cluster.Client.List(ctx, pods, client.InNamespace(ns)); err != nil {
		c.miss(fmt.Sprintf("%s: pods in namespace %s", s.Name, ns), err)
		return nil
	}
	for _, pod := range pods.Items {
		for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			file := path.Join(s.Name, "logs", ns, pod.Name, container.Name)
			log, err := s.Cluster.Pods.Logs(ctx, ns, pod.Name, container.Name, cluster.LogOptions{Lines: logLines})
			if err != nil {
				c.miss(file, err)
			} else if err := c.add(file+".log", string(log)); err != nil {
				return err
			}
			if !restarted(&pod, container.Name) {
				continue
			}
			log, err = s.Cluster.Pods.Logs(ctx, ns, pod.Name, container.Name, cluster.LogOptions{Lines: logLines, Previous: true})
			if err != nil {
				c.miss(file+", before it restarted", err)
			} else if err := c.add(file+".previous.log", string(log)); err != nil {
				return err
			}
		}
	}
	return nil
}

func restarted(pod *corev1api.Pod, container string) bool {
	return slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1api.ContainerStatus) bool { return s.Name == container && s.RestartCount > 0 })
}

// velero collects what Velero keeps in object storage about the newest backup of
// each schedule and the newest restore: there the plugins' logs are kept longest.
func (c *Collector) velero(ctx context.Context, s Site) error {
	backups := &velerov1api.BackupList{}
	restores := &velerov1api.RestoreList{}
	in := client.InNamespace(s.Cluster.Namespace)
	if err := errors.Join(s.Cluster.Client.List(ctx, backups, in), s.Cluster.Client.List(ctx, restores, in)); err != nil {
		c.miss(s.Name+": Velero's files", err)
		return nil
	}
	newest := map[string]velerov1api.Backup{}
	for _, b := range backups.Items {
		schedule := b.Labels[velerov1api.ScheduleNameLabel]
		if have, ok := newest[schedule]; !ok || have.CreationTimestamp.Before(&b.CreationTimestamp) || have.CreationTimestamp.Equal(&b.CreationTimestamp) && have.Name < b.Name {
			newest[schedule] = b
		}
	}
	var last *velerov1api.Restore
	for i := range restores.Items {
		if r := &restores.Items[i]; last == nil || last.CreationTimestamp.Before(&r.CreationTimestamp) {
			last = r
		}
	}
	for _, b := range newest {
		for _, kind := range []velerov1api.DownloadTargetKind{velerov1api.DownloadTargetKindBackupLog, velerov1api.DownloadTargetKindBackupResults,
			velerov1api.DownloadTargetKindBackupVolumeInfos, velerov1api.DownloadTargetKindBackupItemOperations} {
			if err := c.file(ctx, s, kind, b.Name); err != nil {
				return err
			}
		}
	}
	if last == nil {
		return nil
	}
	for _, kind := range []velerov1api.DownloadTargetKind{velerov1api.DownloadTargetKindRestoreLog, velerov1api.DownloadTargetKindRestoreResults} {
		if err := c.file(ctx, s, kind, last.Name); err != nil {
			return err
		}
	}
	return nil
}

func (c *Collector) file(ctx context.Context, s Site, kind velerov1api.DownloadTargetKind, name string) error {
	content, err := s.Cluster.Files.File(ctx, kind, name)
	if errors.Is(err, cluster.ErrNoFile) {
		return nil
	}
	file := path.Join(s.Name, "velero", name, string(kind))
	if err != nil {
		c.miss(file, err)
		return nil
	}
	return c.add(file+".txt", string(content[max(0, len(content)-maxLog):]))
}
