package framework_test

import (
	"fmt"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

func of(key, app string) snapshot.PeerTerm {
	return snapshot.PeerTerm{Key: key, Namespaces: []string{"default"}, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}
}

// TestKeptOrderIsTheOrder puts pods on nodes, takes them back and asks what-ifs in
// random turns: what is kept up to date is what a look at all nodes finds.
func TestKeptOrderIsTheOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := schedtest.NewWorld()
		for i := range 12 {
			n := schedtest.Real(fmt.Sprintf("n%02d", i), resource.Quantity{Name: "cpu", Amount: 1000 * int64(rapid.IntRange(1, 9).Draw(t, "cpu"))},
				resource.Quantity{Name: "nvidia.com/gpu", Amount: int64(rapid.IntRange(0, 4).Draw(t, "gpu"))}, resource.Quantity{Name: "pods", Amount: 20})
			n.Labels = map[string]string{"host": n.Name, "zone": fmt.Sprint(i % 3)}
			n.Unschedulable = rapid.IntRange(0, 3).Draw(t, "cordoned") == 0
			w.SetNode(n)
		}
		for i, requests := range [][]resource.Quantity{{{Name: "cpu", Amount: 1000}}, {{Name: "cpu", Amount: 500}, {Name: "nvidia.com/gpu", Amount: 1}}, nil, {{Name: "cpu", Amount: 6000}}, {{Name: "cpu", Amount: 2000}, {Name: "nvidia.com/gpu", Amount: 3}}} {
			c := snapshot.ClassSpec{Requests: resource.MakeList(requests...)}
			switch rapid.IntRange(0, 8).Draw(t, "peers") { // most say nothing of others, and nobody of them
			case 0:
				c.Peers = &snapshot.Peers{Apart: []snapshot.PeerTerm{of(rapid.SampledFrom([]string{"host", "zone"}).Draw(t, "key"), "a")}}
			case 1:
				c.Peers = &snapshot.Peers{Prefer: []snapshot.WeightedTerm{{PeerTerm: of("zone", "a"), Weight: 5}}}
			case 2:
				c.Peers = &snapshot.Peers{Spread: []snapshot.SpreadTerm{{PeerTerm: of("zone", "b"), MaxSkew: 1, Hard: rapid.Bool().Draw(t, "hard")}}}
			case 3, 4:
				c.Namespace, c.Labels = "default", map[string]string{"app": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "app")}
			}
			w.AddGang(fmt.Sprint("g", i), 1).AddPods("w", 1, c)
		}
		s := w.Snapshot()
		ses := framework.NewSession(schedtest.Pipeline(), s, w.Now)
		agree := func() {
			for _, g := range s.Gangs {
				for dim := range s.Dims.Len() {
					kept, anew, free, again := framework.Ranked(ses, g, dim, rapid.Bool().Draw(t, "short"))
					if !slices.Equal(kept, anew) || free != again {
						t.Fatalf("gang %s: kept %v and %d free, found %v and %d", g.Name, kept, free, anew, again)
					}
				}
				kept, anew, largest, most := framework.Short(ses, g)
				if !slices.Equal(kept, anew) || !slices.Equal(largest, most) {
					t.Fatalf("gang %s: lacks %v of at most %v as kept, %v of %v as found", g.Name, kept, largest, anew, most)
				}
			}
		}
		put := func() {
			g := s.Gangs[rapid.IntRange(0, len(s.Gangs)-1).Draw(t, "gang")]
			node := rapid.IntRange(0, 11).Draw(t, "node")
			if ses.Txn.Room(node, g.Pods[0].Class, 1) > 0 {
				ses.Txn.Put(node, snapshot.Item{Job: "j", Class: g.Pods[0].Class, Count: 1})
			}
		}
		marks := []snapshot.Mark{ses.Txn.Checkpoint()}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1:
				put()
			case 2:
				marks = append(marks, ses.Txn.Checkpoint())
			case 3:
				at := rapid.IntRange(0, len(marks)-1).Draw(t, "mark")
				ses.Txn.Rollback(marks[at])
				marks = marks[:at+1]
			case 4:
				ses.WhatIf(ses.Txn.Fork(), func() { put(); agree(); put(); agree() })
			}
			if rapid.Bool().Draw(t, "look") {
				agree()
			}
		}
		agree()
	})
}
