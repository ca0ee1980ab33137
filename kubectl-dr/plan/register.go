package plan

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

//go:generate go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.18.0 object crd:maxDescLen=400 paths=. output:crd:dir=../../examples/crds

// GroupVersion of the types in this package, and of the reports of kubectl dr.
var GroupVersion = schema.GroupVersion{Group: zfssnap.Domain, Version: "v1alpha1"}

// AddToScheme registers the types of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &RecoveryPlan{}, &RecoveryPlanList{}, &RecoveryRun{}, &RecoveryRunList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
