// Package gpubox is the wire format of the annotation that describes the GPUs of
// a real node: what they are, how they are linked and how each may be shared.
// The node side writes it, and only when something changes; the scheduler
// chooses GPUs by it. It imports nothing of ours.
package gpubox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Version is the only version of the format.
const Version = 1

// Bounds: a set of GPUs or of MIG instances is one machine word.
const (
	MaxGPUs      = 64
	MaxInstances = 64
	maxBytes     = 256 << 10
)

// The modes of a GPU, which say who may be on it at the same time.
const (
	// Exclusive GPUs are handed out whole.
	Exclusive = "exclusive"
	// TimeSlice GPUs are shared in turns: no isolation of memory or faults.
	TimeSlice = "timeslice"
	// MPS GPUs are shared through one MPS server, which serves one tenant at a time.
	MPS = "mps"
	// Limited GPUs are shared with memory limits that the driver enforces.
	Limited = "limited"
	// MIG GPUs are handed out as instances.
	MIG = "mig"
)

// VolcanoPlugin is Volcano's vgpu device plugin: it serves one container of a pod, for
// volcano.sh/vgpu-number and what else is asked by names that start with volcano.sh/vgpu-.
const VolcanoPlugin = "volcano-vgpu-device-plugin"

// The PCIe distances of two GPUs, from close to far.
const (
	Board    = "board"    // two GPUs on one board
	Switch   = "switch"   // one PCIe switch between them
	Switches = "switches" // several
	Bridge   = "bridge"   // a host bridge
	NUMA     = "node"     // one NUMA node
	System   = "system"   // across the sockets; what is not told is this
)

var distances = []string{Board, Switch, Switches, Bridge, NUMA, System}

// Box is the GPUs of one node.
type Box struct {
	Version int `json:"version"`
	// HandedOutBy is who gives containers the GPUs that were chosen: VolcanoPlugin, or
	// nothing for a node side that goes by the scheduler's own annotation.
	HandedOutBy string `json:"handedOutBy,omitempty"`
	// Resource is the name whole GPUs are requested by.
	Resource string `json:"resource"`
	GPUs     []GPU  `json:"gpus"`
	// Links tell of pairs; a pair that none tells of has no NVLink and is as far
	// apart as can be.
	Links []Link `json:"links,omitempty"`
	// Fabrics are sets of GPUs that switches connect each with each.
	Fabrics []Fabric `json:"fabrics,omitempty"`
}

// GPU is one device.
type GPU struct {
	UUID  string `json:"uuid"`
	Model string `json:"model,omitempty"`
	// MemoryMiB is what pods can have of its memory.
	MemoryMiB int64  `json:"memoryMiB"`
	Mode      string `json:"mode"`
	// Slots is how many pods may share it at most; needed in a mode that shares.
	Slots int64 `json:"slots,omitempty"`
	// MixedTenants allows pods of several tenants on it at a time.
	MixedTenants bool `json:"mixedTenants,omitempty"`
	// Unhealthy says what is wrong with it; nothing is placed there.
	Unhealthy string     `json:"unhealthy,omitempty"`
	Instances []Instance `json:"instances,omitempty"` // in mode MIG
}

// Instance is a MIG instance.
type Instance struct {
	UUID     string `json:"uuid"`
	Resource string `json:"resource"` // nvidia.com/mig-1g.10gb, say
}

// Link is what connects GPUs A and B, which are positions in Box.GPUs.
type Link struct {
	A       int    `json:"a"`
	B       int    `json:"b"`
	NVLinks int    `json:"nvlinks,omitempty"`
	PCIe    string `json:"pcie,omitempty"`
}

// Fabric is GPUs that NVSwitches connect, with so many NVLinks each.
type Fabric struct {
	GPUs    []int `json:"gpus"`
	NVLinks int   `json:"nvlinks"`
}

// Shares reports whether a mode lets several pods on a GPU.
func Shares(mode string) bool { return mode == TimeSlice || mode == MPS || mode == Limited }

