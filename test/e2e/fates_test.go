package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// fate is something that befalls a pod's batch job while the daemon looks on.
type fate struct {
	name      string
	partition string
	cpus      int // 4 take a whole host
	// queued: it is met while it waits in the batch queue, not while it runs.
	queued bool
	// falls is what the administrator or the machine does to the job.
	falls func(t *testing.T, c *testbed.Cluster, id, host string)
	// then, if any, follows once the pod shows between, as sightOf has it.
	between string
	then    func(t *testing.T, c *testbed.Cluster, id, host string)
	// want is phase/reason, code.reason.restarts of the container, the reason of
	// DisruptionTarget if it is True, and how often the program began.
	want string
}

// mortal is a program that notes each of its beginnings. The first run goes on
// until it is ended; a later one ends by itself, with 6.
const mortal = `mktemp MARK.XXXXXX >/dev/null; test -e MARK && exit 6; touch MARK; exec sleep 1000`

// again is a job that was queued again: Slurm would let it wait for two minutes.
func again(t *testing.T, c *testbed.Cluster, id string) {
	t.Helper()
	slurmCommand(t, c, "scontrol", "update", "jobid="+id, "starttime=now+4")
}

func fates() []fate {
	preempt := func(partition string) func(*testing.T, *testbed.Cluster, string, string) {
		return func(t *testing.T, c *testbed.Cluster, _, _ string) {
			slurmCommand(t, c, "sbatch", "--chdir=/", "--output=/dev/null", "--partition="+partition, "--cpus-per-task=4", "--wrap=exit 0")
		}
	}
	lose := func(t *testing.T, c *testbed.Cluster, _, host string) {
		if err := c.StopHost(host); err != nil {
			t.Error(err)
		}
		// Slurm takes half a minute to notice; the administrator tells it.
		slurmCommand(t, c, "scontrol", "update", "nodename="+host, "state=down", "reason=power")
	}
	letGo := func(t *testing.T, c *testbed.Cluster, id, _ string) {
		slurmCommand(t, c, "scontrol", "release", id)
	}
	const waits = "Running/ Requeued.1 RequeuedByBatchSystem"
	return []fate{
		{
			name: "out-of-time", partition: "a", cpus: 1,
			falls: func(t *testing.T, c *testbed.Cluster, id, _ string) {
				slurmCommand(t, c, "scontrol", "update", "jobid="+id, "endtime=now+1")
			},
			want: "Failed/DeadlineExceeded 143.Error.0 1",
		},
		{
			name: "cancelled", partition: "a", cpus: 1,
			falls: func(t *testing.T, c *testbed.Cluster, id, _ string) { slurmCommand(t, c, "scancel", id) },
			want:  "Failed/BatchJobCancelled 143.Error.0 1",
		},
		{
			name: "requeued", partition: "a", cpus: 1,
			falls: func(t *testing.T, c *testbed.Cluster, id, _ string) {
				slurmCommand(t, c, "scontrol", "requeue", id)
				again(t, c, id)
			},
			want: "Failed/ 6.Error.1 2",
		},
		{
			name: "requeued-and-held", partition: "a", cpus: 1,
			falls: func(t *testing.T, c *testbed.Cluster, id, _ string) {
				slurmCommand(t, c, "scontrol", "requeuehold", id)
			},
			between: "Running/ Held.1 RequeuedByBatchSystem",
			then: func(t *testing.T, c *testbed.Cluster, id, host string) {
				letGo(t, c, id, host)
				again(t, c, id)
			},
			want: "Failed/ 6.Error.1 2",
		},
		{
			name: "held", partition: "full", cpus: 1, queued: true,
			falls:   func(t *testing.T, c *testbed.Cluster, id, _ string) { slurmCommand(t, c, "scontrol", "hold", id) },
			between: "Pending/ Held.0",
			then: func(t *testing.T, c *testbed.Cluster, id, host string) {
				letGo(t, c, id, host)
				slurmCommand(t, c, "scancel", "--name=filler")
			},
			want: "Running/ running 1",
		},
		{
			name: "held-then-cancelled", partition: "full", cpus: 1, queued: true,
			falls:   func(t *testing.T, c *testbed.Cluster, id, _ string) { slurmCommand(t, c, "scontrol", "hold", id) },
			between: "Pending/ Held.0",
			then:    func(t *testing.T, c *testbed.Cluster, id, _ string) { slurmCommand(t, c, "scancel", id) },
			want:    "Failed/BatchJobCancelled 143.Error.0 0",
		},
		{
			name: "preempted", partition: "low", cpus: 4, falls: preempt("high"),
			want: "Failed/Preempted 143.Error.0 PreemptionByBatchSystem 1",
		},
		{
			name: "preempted-and-requeued", partition: "lowagain", cpus: 4, falls: preempt("highagain"),
			between: waits, then: func(t *testing.T, c *testbed.Cluster, id, _ string) { again(t, c, id) },
			want: "Failed/ 6.Error.1 2",
		},
		{
			name: "host-lost", partition: "loss", cpus: 4,
			falls: func(t *testing.T, c *testbed.Cluster, id, host string) {
				// A user may forbid a requeue; ours does not, an administrator can.
				slurmCommand(t, c, "scontrol", "update", "jobid="+id, "requeue=0")
				lose(t, c, id, host)
			},
			want: "Failed/NodeLost 137.Error.0 BatchNodeFailure 1",
		},
		{
			name: "host-lost-and-requeued", partition: "loss", cpus: 4, falls: lose,
			between: waits,
			then: func(t *testing.T, c *testbed.Cluster, id, host string) {
				if err := c.StartHost(t.Context(), host); err != nil {
					t.Error(err)
				}
				again(t, c, id)
			},
			want: "Failed/ 6.Error.1 2",
		},
	}
}

