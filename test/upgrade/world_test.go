//go:build upgrade

package upgrade_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
)

// world is what runs: jobs in cohorts, each begun by one version.
type world struct {
	*testing.T
	env     *environment.Environment
	marks   string // every container leaves a file NAME.INDEX.* here when it starts
	cohorts []string
	ends    []end
	starts  map[string]int // how often containers start until the end, by name
	jobs    int
}

// end is what a pod comes to.
type end struct {
	pod      string
	code     int32
	restarts int32
}

// record is all that must not change, a line each.
type record []string

func (r record) count(prefix string) (n int) {
	for _, line := range r {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(w.Context(), 3*time.Minute)
	defer cancel()
	cmd := w.env.KubectlCommand(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

func (w *world) kubectl(args ...string) string {
	w.Helper()
	out, err := w.try(args...)
	w.must(err)
	return out
}

func (w *world) apply(ns, text string) {
	w.Helper()
	file := filepath.Join(w.TempDir(), "objects.yaml")
	w.must(os.WriteFile(file, []byte(text), 0o600))
	// A kind that has just been defined, or changed, is refused by policies for a moment.
	w.eventually(2*time.Minute, "the objects are taken", func() (bool, string) {
		_, err := w.try("apply", "-n", ns, "-f", file)
		return err == nil, fmt.Sprint(err)
	})
}

func (w *world) slurm(argv ...string) string {
	w.Helper()
	out, err := w.env.Slurm().Run(w.Context(), argv...)
	w.must(err)
	return out
}

func (w *world) eventually(limit time.Duration, what string, look func() (ok bool, saw string)) {
	w.Helper()
	deadline := time.Now().Add(limit)
	for {
		ok, saw := look()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("not within %s: %s; last seen:\n%s", limit, what, saw)
		}
		select {
		case <-w.Context().Done():
			w.Fatalf("%s: %v", what, w.Context().Err())
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func list[L client.ObjectList](w *world, into L) L {
	w.Helper()
	w.must(w.env.Client().List(w.Context(), into, client.InNamespace("default")))
	return into
}

// record looks at everything: objects, jobs at Slurm, starts of containers.
func (w *world) record() record {
	w.Helper()
	var out record
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	pods := list(w, &corev1.PodList{}).Items
	var guests corev1.PodList
	w.must(w.env.Client().List(w.Context(), &guests, client.InNamespace("guest")))
	for _, p := range append(pods, guests.Items...) {
		var containers []string
		for _, c := range p.Status.ContainerStatuses {
			state := "waits"
			if c.State.Running != nil {
				state = "runs since " + c.State.Running.StartedAt.UTC().Format(time.RFC3339)
			}
			containers = append(containers, fmt.Sprintf("%s restarted %d times %s", c.Name, c.RestartCount, state))
		}
		add("pod %s %s on %s as job %s: %s %v", p.Name, p.UID, p.Spec.NodeName, p.Annotations[wellknown.BatchJobID], p.Status.Phase, containers)
	}
	for _, j := range list(w, &batch.JobList{}).Items {
		add("vcjob %s %s: %s version %d retries %d running %d", j.Name, j.UID, j.Status.State.Phase, j.Status.Version, j.Status.RetryCount, j.Status.Running)
	}
	for _, g := range list(w, &scheduling.PodGroupList{}).Items {
		add("podgroup %s %s: %s running %d", g.Name, g.UID, g.Status.Phase, g.Status.Running)
	}
	for _, f := range list(w, &flow.JobFlowList{}).Items {
		add("jobflow %s %s: %s runs %v waits %v done %v", f.Name, f.UID, f.Status.State.Phase, f.Status.RunningJobs, f.Status.PendingJobs, f.Status.CompletedJobs)
	}
	for _, c := range list(w, &batch.CronJobList{}).Items {
		var active []string
		for _, a := range c.Status.Active {
			active = append(active, a.Name)
		}
		// Times within a minute have one Job, and only the last is on record.
		add("cronjob %s %s: active %v", c.Name, c.UID, active)
	}
	for _, r := range list(w, &hpcv1alpha1.ReservationList{}).Items {
		add("reservation %s %s: %s %d nodes", r.Name, r.UID, r.Status.Phase, r.Status.Nodes)
	}
	for _, c := range list(w, &apiextensions.CustomResourceDefinitionList{}).Items {
		if c.Name != "datasets.hpc.isthmus.sh" { // which the previous version does not have; it stays when it is gone back to
			add("definition %s stores %v", c.Name, c.Status.StoredVersions)
		}
	}
	for line := range strings.Lines(w.slurm("squeue", "--all", "--noheader", "--states=PENDING,RUNNING,SUSPENDED,COMPLETING", "--format=%i|%j|%T|%S")) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, "|PENDING|") {
			line = line[:strings.LastIndex(line, "|")] // when it may start changes
		}
		add("batch %s", line)
	}
	files, err := os.ReadDir(w.marks)
	w.must(err)
	for _, f := range files {
		if strings.Count(f.Name(), ".") == 2 {
			add("mark %s", f.Name())
		}
	}
	slices.Sort(out)
	return out
}

// begun counts the starts of containers by name.
func (w *world) begun() map[string]int {
	w.Helper()
	files, err := os.ReadDir(w.marks)
	w.must(err)
	out := map[string]int{}
	for _, f := range files {
		if parts := strings.Split(f.Name(), "."); len(parts) == 3 {
			out[parts[0]]++
		}
	}
	return out
}
