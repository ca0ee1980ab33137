package rewrite

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/pager"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/restore/rules"
)

// Read reads files, the files in folders (and below them when recursive),
// Velero's backups (.tar.gz) and, for -, standard input.
func Read(paths []string, recursive bool, stdin io.Reader) (*Input, error) {
	in := &Input{Profiles: map[string][]byte{}}
	for _, path := range paths {
		if path == "-" {
			content, err := io.ReadAll(stdin)
			if err != nil {
				return nil, fmt.Errorf("read standard input: %w", err)
			}
			if err := in.document("standard input", content, false); err != nil {
				return nil, err
			}
			continue
		}
		files, err := filesIn(path, recursive)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if err := in.file(file, file != path); err != nil {
				return nil, err
			}
		}
	}
	return in, nil
}

func filesIn(path string, recursive bool) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var files []string
	err = filepath.WalkDir(path, func(file string, entry os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != path && !recursive:
			return filepath.SkipDir
		case slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(file)):
			files = append(files, file)
		}
		return nil
	})
	return files, err
}

func (in *Input) file(name string, found bool) error {
	if strings.HasSuffix(name, ".tar.gz") || strings.HasSuffix(name, ".tgz") {
		return in.backup(name)
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return in.document(name, content, found)
}

// document sorts the documents of one file. Of one that was found in a folder, those
// that are no Kubernetes objects are left out.
func (in *Input) document(file string, content []byte, found bool) error {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		raw, err := yaml.YAMLToJSON(doc)
		if err != nil {
			if bytes.Contains(doc, []byte(rules.Kind)) {
				in.Profiles[file] = content // loading says at which line it is wrong
				continue
			}
			return fmt.Errorf("read %s: %w", file, err)
		}
		if string(raw) == "null" {
			continue
		}
		if err := in.object(file, raw, content); err != nil && !(found && errors.Is(err, errNoObject)) {
			return fmt.Errorf("read %s: %w", file, err)
		}
	}
}

var errNoObject = errors.New("it holds something that is no Kubernetes object: it has no kind")

func (in *Input) object(file string, raw, content []byte) error {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(raw, &kind); err != nil || kind.Kind == "" {
		return errNoObject
	}
	switch {
	case kind.Kind == rules.Kind:
		in.Profiles[file] = content
		return nil
	case kind.Kind == "RecoveryPlan":
		var p plan.RecoveryPlan
		if err := yaml.Unmarshal(raw, &p); err != nil {
			return err
		}
		in.Plans = append(in.Plans, p)
		return nil
	}
	decoded, _, err := unstructured.UnstructuredJSONScheme.Decode(raw, nil, nil)
	if err != nil {
		return err
	}
	switch obj := decoded.(type) {
	case *unstructured.UnstructuredList:
		for i := range obj.Items {
			in.Objects = append(in.Objects, &obj.Items[i])
		}
	case *unstructured.Unstructured:
		if _, ok := obj.GetLabels()[rewriteLabel]; ok && kind.Kind == "ConfigMap" {
			in.Profiles[file] = content
			return nil
		}
		in.Objects = append(in.Objects, obj)
	}
	return nil
}

// rewriteLabel marks a ConfigMap of profiles.
const rewriteLabel = "kubectl-dr.io/rewrite"

func (in *Input) backup(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return in.Backup(name, unzipped)
}

// Download reads the objects of a backup that Velero has.
func (in *Input) Download(ctx context.Context, files cluster.Files, backup string) error {
	content, err := files.File(ctx, velerov1api.DownloadTargetKindBackupContents, backup)
	if err != nil {
		return err
	}
	return in.Backup("backup "+backup, bytes.NewReader(content))
}

// Backup reads the objects of a backup's archive, unpacked, which holds each at
// resources/<resource>/cluster/<name>.json or below namespaces/<namespace>/, and
// again in folders for each version. name is for messages.
func (in *Input) Backup(name string, unzipped io.Reader) error {
	archive := tar.NewReader(unzipped)
	for {
		entry, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		parts := strings.Split(strings.TrimPrefix(entry.Name, "./"), "/")
		if len(parts) < 4 || parts[0] != "resources" || parts[2] != "cluster" && parts[2] != "namespaces" || entry.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		obj := &unstructured.Unstructured{}
		if err := obj.UnmarshalJSON(content); err != nil {
			return fmt.Errorf("read %s of %s: %w", entry.Name, name, err)
		}
		in.Objects = append(in.Objects, obj)
	}
}

// notBackedUp are resources that come and go by themselves.
var notBackedUp = map[schema.GroupResource]bool{
	{Group: "", Resource: "events"}:                                        true,
	{Group: "events.k8s.io", Resource: "events"}:                           true,
	{Group: "", Resource: "endpoints"}:                                     true,
	{Group: "discovery.k8s.io", Resource: "endpointslices"}:                true,
	{Group: "metrics.k8s.io", Resource: "pods"}:                            true,
	{Group: "coordination.k8s.io", Resource: "leases"}:                     true,
	{Group: "apps", Resource: "controllerrevisions"}:                       true,
	{Group: "velero.io", Resource: "backups"}:                              true,
	{Group: "velero.io", Resource: "restores"}:                             true,
	{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"}: true,
}

// pageSize is how many objects are asked for at a time.
const pageSize = 500

// Cluster reads the objects in a namespace of a cluster; in all namespaces, and
// those without one, for "".
func (in *Input) Cluster(ctx context.Context, resources discovery.ServerResourcesInterface, objects dynamic.Interface, namespace string) error {
	lists, err := resources.ServerPreferredResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return fmt.Errorf("list the cluster's resources: %w", err)
	}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return fmt.Errorf("list the cluster's resources: %w", err)
		}
		for _, r := range list.APIResources {
			gvr := gv.WithResource(r.Name)
			if !r.Namespaced && namespace != "" || !slices.Contains(r.Verbs, "list") || notBackedUp[gvr.GroupResource()] {
				continue
			}
			pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
				return objects.Resource(gvr).Namespace(namespace).List(ctx, options)
			})
			pages.PageSize = pageSize
			err := pages.EachListItem(ctx, metav1.ListOptions{}, func(obj runtime.Object) error {
				if u, ok := obj.(*unstructured.Unstructured); ok {
					in.Objects = append(in.Objects, u)
				}
				return nil
			})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsMethodNotSupported(err) {
				return fmt.Errorf("list %s: %w", gvr.GroupResource(), err)
			}
		}
	}
	return nil
}
