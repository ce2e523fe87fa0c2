package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DatasetStaging is a program that copies a Dataset to a BatchCluster, and the
// BatchClusters that it copies to. It runs as a Job of the Dataset's namespace on the
// virtual nodes of the target, one for all gangs that wait for the copy, and finds what
// to do in its environment:
//
//   - ISTHMUS_DATASET is the name of the Dataset, ISTHMUS_DATASET_SIZE its bytes
//   - ISTHMUS_SOURCE_CLUSTER and ISTHMUS_SOURCE_PATH are the first location with a
//     cluster, or empty and the path of the first location with one, or both empty
//   - ISTHMUS_DATASET_LOCATIONS are all locations, as JSON like in the spec
//   - ISTHMUS_TARGET_CLUSTER and ISTHMUS_TARGET_PATH are the target
//
// It is run again after it failed, possibly with a part of the data at the target.
type DatasetStaging struct {
	// Image of the container. Runtimes without images, like host, do not read it.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Image string `json:"image"`

	// Command is the program and its first arguments. It is no line of a shell;
	// $(NAME) is the value of a variable of the environment.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	Command []string `json:"command"`

	// Args are further arguments.
	// +kubebuilder:validation:MaxItems=256
	// +optional
	// +listType=atomic
	Args []string `json:"args,omitempty"`

	// Env is more environment. Names that start with ISTHMUS_ are taken.
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:XValidation:rule="self.all(e, !e.name.startsWith('ISTHMUS_'))",message="must not have names that start with ISTHMUS_, which tell the program what to copy"
	// +optional
	// +listType=map
	// +listMapKey=name
	Env []corev1.EnvVar `json:"env,omitempty"`

	// Resources of the container.
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitzero"`

	// Volumes of the pod, and where the container has them, for keys and programs.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=map
	// +listMapKey=name
	Volumes []corev1.Volume `json:"volumes,omitempty"`

	// VolumeMounts are where the container has the volumes.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=map
	// +listMapKey=mountPath
	VolumeMounts []corev1.VolumeMount `json:"volumeMounts,omitempty"`

	// ServiceAccountName is the service account of the pod. Without one the pod has
	// no token.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	ServiceAccountName string `json:"serviceAccountName,omitempty"`

	// Annotations of the pod, like isthmus.sh/walltime, isthmus.sh/runtime and
	// isthmus.sh/account.
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`

	// Queue is that of the Job. Default "default".
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:default=default
	// +optional
	Queue string `json:"queue,omitempty"`

	// Retries is how often a copy that failed is tried again: a minute later, then
	// two, doubling up to an hour. Default 3.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	// +kubebuilder:default=3
	// +optional
	Retries *int32 `json:"retries,omitempty"`

	// Targets are the BatchClusters that it may be copied to, one entry each.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=cluster
	Targets []DatasetTarget `json:"targets"`
}

// DatasetTarget is a BatchCluster that the data may be copied to.
type DatasetTarget struct {
	// Cluster is the BatchCluster.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Cluster string `json:"cluster"`

	// Path is where the copy is made, on the file system of all virtual nodes of the
	// cluster. Containers find it in the variable ISTHMUS_DATASET_<NAME>.
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:Pattern=`^/[^\x00-\x1f]*$`
	Path string `json:"path"`

	// NodeSelector is labels of the virtual node that the copy runs on, beside the
	// cluster's, like isthmus.sh/partition for a partition of hosts that move data.
	// +kubebuilder:validation:MaxProperties=16
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// Tolerations of taints that the administrator gave that virtual node.
	// +kubebuilder:validation:MaxItems=16
	// +optional
	// +listType=atomic
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
}

// DatasetStatus is written by the controllers.
type DatasetStatus struct {
	// Copies are what was made of the targets that gangs asked for, one entry each.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=map
	// +listMapKey=cluster
	Copies []DatasetCopy `json:"copies,omitempty"`
}

// DatasetCopy is a copy at a target. One that is Ready counts as a location while
// spec.staging.targets has its cluster and path.
type DatasetCopy struct {
	// Cluster and Path are those of the target.
	Cluster string `json:"cluster"`
	Path    string `json:"path"`

	// Phase is Copying from when its Job is made, Ready when that completed, and
	// Failed when it did not.
	// +kubebuilder:validation:Enum=Copying;Ready;Failed
	Phase string `json:"phase"`

	// Job is the Job of the last attempt. It goes some time after its end.
	// +optional
	Job string `json:"job,omitempty"`

	// Message says what it waits for or why it failed.
	// +optional
	Message string `json:"message,omitempty"`

	// StartTime is when the last attempt began, or before the first one since when its
	// Job cannot be made. CompletionTime is when it ended, or was last tried in vain.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`

	// Attempts are how many Jobs were made for it.
	// +optional
	Attempts int32 `json:"attempts,omitempty"`

	// RetryTime is when one that failed is tried again, if a gang still asks for it.
	// A failed one without it is not tried again before spec.staging changes.
	// +optional
	RetryTime *metav1.Time `json:"retryTime,omitempty"`

	// Recipe tells one way of making the copy from another: it is made anew when it is
	// not Ready and spec.staging, but for other targets and the retries, changed.
	// +optional
	Recipe string `json:"recipe,omitempty"`
}

// The phases of a DatasetCopy.
const (
	CopyCopying = "Copying"
	CopyReady   = "Ready"
	CopyFailed  = "Failed"
)

// Copy is what was made of a target, nil for nothing yet or when the target has
// another path now.
func (d *Dataset) Copy(target DatasetTarget) *DatasetCopy {
	for i := range d.Status.Copies {
		if c := &d.Status.Copies[i]; c.Cluster == target.Cluster && c.Path == target.Path {
			return c
		}
	}
	return nil
}
