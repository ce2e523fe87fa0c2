package provider_test

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/fake"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/inventory"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// TestLicensesAndSwitches: a gang's job has the licences and switches that its pods ask
// for; while it holds all that there are, the next waits at the batch system, and the
// licences that the daemon's own jobs hold are not taken for those of others.
func TestLicensesAndSwitches(t *testing.T) {
	cfg := fake.Uniform(4, 16, 64<<10, "a100", 8)
	cfg.Licenses = map[string]int64{"fluent": 4}
	cfg.Program = func(spec backends.JobSpec) fake.Behaviour {
		if spec.Switches != 1 || spec.SwitchesWait != 10*time.Minute {
			t.Errorf("job %s starts with %d switches for %s", spec.Key, spec.Switches, spec.SwitchesWait)
		}
		return fake.Behaviour{Forever: true}
	}
	w := newWorldIn(t, providertest.Sound(), cfg)
	ask := func(name string, size int, each string) {
		for _, uid := range w.gang(name, size) {
			p := w.api.Get(uid).DeepCopy()
			p.Spec.Containers[0].Resources.Requests = p.Spec.Containers[0].Resources.Requests.DeepCopy()
			p.Spec.Containers[0].Resources.Requests[wellknown.LicensePrefix+"fluent"] = resource.MustParse(each)
			p.Annotations[wellknown.Switches] = "1@10m"
			w.api.Create(p)
		}
	}
	jobs := func() map[backends.State]int {
		out := map[backends.State]int{}
		for _, j := range w.system.Jobs() {
			out[j.State]++
			if j.State == backends.StatePending && !j.Held && j.Reason != "Licenses" {
				t.Errorf("job %s waits for %q", j.ID, j.Reason)
			}
		}
		return out
	}
	ask("one", 2, "2")
	for range 20 {
		w.tick()
	}
	ask("two", 1, "1")
	for range 20 {
		w.tick()
	}
	if got := jobs(); got[backends.StateRunning] != 1 || got[backends.StatePending] != 1 {
		t.Fatalf("jobs by state: %v, want one that runs and one that waits", got)
	}
	inv, err := w.system.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(inv.Licenses) != 1 || inv.Licenses[0].Used != 4 {
		t.Errorf("the batch system tells of %+v", inv.Licenses)
	}
	nodes := []hpcv1alpha1.VirtualNode{{Name: "node-main", Partition: "main"}, {Name: "other", Partition: "main"}}
	for i, v := range inventory.Views(nodes, inv, w.bridge.Use(), w.system.Capabilities()) {
		free := v.Allocatable[wellknown.LicensePrefix+"fluent"]
		if want := []int64{4, 0}[i]; free.Value() != want {
			t.Errorf("%s offers %s licences, want %d", v.VirtualNode.Name, free.String(), want)
		}
	}
}
