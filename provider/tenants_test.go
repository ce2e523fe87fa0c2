package provider_test

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// anywhere knows every namespace.
type anywhere struct{ providertest.Objects }

// NamespaceLabels implements provider.Objects.
func (anywhere) NamespaceLabels(string) (map[string]string, bool) { return map[string]string{}, true }

// tenants is a world in which gangs of one pod belong to namespaces.
type tenants struct{ *world }

func newTenants(t *testing.T, lasts time.Duration) *tenants {
	w, _ := plain(t, lasts)
	w.bridge = newBridge(w.system, w.stager, w.api, anywhere{}, w.clock, "node-main", func(o *provider.Options) { o.Workers = 16 })
	return &tenants{world: w}
}

func (w *tenants) add(tenant string, n int) {
	w.namespace = tenant
	for i := range n {
		w.gang(fmt.Sprintf("%s-%d", tenant, i), 1)
	}
}

// submits lists the tenants in the order of their submissions.
func (w *tenants) submits() []string {
	of := map[backends.Key]string{}
	for _, p := range w.api.List() {
		of[backends.Key(p.Annotations[wellknown.SubmitIntent])] = p.Namespace
	}
	jobs := w.system.Jobs()
	number := func(j backends.Job) int {
		n, err := strconv.Atoi(string(j.ID))
		if err != nil {
			w.t.Fatal(err)
		}
		return n
	}
	slices.SortFunc(jobs, func(a, b backends.Job) int { return cmp.Compare(number(a), number(b)) })
	var out []string
	for _, j := range jobs {
		out = append(out, of[j.Key])
	}
	return out
}

// before counts the submissions of flood before the last of quiet's n.
func before(t *testing.T, submits []string, n int) int {
	t.Helper()
	floods, quiet := 0, 0
	for _, tenant := range submits {
		switch {
		case strings.HasPrefix(tenant, "flood"):
			floods++
		case tenant == "quiet":
			if quiet++; quiet == n {
				return floods
			}
		}
	}
	t.Fatalf("%d of %d gangs were submitted", quiet, n)
	return 0
}

// S8: a namespace that floods waits for itself. What another one has is worked on
// in turns with it, and not behind it.
func TestFloodIsWorkedOnInTurns(t *testing.T) {
	const flood, quiet = 1000, 10
	w := newTenants(t, time.Hour)
	w.add("flood", flood)
	w.add("quiet", quiet)
	for range 3 {
		w.tick()
	}
	n := before(t, w.submits(), quiet)
	t.Logf("S8: %d of %d submissions of the one that floods came before the last of %d of the other", n, flood, quiet)
	if n > flood/2 {
		t.Errorf("%d of %d submissions of the one that floods came first", n, flood)
	}
}

// S8: nor does it keep others out of a batch queue that it has filled: what
// becomes free there is for the namespace that has the least in it.
func TestFloodLeavesTheQueueToOthers(t *testing.T) {
	const limit, flood, quiet = 20, 300, 5
	w := newTenants(t, 30*time.Second)
	w.bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: "node-main", Partition: "main", MaxPodsPending: limit}})
	w.add("flood", flood)
	for range 4 {
		w.tick()
	}
	first := len(w.submits())
	if first == 0 || first > flood/2 {
		t.Fatalf("%d of %d were submitted: the queue is not full", first, flood)
	}
	w.add("quiet", quiet)
	for range 200 {
		w.tick()
		if n := strings.Count(strings.Join(w.submits(), " "), "quiet"); n == quiet {
			break
		}
	}
	n := before(t, w.submits(), quiet) - first
	t.Logf("S8: %d submissions of the one that floods came between the arrival of %d others and their last submission", n, quiet)
	if n > limit+quiet {
		t.Errorf("%d submissions of the one that floods came between, want at most %d", n, limit+quiet)
	}
}
