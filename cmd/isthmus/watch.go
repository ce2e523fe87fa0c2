package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
)

// watch follows the demo's Job: a line for every change, and the members' logs.
type watch struct {
	d *demo

	mu   sync.Mutex
	said map[string]string   // last line by subject
	logs map[string][]string // what each member printed

	following sync.WaitGroup
	followed  map[string]bool
	phase     batch.JobPhase
}

func newWatch(d *demo) *watch {
	return &watch{d: d, said: map[string]string{}, logs: map[string][]string{}, followed: map[string]bool{}}
}

// follow returns once the Job has ended and the logs are complete. It fails
// with ctx, or when one of the programs has ended.
func (w *watch) follow(ctx context.Context) error {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := w.look(ctx); err != nil {
			return err
		}
		if dead := w.d.env.Dead(); len(dead) > 0 {
			return fmt.Errorf("these programs have ended: %v", dead)
		}
		if finished(w.phase) {
			w.following.Wait()
			return w.look(ctx) // the last words of pods and batch job
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("the job has not ended within %s: it is %s", w.d.timeout, w.phase)
	}
	return ctx.Err()
}

func finished(phase batch.JobPhase) bool {
	switch phase {
	case batch.Completed, batch.Failed, batch.Aborted, batch.Terminated:
		return true
	}
	return false
}

// look takes one look at everything and tells what changed.
func (w *watch) look(ctx context.Context) error {
	c := w.d.env.Client()
	var job batch.Job
	if err := c.Get(ctx, client.ObjectKey{Namespace: demoNamespace, Name: demoJob}, &job); err != nil {
		return w.transient(ctx, "get Job", err)
	}
	w.phase = job.Status.State.Phase
	if w.phase != "" {
		w.say("Job", "Job       %s: %s", job.Name, phrase(string(w.phase), job.Status.State.Reason, job.Status.State.Message))
	}
	var groups scheduling.PodGroupList
	if err := c.List(ctx, &groups, client.InNamespace(demoNamespace)); err != nil {
		return w.transient(ctx, "list PodGroups", err)
	}
	for _, g := range groups.Items {
		w.say("PodGroup/"+g.Name, "PodGroup  %s: %s", g.Name, groupPhrase(&g))
	}
	var pods corev1.PodList
	if err := c.List(ctx, &pods, client.InNamespace(demoNamespace), client.MatchingLabels{batch.JobNameKey: demoJob}); err != nil {
		return w.transient(ctx, "list pods", err)
	}
	for _, p := range pods.Items {
		w.say("Pod/"+p.Name, "Pod       %s: %s", p.Name, podPhrase(&p))
		if p.Status.Phase != corev1.PodPending && p.Status.Phase != "" && !w.followed[p.Name] {
			w.followed[p.Name] = true
			w.following.Go(func() { w.log(ctx, p.Name) })
		}
	}
	jobs, err := w.d.env.BatchJobs(ctx)
	if err != nil {
		return w.transient(ctx, "list batch jobs", err)
	}
	for _, j := range jobs {
		w.say("batch/"+j.ID, "%-9s job %s of %s: %s", w.d.env.Batch, j.ID, j.User, batchPhrase(j))
	}
	return nil
}

// transient passes over an error that the next look may not meet; a follow
// that never succeeds ends by its time-out and tells the last one.
func (w *watch) transient(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // follow tells of the end of ctx itself
	}
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		return fmt.Errorf("%s: %w", what, err)
	}
	w.say("error", "  (%s: %v)", what, err)
	return nil
}

// say prints the line unless it is what was last said of the subject.
func (w *watch) say(subject, format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	w.mu.Lock()
	same := w.said[subject] == line
	w.said[subject] = line
	w.mu.Unlock()
	if !same {
		fmt.Fprintf(w.d.out, "[%5.1fs] %s\n", time.Since(w.d.began).Seconds(), line)
	}
}

// log follows one member with `kubectl logs -f` and keeps what it printed.
func (w *watch) log(ctx context.Context, pod string) {
	// The pod's status may say Running a moment before its log can be served.
	for attempt := 1; ctx.Err() == nil; attempt++ {
		cmd := w.d.env.KubectlCommand(ctx, "logs", "-f", "-n", demoNamespace, pod)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		stdout, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			w.say("log/"+pod, "  (kubectl logs -f %s: %v)", pod, err)
			return
		}
		scanner := bufio.NewScanner(stdout)
		scanner.Buffer(nil, 1<<20)
		got := 0
		for scanner.Scan() {
			got++
			w.mu.Lock()
			w.logs[pod] = append(w.logs[pod], scanner.Text())
			w.mu.Unlock()
			fmt.Fprintf(w.d.out, "[%5.1fs]   %s | %s\n", time.Since(w.d.began).Seconds(), pod, scanner.Text())
		}
		err = errors.Join(scanner.Err(), cmd.Wait())
		if err == nil || ctx.Err() != nil {
			return
		}
		w.say("log/"+pod, "  (kubectl logs -f %s: %v: %s)", pod, err, lastLine(stderr.String()))
		if got > 0 || attempt == 10 {
			return // what was printed would be printed twice
		}
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// lastLine leaves out the many others that kubectl prints while it tries.
func lastLine(s string) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	for _, line := range slices.Backward(all) {
		if line != "" && !strings.HasPrefix(line, "error: context deadline") {
			return line
		}
	}
	return s
}

// printed returns what each member printed.
func (w *watch) printed() map[string][]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.logs)
}

func phrase(state string, more ...string) string {
	more = slices.DeleteFunc(more, func(s string) bool { return s == "" })
	if len(more) == 0 {
		return state
	}
	return state + " (" + strings.Join(more, ": ") + ")"
}

func groupPhrase(g *scheduling.PodGroup) string {
	out := string(g.Status.Phase)
	if out == "" {
		out = "new"
	}
	for _, c := range g.Status.Conditions {
		if c.Type == scheduling.PodGroupUnschedulableType && c.Status == corev1.ConditionTrue && g.Status.Phase != scheduling.PodGroupRunning {
			return phrase(out, c.Reason, c.Message)
		}
	}
	return out
}

func podPhrase(p *corev1.Pod) string {
	out := string(p.Status.Phase)
	if p.Spec.NodeName != "" {
		out += " on " + p.Spec.NodeName
	}
	if p.Status.Phase != corev1.PodPending {
		return phrase(out, p.Status.Reason, p.Status.Message)
	}
	for _, c := range p.Status.Conditions {
		if c.Status == corev1.ConditionFalse && c.Type != corev1.PodReady && c.Type != corev1.ContainersReady &&
			c.Type != corev1.PodInitialized && c.Type != corev1.PodReadyToStartContainers {
			return phrase(out, c.Reason, c.Message)
		}
	}
	return out
}

func batchPhrase(j environment.BatchJob) string {
	out := j.State
	if j.Nodes != "" {
		out += " on " + j.Nodes
	}
	reason := j.Reason
	if reason == "None" || strings.HasPrefix(reason, "(null") {
		reason = ""
	}
	return phrase(out, reason)
}
