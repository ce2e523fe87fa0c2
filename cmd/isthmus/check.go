package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// result is the line that each member of the example ends with.
var result = regexp.MustCompile(`^rank (\d+) of (\d+) on \S+: all-reduce of \d+ floats = OK sum=(\d+) in `)

// check looks at the outcome, shows it, and names every check that fails.
func (d *demo) check(ctx context.Context, nodes string, w *watch) error {
	d.step("The result")
	checks := []struct {
		what string
		run  func(context.Context) (string, error)
	}{
		{"two virtual nodes were shown", func(context.Context) (string, error) { return d.checkNodes(nodes) }},
		{"all members computed the right sum", func(context.Context) (string, error) { return checkSums(w.printed()) }},
		{"all members ran on one virtual node", d.checkOneNode},
		{"exactly one batch job ran them", d.checkOneBatchJob},
		{"the Job is Completed", d.checkCompleted},
	}
	var failed []string
	for _, c := range checks {
		detail, err := c.run(ctx)
		verdict := "ok    "
		if err != nil {
			verdict, detail = "FAILED", err.Error()
			failed = append(failed, c.what)
		}
		fmt.Fprintf(d.out, "  %s  %s: %s\n", verdict, c.what, detail)
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d checks failed: %s", len(failed), len(checks), strings.Join(failed, "; "))
	}
	return nil
}

func (d *demo) checkNodes(shown string) (string, error) {
	for _, name := range d.env.Nodes {
		ready := slices.ContainsFunc(strings.Split(shown, "\n"), func(line string) bool {
			f := strings.Fields(line)
			return len(f) > 1 && f[0] == name && f[1] == "Ready"
		})
		if !ready {
			return "", fmt.Errorf("kubectl get nodes did not show %s as Ready", name)
		}
	}
	if len(d.env.Nodes) < 2 {
		return "", fmt.Errorf("there are only %v", d.env.Nodes)
	}
	return strings.Join(d.env.Nodes, ", "), nil
}

func checkSums(printed map[string][]string) (string, error) {
	ranks := map[string]string{} // rank to sum
	for _, lines := range printed {
		for _, line := range lines {
			if m := result.FindStringSubmatch(line); m != nil {
				ranks[m[1]] = m[3]
			}
		}
	}
	sum := ""
	for rank := range demoMembers {
		s, ok := ranks[fmt.Sprint(rank)]
		if !ok {
			return "", fmt.Errorf("rank %d did not print a right result", rank)
		}
		if sum != "" && s != sum {
			return "", fmt.Errorf("rank %d has the sum %s, another has %s", rank, s, sum)
		}
		sum = s
	}
	return fmt.Sprintf("ranks 0 to %d agree on %s", demoMembers-1, sum), nil
}

func (d *demo) pods(ctx context.Context) ([]corev1.Pod, error) {
	var pods corev1.PodList
	err := d.env.Client().List(ctx, &pods, client.InNamespace(demoNamespace), client.MatchingLabels{batch.JobNameKey: demoJob})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	if len(pods.Items) != demoMembers {
		return nil, fmt.Errorf("there are %d pods, not %d", len(pods.Items), demoMembers)
	}
	return pods.Items, nil
}

func (d *demo) checkOneNode(ctx context.Context) (string, error) {
	pods, err := d.pods(ctx)
	if err != nil {
		return "", err
	}
	for _, p := range pods {
		if p.Spec.NodeName != pods[0].Spec.NodeName || p.Spec.NodeName == "" {
			return "", fmt.Errorf("%s is on %q, %s on %q", p.Name, p.Spec.NodeName, pods[0].Name, pods[0].Spec.NodeName)
		}
	}
	return pods[0].Spec.NodeName, nil
}

// checkOneBatchJob counts what the batch system itself knows, which is new and
// has run nothing else, and compares it with what the pods say.
func (d *demo) checkOneBatchJob(ctx context.Context) (string, error) {
	jobs, err := d.env.BatchJobs(ctx)
	if err != nil {
		return "", fmt.Errorf("list batch jobs: %w", err)
	}
	// The components of a heterogeneous job are one job: Slurm shows each as <id>+<n>.
	var ids []string
	for _, j := range jobs {
		id, _, _ := strings.Cut(j.ID, "+")
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	if len(ids) != 1 {
		return "", fmt.Errorf("the batch system knows %d jobs: %v", len(ids), ids)
	}
	pods, err := d.pods(ctx)
	if err != nil {
		return "", err
	}
	for _, p := range pods {
		if recorded, _, _ := strings.Cut(p.Annotations[wellknown.BatchJobID], "+"); recorded != ids[0] {
			return "", fmt.Errorf("pod %s records the batch job %q, the batch system knows %s", p.Name, recorded, ids[0])
		}
	}
	shown, err := d.env.ShowBatchJob(ctx, ids[0])
	if err != nil {
		return "", fmt.Errorf("show batch job: %w", err)
	}
	d.step("The one %s job behind all four pods, in the batch system's own words", d.env.Batch)
	for line := range strings.Lines(strings.TrimRight(shown, "\n") + "\n") {
		fmt.Fprint(d.out, "    ", line)
	}
	detail := fmt.Sprintf("%s job %s of user %s", d.env.Batch, ids[0], jobs[0].User)
	if len(jobs) > 1 {
		detail += fmt.Sprintf(", a heterogeneous job: master and workers ask for different things, so it has %d components (HetJobId=%s)", len(jobs), ids[0])
	}
	return detail, nil
}

func (d *demo) checkCompleted(ctx context.Context) (string, error) {
	if _, err := d.kubectl(ctx, "get", "vcjob,podgroup,pods", "-n", demoNamespace, "-o", "wide"); err != nil {
		return "", err
	}
	var job batch.Job
	if err := d.env.Client().Get(ctx, client.ObjectKey{Namespace: demoNamespace, Name: demoJob}, &job); err != nil {
		return "", fmt.Errorf("get Job: %w", err)
	}
	if job.Status.State.Phase != batch.Completed {
		return "", fmt.Errorf("it is %s", phrase(string(job.Status.State.Phase), job.Status.State.Reason, job.Status.State.Message))
	}
	return fmt.Sprintf("%d of %d members succeeded", job.Status.Succeeded, demoMembers), nil
}