// fateSite is a cluster on which jobs are preempted, lose their hosts and wait.
func fateSite(t *testing.T) *site {
	t.Helper()
	const name = "fates"
	host := func(prefix string, n int) testbed.Hosts {
		return testbed.Hosts{Prefix: prefix, Count: n, CPUs: 4, MemoryMiB: 4000}
	}
	return newSite(t, name, testbed.Config{
		Hosts: []testbed.Hosts{host("a", 1), host("f", 1), host("p", 1), host("q", 1), host("x", 2)},
		Partitions: []testbed.Partition{
			{Name: "a", Hosts: []string{"a1"}, Default: true},
			{Name: "full", Hosts: []string{"f1"}},
			{Name: "low", Hosts: []string{"p1"}, Extra: "PriorityTier=1 PreemptMode=CANCEL GraceTime=3"},
			{Name: "high", Hosts: []string{"p1"}, Extra: "PriorityTier=10 PreemptMode=OFF"},
			{Name: "lowagain", Hosts: []string{"q1"}, Extra: "PriorityTier=1 PreemptMode=REQUEUE GraceTime=0"},
			{Name: "highagain", Hosts: []string{"q1"}, Extra: "PriorityTier=10 PreemptMode=OFF"},
			{Name: "loss", Hosts: []string{"x[1-2]"}},
		},
		Extra: []string{"PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE"},
	}, func(_ *testbed.Cluster, b *hpcv1alpha1.BatchCluster) {
		b.Spec.Nodes = nil
		for _, p := range []string{"a", "full", "low", "lowagain", "loss"} {
			b.Spec.Nodes = append(b.Spec.Nodes, hpcv1alpha1.VirtualNode{Name: name + "-" + p, Partition: p, MaxPodsPending: 1000})
		}
	})
}

// sightOf is what a user sees of a pod.
func sightOf(p *corev1.Pod) string {
	out := shows(p)
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			out += " " + c.Reason
		}
	}
	return out
}

