package framework

import "github.com/isthmus-hpc/isthmus/scheduler/snapshot"

// seating gathers pods that are put on nodes one at a time: those of a class that are on
// the same node are one assignment.
type seating struct {
	out []Assignment
	at  map[taken]int // position in out
}

type taken struct {
	node  int
	class *snapshot.Class
}

func newSeating() *seating { return &seating{at: map[taken]int{}} }

// add notes that a pod was put on a node, with devices there or none.
func (s *seating) add(node int, p *snapshot.Pod, devices [][]string) {
	key := taken{node, p.Class}
	k, known := s.at[key]
	if !known {
		k = len(s.out)
		s.at[key] = k
		s.out = append(s.out, Assignment{Node: node})
	}
	a := &s.out[k]
	a.Pods, a.Devices = append(a.Pods, p), append(a.Devices, devices...)
}
