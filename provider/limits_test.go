package provider_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/fake"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/account"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// pending counts the pods of jobs that wait in the batch queue.
func (w *world) pending() int {
	n := 0
	for _, j := range w.system.Jobs() {
		if j.State == backends.StatePending {
			for _, p := range w.api.List() {
				if p.Annotations[wellknown.SubmitIntent] == string(j.Key) {
					n++
				}
			}
		}
	}
	return n
}

// No more pods wait in the batch queue than the node may have there; gangs go
// in whole, the others wait in Kubernetes with the reason, and all run in time.
func TestMaxPodsPending(t *testing.T) {
	const limit = 20
	w, _ := plain(t, 30*time.Second)
	w.bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: "node-main", Partition: "main", MaxPodsPending: limit}})
	for i := range 80 {
		w.gang(fmt.Sprintf("gang%d", i), 1+i%4)
	}
	big := w.gang("big", limit+2) // larger than the limit: alone, or it would wait for ever
	most, told := 0, false
	for range 400 {
		w.tick()
		n := w.pending()
		if n > limit && n != len(big) {
			t.Fatalf("%d pods wait in the batch queue", n)
		}
		most = max(most, n)
		left := 0
		for _, p := range w.api.List() {
			if p.Status.Phase != corev1.PodSucceeded {
				left++
			}
			for _, c := range p.Status.Conditions {
				told = told || c.Reason == "BatchQueueFull" && strings.Contains(c.Message, "maxPodsPending 20")
			}
		}
		if left == 0 {
			break
		}
	}
	for _, p := range w.api.List() {
		if p.Status.Phase != corev1.PodSucceeded {
			t.Errorf("pod %s is %s: %+v", p.Name, p.Status.Phase, p.Status.Conditions)
		}
	}
	if most < limit/2 {
		t.Errorf("at most %d pods waited: the batch queue was never full", most)
	}
	if !told {
		t.Error("no pod told that the queue is full")
	}
	events := map[string]int{}
	for _, e := range w.api.Events() {
		if strings.Contains(e, "BatchQueueFull") {
			events[e]++
		}
	}
	for e, n := range events {
		if n > 1 {
			t.Errorf("%d times %s", n, e)
		}
	}
	t.Logf("at most %d pods waited in the queue; %d pods told why they waited", most, len(events))
}

