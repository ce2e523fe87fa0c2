package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// SchedulingProfile says how the gangs of some queues are scheduled, where that
// differs from the scheduler's own configuration. How the cluster is shared among
// queues is no part of it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=sprof
// +kubebuilder:printcolumn:name="Queues",type=string,JSONPath=`.spec.queues`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type SchedulingProfile struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec SchedulingProfileSpec `json:"spec"`
}

// SchedulingProfileList is a list of SchedulingProfiles.
//
// +kubebuilder:object:root=true
type SchedulingProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SchedulingProfile `json:"items"`
}

// SchedulingProfileSpec is what is different for the queues.
//
// +kubebuilder:validation:XValidation:rule="has(self.actions) || has(self.plugins)",message="one of actions and plugins is needed"
// +kubebuilder:validation:XValidation:rule="!has(self.plugins) || self.plugins.all(p, !(p.name in ['proportion', 'capacity']))",message="proportion and capacity say how queues share the cluster, which is no matter of one queue"
type SchedulingProfileSpec struct {
	// Queues are the names of the queues. Of two profiles that name one queue the
	// older counts.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:MinLength=1
	// +listType=set
	Queues []string `json:"queues"`

	// Actions are those that make room for the queues' gangs, of the ones that the
	// scheduler runs; all when absent, none when empty. Gangs are let in and placed
	// in any case.
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:Enum=backfill;consolidate;elastic;preempt;reclaim;gangpreempt;gangreclaim
	// +optional
	// +listType=set
	Actions *[]string `json:"actions,omitempty"`

	// Plugins take the place of the scheduler's, in this order, when there are any.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +optional
	// +listType=map
	// +listMapKey=name
	Plugins []ProfilePlugin `json:"plugins,omitempty"`
}

// ProfilePlugin is a plugin with its arguments.
type ProfilePlugin struct {
	// Name of the plugin, as in the scheduler's configuration.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`

	// Arguments of the plugin, as in the scheduler's configuration.
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	Arguments map[string]string `json:"arguments,omitempty"`
}
