// Package fill scores nodes by how full one more pod makes them. Scores are from 0
// to 100, whole numbers, so that they add up the same on every machine. It is pure.
package fill

import (
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// Most is the best score.
const Most = 100

// Full is how full a node is of one resource with ask more in use: 0 is empty and
// Most is full or beyond. A node that has none of it is full.
func Full(free, total, ask int64) int64 {
	used := resource.Add(resource.Sub(total, free), ask)
	return min(resource.Share(used, total), resource.ShareUnit) * Most / resource.ShareUnit
}

// Weighted is a weighted mean of scores. Without weights it is 0.
type Weighted struct{ sum, weights int64 }

// Add counts a score. Weights are not negative.
func (w *Weighted) Add(score, weight int64) {
	w.sum += score * weight
	w.weights += weight
}

// Mean is the mean, rounded down.
func (w *Weighted) Mean() int64 {
	if w.weights == 0 {
		return 0
	}
	return w.sum / w.weights
}

// Balance is Most where all resources are equally full and less the further apart
// they are: Most less the standard deviation, as Kubernetes has it.
func Balance(full ...int64) int64 {
	if len(full) == 0 {
		return 0
	}
	n := int64(len(full))
	var sum int64
	for _, f := range full {
		sum += f
	}
	var squares int64 // of n times each distance from the mean
	for _, f := range full {
		d := f*n - sum
		squares += d * d
	}
	return Most - root(squares/n)/n
}

// root is the whole part of a square root of a number that is not negative.
func root(v int64) int64 {
	var r int64
	for bit := int64(1) << 30; bit > 0; bit >>= 1 {
		if next := r + bit; next*next <= v {
			r = next
		}
	}
	return r
}
