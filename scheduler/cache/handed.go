package cache

import (
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/controllers/api/gpubox"
	"github.com/isthmus-hpc/isthmus/controllers/api/volcanogpu"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// handed is what a pod tells of being served by Volcano's vgpu device plugin.
type handed struct {
	container  int    // that asks for GPUs, by position
	node       string // whose plugin is to serve it
	allocating bool   // it has not been served, as far as its annotations tell
	due        bool   // devices are still to be handed out
}

func handedOf(p *corev1.Pod) handed {
	a := p.Annotations
	h := handed{}
	h.due = p.Spec.NodeName != "" && strings.Contains(a[volcanogpu.ToAllocate], ",")
	at := askingContainers(p.Spec.Containers)
	if len(at) > 0 {
		h.container = at[0]
	}
	if p.Spec.NodeName == "" || len(at) == 0 {
		return h // only a binding says this, of pods that ask: else its author may have written it, and it is not waited for
	}
	h.node, h.allocating = a[volcanogpu.Node], a[volcanogpu.Phase] == volcanogpu.Allocating
	return h
}

// asked are the names by which Volcano's vgpu device plugin is asked.
var asked = []corev1.ResourceName{
	wellknown.ResourceVGPUNumber, wellknown.ResourceVGPUMemory, wellknown.ResourceVGPUMemoryPercentage, wellknown.ResourceVGPUCores,
}

func askingContainers(cs []corev1.Container) []int {
	var out []int
	for i, c := range cs {
		if slices.ContainsFunc(asked, func(name corev1.ResourceName) bool {
			_, limit := c.Resources.Limits[name]
			_, request := c.Resources.Requests[name]
			return limit || request
		}) {
			out = append(out, i)
		}
	}
	return out
}

// scattered reports whether GPUs of Volcano's plugin are asked for by more than one
// container or by one that starts before others.
func scattered(p *corev1.Pod) bool {
	return len(askingContainers(p.Spec.Containers)) > 1 || len(askingContainers(p.Spec.InitContainers)) > 0
}

// volcanosMode is the mode that a pod asks for under Volcano's name.
func volcanosMode(p *corev1.Pod) []string {
	switch p.Annotations[volcanogpu.Mode] {
	case "":
		return nil
	case volcanogpu.ModeCore:
		return []string{gpubox.TimeSlice}
	}
	return []string{gpubox.MIG}
}

// devicesOf is the GPUs that a pod has: as its node tells, as we chose, or as Volcano's
// scheduler did before.
func devicesOf(p *corev1.Pod) []string {
	if own := listOf(firstOf(p.Annotations[wellknown.ActualGPUIDs], p.Annotations[wellknown.GPUIDs])); len(own) > 0 {
		return own
	}
	return volcanogpu.UUIDs(p.Annotations[volcanogpu.IDs])
}

// boxOf is the GPUs of a node: as our own annotation describes them, or else as Volcano's
// device plugin registered them; nil when neither is there.
func boxOf(n *corev1.Node) (*gpubox.Box, error) {
	parse, text := gpubox.Parse, n.Annotations[wellknown.GPUBox]
	if text == "" {
		parse, text = volcanogpu.ParseRegister, n.Annotations[volcanogpu.Register]
	}
	if text == "" {
		return nil, nil //nolint:nilnil // most nodes tell nothing, and that is no error
	}
	box, err := parse(text)
	if err != nil {
		return nil, err
	}
	return &box, nil
}

// HandOver is what Volcano's device plugin has to read on a pod that is to have these
// GPUs of a node; nil when that node has another node side, or the pod none of its GPUs.
func (c *Cache) HandOver(uid, node string, devices []string, now time.Time) map[string]string {
	if len(devices) == 0 {
		return nil // as nearly all pods; finding them among all is not for nothing
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, n := c.pods[uid], c.nodes[node]
	if e == nil || n == nil || n.spec == nil || n.spec.GPUs == nil || n.spec.GPUs.HandedOutBy != gpubox.VolcanoPlugin {
		return nil
	}
	var parts []volcanogpu.Device
	for _, d := range devices {
		if memory, cores, ok := snapshot.PartOf(e.spec.Requests, n.spec.GPUs, d); ok {
			parts = append(parts, volcanogpu.Device{UUID: d, Memory: memory, Cores: cores})
		}
	}
	if len(parts) == 0 {
		return nil
	}
	text, at := volcanogpu.Format(e.handed.container, parts), strconv.FormatInt(now.Unix(), 10)
	return map[string]string{
		volcanogpu.Node: node, volcanogpu.Time: at, volcanogpu.BindTime: at,
		volcanogpu.IDs: text, volcanogpu.ToAllocate: text, volcanogpu.Phase: volcanogpu.Allocating,
	}
}

// Served reports whether Volcano's device plugin on a node is done with a pod that was
// sent there, or never will be: served, rejected, started, sent elsewhere or gone.
func (c *Cache) Served(uid, node string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.pods[uid]
	if e == nil {
		return true
	}
	if e.pod.Node == "" {
		a, sent := c.assumed[uid]
		return !sent || a.Node != node
	}
	return e.pod.Node != node || !e.waits()
}

// waits reports whether kubelet has yet to ask Volcano's device plugin for the pod: it
// does so before any container starts.
func (e *podEntry) waits() bool {
	return e.handed.allocating && e.pod.Phase == snapshot.PodPending && e.handed.node == e.pod.Node
}

// Unserved names a pod that is bound to a node and waits there for Volcano's device
// plugin, "" when there is none.
func (c *Cache) Unserved(node string) (uid, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[node]; n != nil {
		for id, e := range n.pods {
			if e.pod.Node == node && e.waits() && (uid == "" || id < uid) {
				uid, name = id, e.pod.Namespace+"/"+e.pod.Name
			}
		}
	}
	return uid, name
}

// Undue are pods of a node that have ended before Volcano's device plugin served them:
// some versions of it would still take them for the pod that kubelet asks for.
func (c *Cache) Undue(node string) []plan.PodRef {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []plan.PodRef
	for uid, e := range c.undue[node] {
		out = append(out, plan.PodRef{UID: uid, Namespace: e.pod.Namespace, Name: e.pod.Name})
	}
	slices.SortFunc(out, func(a, b plan.PodRef) int { return strings.Compare(a.UID, b.UID) })
	return out
}

// isUndue reports whether the pod is one of Undue's, on the node that is to serve it.
func (e *podEntry) isUndue() bool { return e.handed.due && e.handed.node != "" && e.pod.Terminal() }

// setUndue notes that a pod is one of Undue's, or is no longer: a look at all pods for
// each binding would cost more the more of them have ended.
func (c *Cache) setUndue(e *podEntry, is bool) {
	node := e.handed.node
	if !is {
		if delete(c.undue[node], e.pod.UID); len(c.undue[node]) == 0 {
			delete(c.undue, node)
		}
		return
	}
	if c.undue[node] == nil {
		c.undue[node] = map[string]*podEntry{}
	}
	c.undue[node][e.pod.UID] = e
}
