package snapshot

import "unique"

// PodRef names a pod.
type PodRef struct {
	UID       string
	Namespace string
	Name      string
}

// Members are so many pods of one class.
type Members struct {
	Class *Class
	Count int64
}

// Shape is what the minimum of a gang is made of: pods that follow one another in the order
// of members and are of one class, and then the next.
type Shape [shapeLen]Members

// shapeLen is as many tasks as most gangs have at the most.
const shapeLen = 4

// compileWaiting works out what every cycle asks of a gang that waits.
func (g *Gang) compileWaiting() {
	if g.Waiting == 0 {
		return
	}
	g.refs = make([]PodRef, 0, g.Waiting)
	for _, p := range g.Pods {
		if p.Waits() {
			g.refs = append(g.refs, PodRef{UID: p.UID, Namespace: p.Namespace, Name: p.Name})
		}
	}
	if g.plain() {
		if shape, ok := shapeOf(g.Pods[:g.Minimum()]); ok {
			g.shape, g.shaped = unique.Make(shape), true
		}
	}
}

// plain reports whether nothing of the gang was ever placed, and its minimum, for which there
// are pods enough, is the first of its members: nothing is said by which others of them are
// chosen, or places of which not every gang with such pods may have them.
func (g *Gang) plain() bool {
	if g.Waiting < len(g.Pods) || int64(g.Waiting) < g.Minimum() {
		return false
	}
	if g.Loose || g.Absent || g.Topology != nil || len(g.SubGroups) > 0 || g.Tasks != nil || len(g.Data) > 0 || g.Nominated != nil {
		return false
	}
	for _, p := range g.Pods {
		if p.Priority != g.Pods[0].Priority {
			return false
		}
	}
	minimums := g.TaskMinimums()
	if len(minimums) == 0 {
		return true
	}
	if g.Minimum() < int64(len(g.Pods)) {
		return false
	}
	there := map[string]int64{}
	for _, p := range g.Pods {
		there[p.Task]++
	}
	for _, t := range minimums {
		if there[t.Task] < t.Min {
			return false
		}
	}
	return true
}

// shapeOf is the shape of pods, and whether it has one: they are not of too many classes,
// and there is nothing about them of which a message would name the pod.
func shapeOf(pods []*Pod) (out Shape, ok bool) {
	at := -1
	for _, p := range pods {
		if at < 0 || out[at].Class != p.Class {
			if at++; at == len(out) || p.Class.Unsupported != "" || len(p.Class.Missing) > 0 || p.Class.Claims != nil {
				return Shape{}, false
			}
			out[at].Class = p.Class
		}
		out[at].Count++
	}
	return out, true
}

// Shape returns the gang's shape, and whether it has one. Of gangs that have, the shape
// decides where their minimum, the First of their members, finds room, as far as it does
// not depend on the gang's queue, its namespace or its run time. It is for gangs as NewGang
// made them.
func (g *Gang) Shape() (unique.Handle[Shape], bool) { return g.shape, g.shaped }

// First are the members of a gang with a shape that are its minimum. Nobody changes them.
func (g *Gang) First() []*Pod { n := g.Minimum(); return g.Pods[:n:n] }

// Refs name the pods that wait, in the order of members. Nobody changes them.
func (g *Gang) Refs() []PodRef { return g.refs[:len(g.refs):len(g.refs)] }