// S7: whatever namespaces, labels, annotations and service accounts there are, a
// job runs as the user of the first entry that selects the namespace, or not at
// all, and one record tells of every submission.
func TestNoSubmissionOutsideTheMapping(t *testing.T) {
	const tuples = 10_000
	entries := []hpcv1alpha1.Account{
		{User: "alice", NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{"team": "physics"}}, Account: "phys"},
		{User: "bob", NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "bio"}}},
	}
	names := []string{"bio", "physics", "chem", "kube-system", "default"}
	teams := []string{"", "physics", "bio"}
	claims := []string{"alice", "bob", "root", "0", "carol"}
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test that can be repeated
	api, namespaces := providertest.NewAPI(), labelled{}
	var records []account.Submission
	system := &recorder{Backend: fake.New(fake.Uniform(4, 16, 64<<10, "a100", 8))}
	bridge := provider.NewBridge(provider.Options{
		Cluster: &hpcv1alpha1.BatchCluster{ObjectMeta: metav1.ObjectMeta{Name: "test"}, Spec: hpcv1alpha1.BatchClusterSpec{
			Type: "slurm", Accounts: entries, Runtimes: []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost}, Staging: hpcv1alpha1.Staging{Directory: "/staging"},
		}},
		Owner: owner, Launcher: "slurm", Backend: system, Stager: providertest.NewStager(), Pods: api, Objects: &namespaces,
		Log: logr.Discard(), Workers: 1, Audit: func(s account.Submission) { records = append(records, s) },
	})
	bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: "node-main", Partition: "main", MaxPodsPending: 1 << 20}})
	want := map[string]string{} // by pod UID
	outside, submitted := 0, 0
	for i := range tuples {
		name, team := names[rng.IntN(len(names))], teams[rng.IntN(len(teams))]
		namespaces.labels = map[string]string{"kubernetes.io/metadata.name": name}
		if team != "" {
			namespaces.labels["team"] = team
		}
		pod := w0(i, name)
		pod.Spec.ServiceAccountName = claims[rng.IntN(len(claims))]
		for _, key := range []string{wellknown.BatchUser, wellknown.Account, "isthmus.sh/user", "slurm.com/user"} {
			if rng.IntN(2) == 0 {
				pod.Annotations[key] = claims[rng.IntN(len(claims))]
			}
		}
		switch {
		case pod.Annotations[wellknown.Account] != "": // none of the entries allows a choice
		case team == "physics":
			want[string(pod.UID)] = "alice"
		case name == "bio":
			want[string(pod.UID)] = "bob"
		}
		api.Create(pod)
		system.specs, records = nil, nil
		bridge.Pass(t.Context(), i == 0)
		bridge.Wait()
		for _, s := range system.specs {
			submitted++
			if s.User != want[string(pod.UID)] || (s.User == "alice") != (s.Account == "phys") {
				outside++
				t.Errorf("tuple %d: namespace %s team %q ran as %s, account %q", i, name, team, s.User, s.Account)
			}
		}
		if len(records) != len(system.specs) {
			t.Fatalf("%d records of %d submissions", len(records), len(system.specs))
		}
		for _, r := range records {
			if r.User != want[string(pod.UID)] || len(r.PodUIDs) != 1 || r.PodUIDs[0] != string(pod.UID) || r.Namespace != name ||
				len(r.ServiceAccounts) != 1 || r.ServiceAccounts[0] != pod.Spec.ServiceAccountName || r.JobID == "" || r.Outcome != account.Submitted {
				t.Errorf("record %+v", r)
			}
		}
		if got := len(system.specs); (got == 1) != (want[string(pod.UID)] != "") {
			t.Errorf("tuple %d: %d submissions for user %q", i, got, want[string(pod.UID)])
		}
		gone := api.Get(pod.UID) // its job is not of interest any more
		api.Delete(pod.UID, metav1.Now())
		for api.Get(pod.UID) != nil {
			if err := api.Forget(t.Context(), api.Get(pod.UID)); err != nil {
				t.Fatalf("forget %s: %v", gone.Name, err)
			}
		}
	}
	t.Logf("S7: %d tuples, %d submissions, %d outside the mapping", tuples, submitted, outside)
	if submitted < tuples/10 {
		t.Errorf("only %d submissions", submitted)
	}
}

// w0 is a pod of its own, bound to the node.
func w0(i int, namespace string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i), Namespace: namespace, UID: types.UID(fmt.Sprintf("uid-%d", i)), Annotations: map[string]string{}},
		Spec: corev1.PodSpec{
			NodeName: "node-main", RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64(30)),
			Containers: []corev1.Container{{Name: "main", Image: "none", Command: []string{"true"}}},
		},
	}
}

// recorder keeps what was submitted, and runs nothing.
type recorder struct {
	backends.Backend
	last  int
	specs []backends.JobSpec
}

func (r *recorder) Submit(_ context.Context, spec backends.JobSpec) (backends.JobID, error) {
	r.specs = append(r.specs, spec)
	r.last++
	return backends.JobID(fmt.Sprint(r.last)), nil
}

// Release implements backends.Backend.
func (r *recorder) Release(context.Context, backends.JobRef) error { return nil }

// labelled has every namespace, with the labels of the moment.
type labelled struct {
	providertest.Objects
	labels map[string]string
}

// NamespaceLabels implements provider.Objects.
func (l *labelled) NamespaceLabels(string) (map[string]string, bool) { return l.labels, true }

// What our jobs that wait will take is known from their own directories, in the
// order of the queue, for the views of partitions that share hosts.
func TestWaitingJobsAreKnown(t *testing.T) {
	w := newWorld(t, time.Hour, providertest.Sound())
	w.gang("full", 64) // all CPUs there are
	for range 3 {
		w.tick()
	}
	w.gang("first", 3)
	for range 3 {
		w.tick()
	}
	w.gang("second", 2)
	for range 3 {
		w.tick()
	}
	var got []int
	for _, job := range w.bridge.Use()["node-main"].Waiting {
		if len(job.Tags) == 0 {
			t.Error("a job that waits has no tag: schedulers count its pods twice")
		}
		for _, c := range job.Components {
			if c.CPUs != 1 || c.MemoryMiB != 1024 {
				t.Errorf("a task that waits takes %+v", c)
			}
			got = append(got, c.Tasks)
		}
	}
	if !slices.Equal(got, []int{3, 2}) {
		t.Errorf("tasks that wait: %v, want 3 of the first and 2 of the second", got)
	}
}