// Parse decodes the annotation strictly enough that a scheduler can trust it.
func Parse(text string) (Box, error) {
	var b Box
	if len(text) > maxBytes {
		return b, fmt.Errorf("gpu box: %d bytes, more than %d", len(text), maxBytes)
	}
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	if err := dec.Decode(&b); err != nil {
		return Box{}, fmt.Errorf("gpu box: %w", err)
	}
	if err := b.Check(); err != nil {
		return Box{}, fmt.Errorf("gpu box: %w", err)
	}
	return b, nil
}

// Check says what is wrong with a box, by field.
func (b Box) Check() error {
	switch {
	case b.Version != Version:
		return fmt.Errorf("version is %d, must be %d", b.Version, Version)
	case b.Resource == "":
		return fmt.Errorf("resource is empty, must be the name of whole GPUs")
	case len(b.GPUs) > MaxGPUs:
		return fmt.Errorf("gpus has %d entries, more than %d", len(b.GPUs), MaxGPUs)
	}
	seen := map[string]bool{}
	once := func(uuid string) bool {
		ok := uuid != "" && !strings.ContainsAny(uuid, ", ") && !seen[uuid]
		seen[uuid] = true
		return ok
	}
	instances := 0
	for i, g := range b.GPUs {
		switch {
		case !once(g.UUID):
			return fmt.Errorf("gpus[%d].uuid %q is empty, has a comma or a space, or is there twice", i, g.UUID)
		case g.MemoryMiB < 0:
			return fmt.Errorf("gpus[%d].memoryMiB is negative", i)
		case g.Mode != Exclusive && g.Mode != MIG && !Shares(g.Mode):
			return fmt.Errorf("gpus[%d].mode is %q, which is no mode", i, g.Mode)
		case Shares(g.Mode) && g.Slots < 1:
			return fmt.Errorf("gpus[%d].slots is %d, must be at least 1 in mode %s", i, g.Slots, g.Mode)
		case g.MixedTenants && (g.Mode == MPS || !Shares(g.Mode)):
			return fmt.Errorf("gpus[%d].mixedTenants cannot be in mode %s", i, g.Mode)
		case len(g.Instances) > 0 && g.Mode != MIG:
			return fmt.Errorf("gpus[%d].instances can be only in mode mig", i)
		}
		for j, in := range g.Instances {
			if instances++; !once(in.UUID) || in.Resource == "" {
				return fmt.Errorf("gpus[%d].instances[%d] has no uuid of its own or no resource", i, j)
			}
		}
	}
	if instances > MaxInstances {
		return fmt.Errorf("%d MIG instances, more than %d", instances, MaxInstances)
	}
	for i, l := range b.Links {
		if !b.has(l.A) || !b.has(l.B) || l.A == l.B {
			return fmt.Errorf("links[%d] joins %d and %d of %d GPUs", i, l.A, l.B, len(b.GPUs))
		}
		if l.NVLinks < 0 || l.NVLinks > 1024 || l.PCIe != "" && !slices.Contains(distances, l.PCIe) {
			return fmt.Errorf("links[%d] has %d NVLinks and the PCIe distance %q", i, l.NVLinks, l.PCIe)
		}
	}
	for i, f := range b.Fabrics {
		if f.NVLinks < 0 || f.NVLinks > 1024 || slices.ContainsFunc(f.GPUs, func(g int) bool { return !b.has(g) }) {
			return fmt.Errorf("fabrics[%d] names a GPU that is not there or has %d NVLinks", i, f.NVLinks)
		}
	}
	return nil
}

func (b Box) has(i int) bool { return i >= 0 && i < len(b.GPUs) }

// Format encodes b; equal values give equal text.
func (b Box) Format() string {
	text, err := json.Marshal(b)
	if err != nil { // structs of strings and integers always encode
		panic(err)
	}
	return string(text)
}
