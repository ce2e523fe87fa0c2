package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reservation keeps nodes, or an amount of what real nodes offer, for some queues or
// namespaces and for a time. Others that would still run when it begins are kept
// out; what runs then already is let be until it ends.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=rsv
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Start",type=date,JSONPath=`.status.start`
// +kubebuilder:printcolumn:name="End",type=string,JSONPath=`.status.end`
// +kubebuilder:printcolumn:name="Held",type=string,JSONPath=`.status.conditions[?(@.type=="Held")].status`
// +kubebuilder:printcolumn:name="Why",type=string,JSONPath=`.status.conditions[?(@.type=="Held")].reason`
type Reservation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec ReservationSpec `json:"spec"`
	// +optional
	Status ReservationStatus `json:"status,omitzero"`
}

// ReservationList is a list of Reservations.
//
// +kubebuilder:object:root=true
type ReservationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Reservation `json:"items"`
}

// ReservationSpec is what is kept, when and for whom.
//
// +kubebuilder:validation:XValidation:rule="has(self.nodes) != has(self.amount)",message="exactly one of nodes and amount is needed",fieldPath=".nodes"
// +kubebuilder:validation:XValidation:rule="has(self.end) != has(self.duration)",message="exactly one of end and duration is needed",fieldPath=".end"
// +kubebuilder:validation:XValidation:rule="!has(self.start) || !has(self.end) || self.end > self.start",message="must be after start",fieldPath=".end"
type ReservationSpec struct {
	// Start is when it begins; when it is made, without one.
	// +optional
	Start *metav1.Time `json:"start,omitempty"`

	// End is when it is over.
	// +optional
	End *metav1.Time `json:"end,omitempty"`

	// Duration is how long it lasts, in place of an end, like 2h30m.
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="must be more than nothing"
	// +optional
	Duration *metav1.Duration `json:"duration,omitempty"`

	// Nodes are whole nodes, virtual ones among them.
	// +optional
	Nodes *ReservedNodes `json:"nodes,omitempty"`

	// Amount is a part of what the real nodes offer, wherever it is free. What the
	// owners hold already counts.
	// +optional
	Amount *ReservedAmount `json:"amount,omitempty"`

	// Owners are those that it is kept for.
	Owners ReservationOwners `json:"owners"`
}

// ReservedNodes names nodes in one of two ways.
//
// +kubebuilder:validation:XValidation:rule="has(self.names) != has(self.selector)",message="exactly one of names and selector is needed",fieldPath=".names"
type ReservedNodes struct {
	// Names of the nodes.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4096
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +optional
	// +listType=set
	Names []string `json:"names,omitempty"`

	// Selector is labels that the nodes have, all of them.
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	Selector map[string]string `json:"selector,omitempty"`
}

// ReservedAmount is a number of equal pieces, each of which fits on one node.
type ReservedAmount struct {
	// Count is how many pieces there are.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100000
	// +kubebuilder:default=1
	// +optional
	Count int32 `json:"count,omitempty"`

	// Each is the resources of one piece, like 8 of nvidia.com/gpu.
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=8
	// +kubebuilder:validation:XValidation:rule="self.all(name, quantity(string(self[name])).isGreaterThan(quantity('0')))",message="every amount must be more than nothing"
	Each map[corev1.ResourceName]resource.Quantity `json:"each"`
}

// ReservationOwners are those that may use what is reserved: gangs of any of the
// queues, or of any of the namespaces. Users are named by their namespaces.
//
// +kubebuilder:validation:XValidation:rule="has(self.queues) || has(self.namespaces)",message="at least one of queues and namespaces is needed",fieldPath=".queues"
type ReservationOwners struct {
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +optional
	// +listType=set
	Queues []string `json:"queues,omitempty"`

	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	// +optional
	// +listType=set
	Namespaces []string `json:"namespaces,omitempty"`
}

// ReservationStatus is written by the scheduler, but for Batch.
type ReservationStatus struct {
	// Phase is Pending before the start, Active until the end and then Expired.
	// +kubebuilder:validation:Enum=Pending;Active;Expired
	// +optional
	Phase string `json:"phase,omitempty"`

	// Start and End are when it begins and is over.
	// +optional
	Start *metav1.Time `json:"start,omitempty"`
	// +optional
	End *metav1.Time `json:"end,omitempty"`

	// Nodes are how many nodes are kept, Pieces how many pieces of the amount are
	// kept or held by the owners already.
	// +optional
	Nodes int32 `json:"nodes,omitempty"`
	// +optional
	Pieces int32 `json:"pieces,omitempty"`

	// Batch is what became of it at the batch systems behind its virtual nodes, one
	// entry a BatchCluster that makes reservations. The virtual kubelets write it.
	// +optional
	// +listType=map
	// +listMapKey=cluster
	Batch []BatchReservation `json:"batch,omitempty"`

	// Conditions: Held is true when all of it is there for the owners, and says why
	// not otherwise.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// BatchReservation is a reservation of a batch system that stands for the virtual nodes
// of a Reservation.
type BatchReservation struct {
	// Cluster is the BatchCluster.
	Cluster string `json:"cluster"`

	// State is Made when it is there and has not begun, InForce since then, Waiting
	// while it is not there and is tried again, and Refused when somebody has to act
	// first; see Message.
	// +kubebuilder:validation:Enum=Made;InForce;Waiting;Refused
	State string `json:"state"`

	// Name of it at the batch system.
	// +optional
	Name string `json:"name,omitempty"`

	// Hosts are how many hosts it has.
	// +optional
	Hosts int32 `json:"hosts,omitempty"`

	// Message says what is missing, and who has to do what.
	// +optional
	Message string `json:"message,omitempty"`
}

// The states of a BatchReservation.
const (
	BatchReservationMade    = "Made"
	BatchReservationInForce = "InForce"
	BatchReservationWaiting = "Waiting"
	BatchReservationRefused = "Refused"
)