// Each way in which an administrator, another job or a broken host ends a batch
// job of a real Slurm, or begins it anew, shows in the pod as on the fake
// (provider TestFates): its phase, reason, exit code, restart count and
// disruption. A job that is queued again keeps its id.
func TestFatesOnSlurm(t *testing.T) {
	t.Parallel()
	s := fateSite(t)
	ns := namespace(t, account.Alice)
	dir := openMarks(t)
	slurmCommand(t, s.slurm, "sbatch", "--chdir=/", "--output=/dev/null", "--job-name=filler", "--partition=full", "--cpus-per-task=4", "--wrap=sleep 1000")
	list := fates()
	for _, f := range list {
		placed(t, ns, s.name+"-"+f.partition, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  schedulerName: nobody
  restartPolicy: Never
  terminationGracePeriodSeconds: 2
  containers:
  - {name: main, image: none, command: [/bin/sh, -c, %q], resources: {requests: {cpu: %[3]d, memory: 64Mi}, limits: {cpu: %[3]d, memory: 64Mi}}}
`, f.name, strings.ReplaceAll(mortal, "MARK", filepath.Join(dir, f.name)), f.cpus))
	}
	ids, hosts := map[string]string{}, map[string]string{}
	look := func(name string) *corev1.Pod {
		t.Helper()
		p := &corev1.Pod{}
		if err := here(t).Client().Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	eventually(t, 2*time.Minute, "every pod has come to where its fate meets it", func() (bool, string) {
		var not []string
		for _, f := range list {
			p := look(f.name)
			ids[f.name], hosts[f.name] = p.Annotations[wellknown.BatchJobID], p.Annotations[wellknown.BatchNode]
			got := sightOf(p)
			if ids[f.name] == "" || f.queued && !strings.HasPrefix(got, "Pending/ ") || !f.queued && (got != "Running/ running" || hosts[f.name] == "") {
				not = append(not, fmt.Sprintf("%s: %q, job %q, host %q", f.name, got, ids[f.name], hosts[f.name]))
			}
		}
		return len(not) == 0, strings.Join(not, "; ")
	})
	for _, f := range list {
		f.falls(t, s.slurm, ids[f.name], hosts[f.name])
	}
	t.Cleanup(func() {
		if t.Failed() {
			ctx, cancel := cleanup(t)
			defer cancel()
			out, err := s.slurm.Run(ctx, "scontrol", "show", "job")
			t.Logf("scontrol show job: %v\n%s", err, out)
		}
	})
	met := map[string]bool{}
	eventually(t, 3*time.Minute, "every pod shows its fate", func() (bool, string) {
		var not []string
		for _, f := range list {
			p := look(f.name)
			got := sightOf(p)
			if f.between != "" && !met[f.name] {
				if got == f.between {
					met[f.name] = true
					f.then(t, s.slurm, ids[f.name], hosts[f.name])
				}
				not = append(not, fmt.Sprintf("%s: %q, first %q", f.name, got, f.between))
				continue
			}
			began, err := filepath.Glob(filepath.Join(dir, f.name+".??????"))
			if err != nil {
				t.Fatal(err)
			}
			if got = fmt.Sprintf("%s %d", got, len(began)); got != f.want {
				not = append(not, fmt.Sprintf("%s: %q (%s), want %q", f.name, got, p.Status.Message, f.want))
			}
		}
		return len(not) == 0, strings.Join(not, "; ")
	})
	for _, f := range list {
		if id := look(f.name).Annotations[wellknown.BatchJobID]; id != ids[f.name] {
			t.Errorf("%s: job %s became %s", f.name, ids[f.name], id)
		}
	}
}

// placed makes a pod and binds it to a node, as a scheduler that knows nothing of
// Isthmus does.
func placed(t *testing.T, ns, node, manifest string) {
	t.Helper()
	apply(t, ns, manifest)
	name := strings.TrimSpace(strings.SplitN(strings.SplitN(manifest, "metadata: {name: ", 2)[1], "}", 2)[0])
	name, _, _ = strings.Cut(name, ",")
	kubectl(t, "create", "--raw", "/api/v1/namespaces/"+ns+"/pods/"+name+"/binding", "-f", manifestFile(t, asJSON(t, map[string]any{
		"apiVersion": "v1", "kind": "Binding", "metadata": map[string]any{"name": name},
		"target": map[string]any{"apiVersion": "v1", "kind": "Node", "name": node},
	})))
}
