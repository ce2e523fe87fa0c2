package snapshot

import (
	"encoding/json"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// Data is a dataset that a gang reads.
type Data struct {
	Name string `json:"name"`
	// Unknown says that there is no such dataset.
	Unknown bool `json:"unknown,omitempty"`
	// Size is in bytes, and PerSecond how many of them are copied in a second.
	Size      int64 `json:"size,omitempty"`
	PerSecond int64 `json:"perSecond,omitempty"`
	// Places have it.
	Places []DataPlace `json:"places,omitempty"`
	// Staged says that it is copied, to Targets, before gangs go to a virtual node that
	// lacks it; otherwise they see to that themselves.
	Staged  bool         `json:"staged,omitempty"`
	Targets []DataTarget `json:"targets,omitempty"`
}

// DataPlace is the nodes with all of these labels; the data is at Path there, if
// that is said.
type DataPlace struct {
	Labels map[string]string `json:"labels"`
	Path   string            `json:"path,omitempty"`
}

// On reports whether a node with these labels has the data, and at which path.
func (d *Data) On(labels map[string]string) (path string, ok bool) {
	for _, p := range d.Places {
		if p.has(labels) {
			return p.Path, true
		}
	}
	return "", false
}

func (p *DataPlace) has(labels map[string]string) bool {
	for k, v := range p.Labels {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return len(p.Labels) > 0
}

// Transfer is how many seconds it takes to copy the data.
func (d *Data) Transfer() int64 {
	if d.Size <= 0 {
		return 0
	}
	return (d.Size-1)/max(d.PerSecond, 1) + 1
}

// TransferTo is how many seconds it takes to copy what the gang reads to a node with
// these labels, one dataset after the other. What is Staged counts on real nodes only.
func (g *GangSpec) TransferTo(labels map[string]string, virtual bool) int64 {
	var sum int64
	for i := range g.Data {
		d := &g.Data[i]
		if _, there := d.On(labels); !there && (!virtual || !d.Staged) {
			sum = resource.Add(sum, d.Transfer())
		}
	}
	return sum
}

// PathsOn are the paths of what the gang reads on a node with these labels, as a
// JSON object by name; "" when none is known.
func (g *GangSpec) PathsOn(labels map[string]string) string {
	paths := map[string]string{}
	for i := range g.Data {
		if path, there := g.Data[i].On(labels); there && path != "" {
			paths[g.Data[i].Name] = path
		}
	}
	if len(paths) == 0 {
		return ""
	}
	text, err := json.Marshal(paths)
	if err != nil {
		return "" // a map of strings is always encoded
	}
	return string(text)
}
