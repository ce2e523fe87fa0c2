package scheduler_test

import (
	"fmt"
	"strings"
	"testing"

	resourcev1 "k8s.io/api/resource/v1"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
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
