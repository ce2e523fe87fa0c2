package scheduler_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	resourcev1 "k8s.io/api/resource/v1"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// A claim that allows more combinations of devices than can be looked through stops
// nobody, and its gang is told why it waits.
func TestClaimOfTooManyCombinations(t *testing.T) {
	const each = 12
	w := claimWorld()
	s := schedtest.Slice("a", "gpu.example.com", "x", each)
	y := "y"
	for i := range each {
		s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{
			Name: fmt.Sprintf("e-%d", i), Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"model": {StringValue: &y}},
		})
	}
	w.Claims.ResourceSlices = []*resourcev1.ResourceSlice{s}
	c := schedtest.ResourceClaim("d", "gpu", "", 1)
	one := c.Spec.Devices.Requests[0]
	c.Spec.Devices.Requests = nil
	for i := range each + 1 {
		r := *one.DeepCopy()
		r.Name = fmt.Sprintf("r%d", i)
		c.Spec.Devices.Requests = append(c.Spec.Devices.Requests, r)
	}
	at := resourcev1.FullyQualifiedName("gpu.example.com/model")
	c.Spec.Devices.Constraints = []resourcev1.DeviceConstraint{{MatchAttribute: &at}}
	w.Claims.ResourceClaims = []*resourcev1.ResourceClaim{c, schedtest.ResourceClaim("e", "gpu", "", 2)}
	claimGang(w, "g", []string{"d:d"})
	claimGang(w, "h", []string{"d:e"})
	p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now)
	if text := p.String(); !strings.Contains(text, "too many combinations") || len(p.Placements) != 1 {
		t.Errorf("want h placed, and g told of too many combinations:\n%s", text)
	}
}

// TestNoRunIsTooLongToCount: whoever says that he runs for longer than time can be counted
// neither ends before a reservation begins nor in a moment.
func TestNoRunIsTooLongToCount(t *testing.T) {
	world := func() (*schedtest.World, *schedtest.Gang) {
		w := schedtest.NewWorld()
		w.SetNode(schedtest.Real("n", resource.Quantity{Name: "cpu", Amount: 1000}, resource.Quantity{Name: "pods", Amount: 110}))
		g := w.AddGang("long", 1)
		g.Estimate, g.EstimateFrom = math.MaxInt64, snapshot.EstimateDeclared
		g.AddPods("w", 1, snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: 1000})})
		return w, g
	}
	w, _ := world()
	w.Reservations = []snapshot.Reservation{{Name: "r", UID: "r", Nodes: []string{"n"}, Start: w.Now.Add(10 * time.Minute).UnixNano(), End: w.Now.Add(time.Hour).UnixNano(), Queues: []string{"other"}}}
	if p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now); len(p.Placements) != 0 {
		t.Errorf("it is placed where others have reserved:\n%s", p)
	}
	w, g := world()
	g.Pods[0].Node, g.Pods[0].Phase, g.Pods[0].StartedAt = "n", snapshot.PodRunning, w.Now.Add(-time.Hour).UnixNano()
	w.AddGang("next", 1).AddPods("w", 1, g.Pods[0].Needs)
	p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now)
	if len(p.Heads) != 1 || p.Heads[0].Guessed || time.Unix(0, p.Heads[0].At).Before(w.Now.AddDate(100, 0, 0)) {
		t.Errorf("the start after it is planned: %+v", p.Heads)
	}
}
