package snapshot

import (
	"sort"
	"strings"
)

// Image is a container image that a node has.
type Image struct {
	Name string `json:"name"`
	// Size is in bytes.
	Size int64 `json:"size"`
}

// ImageName is how an image is told apart: with the tag that it has without one.
func ImageName(name string) string {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		return name + ":latest"
	}
	return name
}

// ImageSize is the size of an image that the node has, 0 for one that it lacks.
func (n *Node) ImageSize(name string) int64 {
	i := sort.Search(len(n.Images), func(i int) bool { return n.Images[i].Name >= name })
	if i < len(n.Images) && n.Images[i].Name == name {
		return n.Images[i].Size
	}
	return 0
}
