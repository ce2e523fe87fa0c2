// Package v1alpha1 holds the Isthmus API types of group hpc.isthmus.sh.
//
// +kubebuilder:object:generate=true
// +groupName=hpc.isthmus.sh
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of the types in this package.
var GroupVersion = schema.GroupVersion{Group: "hpc.isthmus.sh", Version: "v1alpha1"}

// AddToScheme registers the types with s.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &BatchCluster{}, &BatchClusterList{}, &SchedulingProfile{}, &SchedulingProfileList{}, &Reservation{}, &ReservationList{}, &Dataset{}, &DatasetList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
