package rebuild

import (
	"context"
	"errors"
	"fmt"
	"strings"

	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	corev1api "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// Locations are where the backups of a cluster that is gone lie, and how volumes
// are made of them. Credentials are Secrets, by name: what is in them is not read.
type Locations struct {
	// Bucket is "<bucket>" or "<bucket>/<prefix>", and Provider Velero's for it.
	Bucket, Provider string
	BucketConfig     map[string]string
	BucketSecret     string // "<secret>/<key>"
	// Snapshot is the name of the VolumeSnapshotLocation, which is the one that it
	// had: backups name it.
	Snapshot       string
	SnapshotConfig map[string]string
	SnapshotSecret string
}

// storageName is what the location of backups is called; Velero knows it again by
// its bucket.
const storageName = "default"

// Missing returns the objects that a cluster lacks to read backups, and to make
// volumes of them: a location of backups when there is none, and one of snapshots.
// Its error says what has to be told about them. A cluster that has the first may have
// no need of the second: that shows when the backup has volumes on ZFS.
func (l Locations) Missing(ctx context.Context, c *cluster.Cluster) ([]client.Object, error) {
	var missing []client.Object
	var errs []error
	storage := &velerov1api.BackupStorageLocationList{}
	if err := c.Client.List(ctx, storage, client.InNamespace(c.Namespace)); err != nil {
		return nil, fmt.Errorf("list BackupStorageLocations in namespace %s: %w", c.Namespace, err)
	}
	if len(storage.Items) == 0 {
		obj, err := l.storage(c.Namespace)
		missing, errs = append(missing, obj), append(errs, err)
	}
	_, err := c.SnapshotLocations(ctx)
	switch {
	case errors.Is(err, cluster.ErrNoLocation) && len(missing) == 0 && len(l.SnapshotConfig) == 0:
	case errors.Is(err, cluster.ErrNoLocation):
		obj, err := l.snapshot(c.Namespace)
		missing, errs = append(missing, obj), append(errs, err)
	case err != nil:
		return nil, err
	}
	return missing, errors.Join(errs...)
}

func (l Locations) storage(namespace string) (client.Object, error) {
	if l.Bucket == "" {
		return nil, hint.Add(fmt.Errorf("namespace %s has no BackupStorageLocation", namespace),
			"say where the backups are: --bucket=NAME[/PREFIX] --bucket-config=region=…,s3Url=… --bucket-secret=NAME/KEY")
	}
	bucket, prefix, _ := strings.Cut(l.Bucket, "/")
	credential, err := selector(l.BucketSecret)
	if err != nil {
		return nil, fmt.Errorf("--bucket-secret: %w", err)
	}
	return &velerov1api.BackupStorageLocation{
		TypeMeta:   metav1.TypeMeta{APIVersion: velerov1api.SchemeGroupVersion.String(), Kind: "BackupStorageLocation"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: storageName},
		Spec: velerov1api.BackupStorageLocationSpec{
			Provider: l.Provider, Config: l.BucketConfig, Credential: credential, Default: true,
			StorageType: velerov1api.StorageType{ObjectStorage: &velerov1api.ObjectStorageLocation{Bucket: bucket, Prefix: prefix}},
			// The old cluster may still write, and nothing is to expire here.
			AccessMode: velerov1api.BackupStorageLocationAccessModeReadOnly,
		},
	}, nil
}

func (l Locations) snapshot(namespace string) (client.Object, error) {
	if len(l.SnapshotConfig) == 0 {
		return nil, hint.Add(fmt.Errorf("namespace %s has no VolumeSnapshotLocation of provider %s", namespace, zfssnap.Provider),
			"say how the ZFS hosts are reached: --snapshot-config=agents=NODE=HOST:PORT --snapshot-secret=NAME/KEY, and what else examples/velero/volumesnapshotlocation.yaml has")
	}
	if _, err := zfssnap.ParseLocation(l.SnapshotConfig); err != nil {
		return nil, fmt.Errorf("--snapshot-config: %w", err)
	}
	credential, err := selector(l.SnapshotSecret)
	if err != nil {
		return nil, fmt.Errorf("--snapshot-secret: %w", err)
	}
	return &velerov1api.VolumeSnapshotLocation{
		TypeMeta:   metav1.TypeMeta{APIVersion: velerov1api.SchemeGroupVersion.String(), Kind: "VolumeSnapshotLocation"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: l.Snapshot},
		Spec:       velerov1api.VolumeSnapshotLocationSpec{Provider: zfssnap.Provider, Config: l.SnapshotConfig, Credential: credential},
	}, nil
}

// selector reads "<secret>/<key>"; nil for "".
func selector(s string) (*corev1api.SecretKeySelector, error) {
	if s == "" {
		return nil, nil
	}
	name, key, ok := strings.Cut(s, "/")
	if !ok || name == "" || key == "" {
		return nil, fmt.Errorf("%q is not of the form <secret>/<key>", s)
	}
	return &corev1api.SecretKeySelector{LocalObjectReference: corev1api.LocalObjectReference{Name: name}, Key: key}, nil
}

// MakeLocations creates what is missing. The Secrets that it names have to be there.
func MakeLocations(ctx context.Context, c client.Client, missing []client.Object) error {
	for _, obj := range missing {
		var credential *corev1api.SecretKeySelector
		switch o := obj.(type) {
		case *velerov1api.BackupStorageLocation:
			credential = o.Spec.Credential
		case *velerov1api.VolumeSnapshotLocation:
			credential = o.Spec.Credential
		}
		if credential != nil {
			// That it is there is all there is to know.
			secret := &metav1.PartialObjectMetadata{}
			secret.SetGroupVersionKind(corev1api.SchemeGroupVersion.WithKind("Secret"))
			if err := c.Get(ctx, client.ObjectKey{Namespace: obj.GetNamespace(), Name: credential.Name}, secret); err != nil {
				return hint.Add(fmt.Errorf("get the credential of %s %s: %w", obj.GetObjectKind().GroupVersionKind().Kind, obj.GetName(), err),
					fmt.Sprintf("create Secret %s in namespace %s with the key %s first", credential.Name, obj.GetNamespace(), credential.Key))
			}
		}
	}
	for _, obj := range missing {
		if err := c.Create(ctx, obj.DeepCopyObject().(client.Object)); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create %s %s: %w", obj.GetObjectKind().GroupVersionKind().Kind, obj.GetName(), err)
		}
	}
	return nil
}
