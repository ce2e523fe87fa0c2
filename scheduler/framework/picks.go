package framework

import "github.com/isthmus-hpc/isthmus/scheduler/snapshot"

// PodPicker is a plugin that has to know which pods are of some kind; nil is none.
type PodPicker interface{ Picks() *snapshot.Picks }

// Picks is which pods the pipeline's plugins have to know of, as the first of them that
// has to says; nil for none. What a profile says is not asked.
func (p Pipeline) Picks() *snapshot.Picks {
	for _, pl := range p.Plugins {
		if m, ok := pl.(Muted); ok {
			pl = m.Plugin
		}
		if x, ok := pl.(PodPicker); ok {
			if picks := x.Picks(); picks != nil {
				return picks
			}
		}
	}
	return nil
}
