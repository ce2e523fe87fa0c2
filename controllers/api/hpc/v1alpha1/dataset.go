package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Dataset says where data is that gangs read, so that they are placed where they
// start first, the time to copy it counted. A Job, PodGroup or pod of its namespace
// names it in the annotation isthmus.sh/datasets. With spec.staging it is copied to
// where they go, before they start.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=dset
// +kubebuilder:printcolumn:name="Size",type=string,JSONPath=`.spec.size`
// +kubebuilder:printcolumn:name="Clusters",type=string,JSONPath=`.spec.locations[*].cluster`
// +kubebuilder:printcolumn:name="Copies",type=string,JSONPath=`.status.copies[*].cluster`
// +kubebuilder:printcolumn:name="Phases",type=string,JSONPath=`.status.copies[*].phase`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Dataset struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec DatasetSpec `json:"spec"`
	// +optional
	Status DatasetStatus `json:"status,omitzero"`
}

// DatasetList is a list of Datasets.
//
// +kubebuilder:object:root=true
type DatasetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Dataset `json:"items"`
}

// DatasetSpec is how much data there is and where.
//
// +kubebuilder:validation:XValidation:rule="!has(self.staging) || self.staging.targets.all(t, !self.locations.exists(l, has(l.cluster) && l.cluster == t.cluster))",message="must not name a cluster of spec.locations, which has the data already",fieldPath=".staging.targets"
type DatasetSpec struct {
	// Size is how many bytes the data has, like 1200Gi.
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).isGreaterThan(quantity('0'))",message="must be more than nothing"
	Size resource.Quantity `json:"size"`

	// Bandwidth is how many bytes a second it is copied with to where it is not, like
	// 250M. Default 100M.
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('1')) >= 0",message="must be at least a byte a second"
	// +optional
	Bandwidth *resource.Quantity `json:"bandwidth,omitempty"`

	// Locations are the places that have it.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Locations []DatasetLocation `json:"locations"`

	// Staging is how and to where it is copied for gangs that start sooner where it
	// is not. Without it nothing is copied.
	// +optional
	Staging *DatasetStaging `json:"staging,omitempty"`
}

// DatasetLocation is one place that has the data, named in one of two ways.
//
// +kubebuilder:validation:XValidation:rule="has(self.cluster) != has(self.nodes)",message="exactly one of cluster and nodes is needed",fieldPath=".cluster"
// +kubebuilder:validation:XValidation:rule="!has(self.cluster) || has(self.path)",message="is needed with cluster",fieldPath=".path"
type DatasetLocation struct {
	// Cluster is the BatchCluster on whose file system the data is: it is on all of
	// its virtual nodes.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Cluster string `json:"cluster,omitempty"`

	// Nodes is labels of the nodes that have it, all of them: real nodes, or some
	// virtual ones.
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	Nodes map[string]string `json:"nodes,omitempty"`

	// Path is where it is there. Containers on virtual nodes find it in the variable
	// ISTHMUS_DATASET_<NAME>.
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:Pattern=`^/[^\x00-\x1f]*$`
	// +optional
	Path string `json:"path,omitempty"`
}
