package snapshot

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// ClassSpec is everything that scheduling can see of a pod's needs. Pods with
// equal specs share one Class, so a filter runs once for all of them.
type ClassSpec struct {
	// Requests includes one "pods".
	Requests     resource.List        `json:"requests,omitempty"`
	NodeSelector map[string]string    `json:"nodeSelector,omitempty"`
	Affinity     *corev1.NodeSelector `json:"affinity,omitempty"` // required node affinity
	Tolerations  []corev1.Toleration  `json:"tolerations,omitempty"`
	HostPorts    []HostPort           `json:"hostPorts,omitempty"`
	// DaemonSet pods get no implicit toleration of virtual nodes.
	DaemonSet bool `json:"daemonSet,omitempty"`
	// Revocable are the revocable zones whose nodes the pods may be on for as long as
	// the zone is open; "*" is any.
	Revocable []string `json:"revocable,omitempty"`
	// Groups are the node groups of the pod's queue.
	Groups *NodeGroups `json:"groups,omitempty"`
	// GPU is what the pod says about its GPUs, nil for nothing.
	GPU *GPUSpec `json:"gpu,omitempty"`
	// NUMA is what the pod wants of NUMA nodes, nil for nothing.
	NUMA *NUMAAsk `json:"numa,omitempty"`
	// Peers is what the pod says about other pods, nil for nothing. Namespace and
	// Labels are what others can tell of it: labels that a selector names which looks
	// into its namespace, with "*" for a value that none of them names, and the
	// namespace if one looks into it by its name or by its labels.
	Peers     *Peers            `json:"peers,omitempty"`
	Namespace string            `json:"namespace,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	// PreferredNodes is the preferred node affinity.
	PreferredNodes []corev1.PreferredSchedulingTerm `json:"preferredNodes,omitempty"`
	// Images are those of the containers, one for each; nil where nobody cares.
	Images []string `json:"images,omitempty"`
	// Claims are the volumes and devices that the pod claims, nil for none.
	Claims *claims.Asks `json:"claims,omitempty"`
	// Unsupported names a hard constraint that this scheduler cannot honour; a
	// pod with one waits rather than being placed against its constraint.
	Unsupported string `json:"unsupported,omitempty"`
}

// HostPort is a port of the host that a pod binds.
type HostPort struct {
	Protocol string `json:"protocol"`
	IP       string `json:"ip,omitempty"` // "" is every address
	Port     int32  `json:"port"`
}

func (p HostPort) String() string { return fmt.Sprintf("%d/%s", p.Port, p.Protocol) }

func (p HostPort) conflicts(q HostPort) bool {
	return p.Port == q.Port && p.Protocol == q.Protocol && (p.IP == q.IP || p.IP == "" || q.IP == "")
}

// Class is a compiled ClassSpec.
type Class struct {
	ClassSpec
	// Key is equal for equal specs and for no others.
	Key string
	// Kin is equal for classes that differ at most in how much they ask for, in ports and
	// in what they say of other pods and others can tell of them. Whether they ask for
	// GPUs at all is no matter of how much.
	Kin string
	// Request is what one pod takes; Missing what it asks for and no node offers.
	Request resource.Vector
	Missing resource.List

	affinity nodeaffinity.RequiredNodeAffinity
	gpu      *gpuAsk
	peers    *classPeers
	prefers  *nodeaffinity.PreferredSchedulingTerms
}

// Key returns the identity of a spec.
func (c ClassSpec) Key() string {
	b, err := json.Marshal(c)
	if err != nil { // strings, integers and API types of strings always encode
		panic(fmt.Sprintf("encode class: %v", err))
	}
	return string(b)
}

// kin is what Kin is made of.
func (c *Class) kin() string {
	spec := c.ClassSpec
	spec.Requests, spec.HostPorts, spec.Peers, spec.Namespace, spec.Labels = nil, nil, nil, "", nil
	if c.AsksGPUs() {
		return "gpu " + spec.Key()
	}
	return spec.Key()
}

// NewClass compiles spec against a table of resource names. key must be
// spec.Key(); it is an argument since the caller has it at hand.
func NewClass(spec ClassSpec, key string, dims *resource.Dims) *Class {
	c := &Class{ClassSpec: spec, Key: key}
	c.Kin = c.kin()
	c.Request, c.Missing = dims.Vector(spec.Requests)
	c.gpu = newGPUAsk(&c.ClassSpec)
	c.peers = newClassPeers(c)
	if len(spec.PreferredNodes) > 0 {
		// A term that does not parse prefers nothing, as in Kubernetes.
		c.prefers, _ = nodeaffinity.NewPreferredSchedulingTerms(spec.PreferredNodes)
	}
	var affinity *corev1.Affinity
	if spec.Affinity != nil {
		affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: spec.Affinity}}
	}
	c.affinity = nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, affinity)
	return c
}

// Selects reports whether the class's node selector and required node affinity
// admit n; an invalid selector admits nothing, as in Kubernetes.
func (c *Class) Selects(n *Node) bool {
	if len(c.NodeSelector) == 0 && c.Affinity == nil {
		return true
	}
	ok, err := c.affinity.Match(n.object)
	return ok && err == nil
}

// ClaimsDevices reports whether pods of the class have resource claims.
func (c *Class) ClaimsDevices() bool {
	return c.Claims != nil && (len(c.Claims.Devices) > 0 || c.Claims.Missing != "")
}

// Tolerates reports whether the pods tolerate a taint. It asks Kubernetes' rule,
// without the comparison operators that are still behind a feature gate there. The
// rule logs only what those gate; the discarding logger keeps this package silent.
func (c *Class) Tolerates(t *corev1.Taint) bool {
	return schedulingv1.TolerationsTolerateTaint(klog.Logger{}, c.Tolerations, t, false)
}

// bears reports whether the pods tolerate all taints of a node that keep pods off. They
// tolerate that of virtual nodes without saying so, unless a DaemonSet owns them.
func (c *Class) bears(n *Node) bool {
	for i := range n.Taints {
		t := &n.Taints[i]
		keeps := t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
		if keeps && (t.Key != wellknown.TaintVirtualNode || c.DaemonSet) && !c.Tolerates(t) {
			return false
		}
	}
	return true
}

// Preference is the sum of the weights of the preferred node affinity's terms
// that n matches.
func (c *Class) Preference(n *Node) int64 {
	if c.prefers == nil {
		return 0
	}
	return c.prefers.Score(n.object)
}
