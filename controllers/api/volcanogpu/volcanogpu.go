// Package volcanogpu is the wire format of the annotations by which a scheduler and
// Volcano's vgpu device plugin (volcano-vgpu-device-plugin) speak of GPUs: what a node
// registers, and which parts of which GPUs a pod gets. It is pure.
//
// A node's GPUs are UUID,COUNT,MEMORY,TYPE,HEALTH,MODE each, and a pod's are
// UUID,TYPE,MEMORY,CORES each, with a colon after every one and, for a pod, a semicolon
// between its containers. Memory is in the plugin's own unit: MiB, unless the plugin is
// started with a memory factor, and then the pods' requests are in that unit as well.
package volcanogpu

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/isthmus-hpc/isthmus/controllers/api/gpubox"
)

const prefix = "volcano.sh/"

// Register is the annotation of a node by which the plugin tells of its GPUs.
const Register = prefix + "node-vgpu-register"

// Annotations of a pod. The plugin serves the pod of its node with the earliest Time that
// has ToAllocate as many devices as kubelet asks for (some versions: that is in phase
// Allocating), takes what it hands out off ToAllocate, and says so by Phase.
const (
	Node       = prefix + "vgpu-node"
	Time       = prefix + "vgpu-time" // Unix seconds
	IDs        = prefix + "vgpu-ids-new"
	ToAllocate = prefix + "devices-to-allocate"
	Phase      = prefix + "bind-phase"
	BindTime   = prefix + "bind-time" // Unix seconds
	// Mode is what a pod asks to be shared by: ModeCore or ModeMIG.
	Mode = prefix + "vgpu-mode"
)

// Allocating is the phase of a pod that the plugin has not served; it writes success or failed.
const Allocating = "allocating"

// The modes of the plugin; what is neither counts as ModeCore, as in Volcano.
const (
	ModeCore = "hami-core"
	ModeMIG  = "mig"
)

// Type is the kind of a pod's device as the plugin wants to read it.
const Type = "NVIDIA"

const maxBytes = 256 << 10

// unasked is a resource that nobody asks for: the plugin hands out no GPU that is not shared.
const unasked = prefix + "vgpu-whole"

// ParseRegister reads what a node registered as its box of GPUs. An error names the field.
func ParseRegister(text string) (gpubox.Box, error) {
	box := gpubox.Box{Version: gpubox.Version, Resource: unasked, HandedOutBy: gpubox.VolcanoPlugin}
	if len(text) > maxBytes {
		return gpubox.Box{}, fmt.Errorf("annotation %s: %d bytes, more than %d", Register, len(text), maxBytes)
	}
	for i, part := range strings.Split(strings.TrimSuffix(text, ":"), ":") {
		gpu, err := parseGPU(part)
		if err != nil {
			return gpubox.Box{}, fmt.Errorf("annotation %s: GPU %d: %w", Register, i, err)
		}
		box.GPUs = append(box.GPUs, gpu)
	}
	if err := box.Check(); err != nil {
		return gpubox.Box{}, fmt.Errorf("annotation %s: %w", Register, err)
	}
	return box, nil
}

func parseGPU(text string) (gpubox.GPU, error) {
	items := strings.Split(text, ",")
	if len(items) < 6 {
		return gpubox.GPU{}, fmt.Errorf("%q has %d fields, must have uuid, count, memory, type, health and mode", text, len(items))
	}
	count, err := amount("count", items[1])
	if err != nil {
		return gpubox.GPU{}, err
	}
	memory, err := amount("memory", items[2])
	if err != nil {
		return gpubox.GPU{}, err
	}
	healthy, err := strconv.ParseBool(items[4])
	if err != nil {
		return gpubox.GPU{}, fmt.Errorf("health is %q, must be true or false", items[4])
	}
	if strings.ContainsAny(items[0], ";[]") {
		return gpubox.GPU{}, fmt.Errorf("uuid %q has a sign that the format uses itself", items[0])
	}
	g := gpubox.GPU{UUID: items[0], Model: items[3], MemoryMiB: memory, Slots: count, Mode: gpubox.TimeSlice, MixedTenants: true}
	switch {
	case items[5] == ModeMIG:
		g.Unhealthy = "Volcano's device plugin parts it by MIG, which is not served"
	case !healthy:
		g.Unhealthy = "Volcano's device plugin says that it is not healthy"
	case !strings.Contains(items[3], Type):
		g.Unhealthy = fmt.Sprintf("its type %q is none of %s", items[3], Type)
	}
	return g, nil
}

func amount(field, text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || n > math.MaxInt32 {
		return 0, fmt.Errorf("%s is %q, must be a number from 1 to %d", field, text, math.MaxInt32)
	}
	return n, nil
}

// Device is a part of one GPU that a container has.
type Device struct {
	UUID          string
	Memory, Cores int64
}

// Format writes the devices of a pod whose container at this position has them all.
// Containers before it keep their place, since the plugin goes by position.
func Format(container int, devices []Device) string {
	var b strings.Builder
	b.WriteString(strings.Repeat(";", max(container, 0)))
	for _, d := range devices {
		fmt.Fprintf(&b, "%s,%s,%d,%d:", d.UUID, Type, d.Memory, d.Cores)
	}
	return b.String()
}

// UUIDs lists the GPUs that a pod's annotation names, in order, of any container; what
// cannot be read is left out. The position of a MIG instance is no part of a UUID.
func UUIDs(text string) []string {
	if len(text) > maxBytes {
		return nil
	}
	var out []string
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == ':' || r == ';' }) {
		items := strings.Split(part, ",")
		uuid, _, _ := strings.Cut(items[0], "[")
		if len(items) >= 4 && uuid != "" {
			out = append(out, uuid)
		}
	}
	return out
}
