package rules

const betaStorageClass = "volume.beta.kubernetes.io/storage-class"

func rewriteStorageClasses(e *edit, p *Rewrites) error {
	switch {
	case len(p.StorageClasses) == 0:
	case e.in([]string{""}, "PersistentVolume", "PersistentVolumeClaim"):
		e.mapped(p.StorageClasses, "spec", "storageClassName")
		e.mapped(p.StorageClasses, "metadata", "annotations", betaStorageClass)
	case e.in([]string{"apps"}, "StatefulSet"):
		for i := range e.list("spec", "volumeClaimTemplates") {
			e.mapped(p.StorageClasses, "spec", "volumeClaimTemplates", i, "spec", "storageClassName")
			e.mapped(p.StorageClasses, "spec", "volumeClaimTemplates", i, "metadata", "annotations", betaStorageClass)
		}
	}
	return nil
}
