package main

import (
	"fmt"
	"testing"
	"time"
)

// elasticScenes are those in which a gang is made smaller for another, grows, and is moved
// from a node that is used too much.
func elasticScenes() []act {
	return []act{
		{
			name: "shrink", actions: ", elastic", kinds: append([]string{nominates}, twice(evicts, binds)...),
			set: func(t *testing.T, s *stage) {
				s.node(t, "na", 4, 0)
				s.join(t, &party{name: "wide", size: 4, least: 2, gpus: 1})
			},
			turns: func(t *testing.T, s *stage) { s.join(t, &party{name: "next", size: 2, gpus: 1}) },
			ends: func(s *stage) string {
				return firstOf(s.placed("next"), s.wentHalf("wide", 2), s.are("wide", 2))
			},
		},
		{
			name: "growth", actions: ", elastic", kinds: append(twice(binds), twice(binds)...),
			set: func(t *testing.T, s *stage) {
				s.node(t, "na", 4, 0)
				s.join(t, &party{name: "wide", size: 4, least: 2, gpus: 1})
			},
			turns: func(t *testing.T, s *stage) {
				s.node(t, "nb", 4, 0)
				s.mu.Lock()
				defer s.mu.Unlock()
				s.parties["wide"].size = 8 // its owner makes the others
			},
			ends: func(s *stage) string { return firstOf(s.placed("wide"), s.wentHalf("wide", 0)) },
		},
		{
			name: "shuffle", actions: ", shuffle", kinds: append([]string{nominates}, twice(evicts, binds)...),
			set: func(t *testing.T, s *stage) {
				s.node(t, "na", 4, 0)
				for _, name := range []string{"a", "b"} {
					s.join(t, &party{name: name, size: 2, gpus: 1, moves: true, ran: time.Hour, on: []string{"na", "na"}})
				}
			},
			turns: func(t *testing.T, s *stage) { s.node(t, "nb", 4, 0) },
			ends: func(s *stage) string {
				return firstOf(s.placed("a", "b"), s.oneWent(true, "a", "b"), s.apart("a", "b"))
			},
		},
	}
}

// levelled is the configuration of the plugin that moves gangs from full nodes.
const levelled = `actions: "enqueue, allocate, shuffle"
tiers:
- plugins:
  - {name: gang}
  - {name: proportion}
  - {name: predicates}
  - name: rescheduling
    arguments:
      strategies:
      - name: lowNodeUtilization
        params: {thresholds: {nvidia.com/gpu: 20}, targetThresholds: {nvidia.com/gpu: 60}}
`

// are says what is wrong unless so many members of a gang are placed.
func (s *stage) are(name string, want int) string {
	if got := len(s.live(name)); got != want {
		return fmt.Sprintf("gang %s has %d members placed, want %d", name, got, want)
	}
	return ""
}

// apart says what is wrong unless each gang is on one node, and no two on the same.
func (s *stage) apart(names ...string) string {
	has := map[string]string{}
	for _, name := range names {
		for _, p := range s.live(name) {
			if other := has[p.Spec.NodeName]; other != "" && other != name {
				return fmt.Sprintf("gangs %s and %s are both on %s", other, name, p.Spec.NodeName)
			}
			has[p.Spec.NodeName] = name
		}
	}
	if len(has) != len(names) {
		return fmt.Sprintf("the gangs are on %v", has)
	}
	return ""
}
