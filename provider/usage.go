package provider

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/kubeletapi"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// podUsage is kubeletapi.Usage over what was last collected.
type podUsage struct {
	bridge *Bridge
	pods   kubeletapi.PodSource

	mu    sync.Mutex
	nodes map[string]*nodeCounter
}

var _ kubeletapi.Usage = (*podUsage)(nil)

func newPodUsage(b *Bridge, pods kubeletapi.PodSource) *podUsage {
	return &podUsage{bridge: b, pods: pods, nodes: map[string]*nodeCounter{}}
}

// nodeCounter is the processor time of a virtual node: what its containers have
// used, each counted on when it ends.
type nodeCounter struct {
	nanos uint64
	seen  map[string]uint64 // by pod, container and run
}

// Readers take a zero for a value that is missing, so a node without pods has
// used a little.
const (
	leastNanos = uint64(time.Millisecond)
	leastBytes = uint64(1)
)

// status is a pod's own report, as last collected.
func (b *Bridge) status(pod *corev1.Pod) (manifest.Status, bool) {
	key := backends.Key(pod.Annotations[wellknown.SubmitIntent])
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ok := b.view.Files[key]
	if !ok {
		return manifest.Status{}, false
	}
	rank, ok := c.gang.Ranks[string(pod.UID)]
	st, reported := c.gang.Pods[rank]
	return st, ok && reported && st.UID == string(pod.UID)
}

// PodUsage is kubeletapi.Usage.
func (u *podUsage) PodUsage(pod *corev1.Pod) []kubeletapi.ContainerUsage {
	st, ok := u.bridge.status(pod)
	if !ok || st.Phase.Terminal() {
		return nil
	}
	var out []kubeletapi.ContainerUsage
	for _, list := range [][]manifest.Container{st.InitContainers, st.Containers, st.Ephemeral} {
		for _, c := range list {
			if c.Usage == nil || c.State.Running == nil {
				continue
			}
			out = append(out, kubeletapi.ContainerUsage{
				Name: c.Name, StartTime: c.State.Running.StartedAt.Time, Time: c.Usage.Time.Time,
				CPUNanos: max(c.Usage.CPUNanos, 1), NanoCores: c.Usage.NanoCores,
				RSS: c.Usage.RSSBytes, Working: max(c.Usage.WorkingSetBytes, leastBytes),
			})
		}
	}
	return out
}

// NodeUsage is kubeletapi.Usage.
func (u *podUsage) NodeUsage(node string) kubeletapi.NodeUsage {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := u.nodes[node]
	if n == nil {
		n = &nodeCounter{nanos: leastNanos, seen: map[string]uint64{}}
		u.nodes[node] = n
	}
	out := kubeletapi.NodeUsage{Time: u.bridge.Clock.Now(), Working: leastBytes}
	seen := map[string]uint64{}
	for _, p := range u.pods.Pods() {
		if p.Spec.NodeName != node {
			continue
		}
		for _, c := range u.PodUsage(p) {
			run := string(p.UID) + "/" + c.Name + "/" + c.StartTime.String()
			// An older report after a newer one must not make its time count twice.
			seen[run] = max(n.seen[run], c.CPUNanos)
			n.nanos += seen[run] - n.seen[run]
			out.NanoCores += c.NanoCores
			out.RSS += c.RSS
			out.Working += c.Working
		}
	}
	n.seen = seen
	out.CPUNanos = n.nanos
	return out
}
