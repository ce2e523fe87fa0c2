package e2e

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// A Job that says how long it runs has a batch job that may take so long and a
// margin, and no longer; a walltime that its pods ask for counts for more.
func TestRunningEstimate(t *testing.T) {
	if here(t).Slurm() == nil {
		t.Skip("SKIP: Slurm's own list of jobs is looked at, and Slurm cannot run here or this run was told not to")
	}
	ns := namespace(t, account.Alice)
	limits := map[string]string{"declared": "45:00", "short": "12:00", "asked": "20:00"}
	apply(t, ns, job{Name: "declared", Replicas: 2, Script: "exec sleep 600", Spec: "  runningEstimate: 30m"}.yaml())
	apply(t, ns, job{Name: "short", Replicas: 1, Script: "exec sleep 600", Spec: "  runningEstimate: 2m"}.yaml())
	apply(t, ns, strings.Replace(job{Name: "asked", Replicas: 1, Script: "exec sleep 600", Spec: "  runningEstimate: 30m"}.yaml(),
		"    template:\n", "    template:\n      metadata: {annotations: {isthmus.sh/walltime: 20m}}\n", 1))
	for name, want := range limits {
		phase(t, ns, name, "Running", 2*time.Minute)
		id := kubectl(t, "get", "pods", "-n", ns, "-l", "volcano.sh/job-name="+name, "-o", `jsonpath={.items[0].metadata.annotations.isthmus\.sh/batch-job-id}`)
		got, err := here(t).Slurm().Run(t.Context(), "squeue", "--noheader", "--jobs="+id, "--format=%l")
		if got = strings.TrimSpace(got); err != nil || got != want {
			t.Errorf("Slurm gives job %s of %s %q (%v), want %q", id, name, got, err, want)
		}
	}
	eventually(t, time.Minute, "the pods' events tell why", func() (bool, string) {
		out := kubectl(t, "get", "events", "-n", ns, "--field-selector", "reason=Note", "-o", "jsonpath={.items[*].message}")
		return strings.Contains(out, "the batch job is given 45m0s: the run time that is declared, 30m0s, and a margin"), out
	})
}

// A virtual node says how long a job that is submitted now is expected to wait, as
// Slurm expects it of those that wait, and gangs that can go elsewhere do.
func TestExpectedStart(t *testing.T) {
	if here(t).Slurm() == nil {
		t.Skip("SKIP: the expected start is Slurm's, which cannot run here or this run was told not to")
	}
	ns := namespace(t, account.Alice)
	node := kubectl(t, "get", "nodes", "-l", "isthmus.sh/partition=a100", "-o", "jsonpath={.items[0].metadata.name}")
	other := kubectl(t, "get", "nodes", "-l", "isthmus.sh/partition=h100", "-o", "jsonpath={.items[0].metadata.name}")
	timed := func(j job, walltime string) string {
		return strings.Replace(j.yaml(), "    template:\n", "    template:\n      metadata: {annotations: {isthmus.sh/walltime: "+walltime+"}}\n", 1)
	}
	wait := func() string {
		return kubectl(t, "get", "node", node, "-o", `jsonpath={.metadata.annotations.isthmus\.sh/queue-wait-seconds}`)
	}
	eventually(t, time.Minute, "nothing waits", func() (bool, string) { return wait() == "0", wait() })
	apply(t, ns, timed(job{Name: "holder", Replicas: 1, GPUs: 8, Script: "exec sleep 900", Pod: onA100}, "20m"))
	phase(t, ns, "holder", "Running", 2*time.Minute)

	// Somebody else's job needs both hosts and is next, so that one may not pass it
	// that would still run when the holder has to end.
	id, err := here(t).Slurm().Run(t.Context(), "sbatch", "--parsable", "--uid="+account.Bob, "--partition=a100", "--nodes=2", "--exclusive",
		"--time=30", "--chdir=/tmp", "--output=/dev/null", "--wrap=sleep 60")
	if err != nil {
		t.Fatal(err)
	}
	id = strings.TrimSpace(id)
	defer func() {
		if _, err := here(t).Slurm().Run(t.Context(), "scancel", id); err != nil {
			t.Error(err)
		}
		kubectl(t, "delete", "vcjob", "--all", "-n", ns)
		eventually(t, 2*time.Minute, "nothing waits any more", func() (bool, string) { return wait() == "0", wait() })
	}()
	apply(t, ns, timed(job{Name: "waiter", Replicas: 1, GPUs: 4, Script: "exec sleep 900", Pod: onA100}, "60m"))
	eventually(t, 2*time.Minute, "the node says that jobs wait", func() (bool, string) {
		seconds, err := strconv.Atoi(wait())
		return err == nil && seconds > 600, wait()
	})
	// It would fill the node up, which is what counts as long as nothing waits there.
	apply(t, ns, job{Name: "free", Replicas: 1, GPUs: 4, Script: "echo done"}.yaml())
	phase(t, ns, "free", "Completed", 2*time.Minute)
	if got := kubectl(t, "get", "pod", "free-task-0", "-n", ns, "-o", "jsonpath={.spec.nodeName}"); got != other {
		t.Errorf("a gang that starts at once on %s waits on %s", other, got)
	}
}

// A Job that names a Dataset goes where it is, and its containers are told the path;
// one that names what does not exist says so.
func TestExpectedStartWithData(t *testing.T) {
	if here(t).Slurm() == nil {
		t.Skip("SKIP: the partitions are Slurm's, which cannot run here or this run was told not to")
	}
	ns := namespace(t, account.Alice)
	apply(t, ns, `
apiVersion: hpc.isthmus.sh/v1alpha1
kind: Dataset
metadata: {name: image-net}
spec:
  size: 1200Gi
  bandwidth: 250M
  locations:
  - {nodes: {isthmus.sh/partition: h100}, path: /data/image-net}
`)
	reads := func(name, dataset string) string {
		return strings.Replace(job{Name: name, Replicas: 1, Script: `echo "at $ISTHMUS_DATASET_IMAGE_NET"`}.yaml(),
			"metadata:\n", "metadata:\n  annotations: {isthmus.sh/datasets: "+dataset+"}\n", 1)
	}
	apply(t, ns, reads("reader", "image-net"))
	apply(t, ns, reads("lost", "imagenet"))
	phase(t, ns, "reader", "Completed", 2*time.Minute)
	if on := kubectl(t, "get", "pod", "reader-task-0", "-n", ns, "-o", `jsonpath={.spec.nodeName}`); !strings.HasSuffix(on, "-h100") {
		t.Errorf("it is on %s, and its data on the node of partition h100", on)
	}
	if log := kubectl(t, "logs", "-n", ns, "reader-task-0"); log != "at /data/image-net\n" {
		t.Errorf("the container says %q", log)
	}
	eventually(t, time.Minute, "the other says what is missing", func() (bool, string) {
		out := kubectl(t, "get", "podgroup", "-n", ns, "-o", `jsonpath={.items[*].status.conditions[*].message}`)
		return strings.Contains(out, `Dataset "imagenet" does not exist in namespace `+ns), out
	})
	// A typing error is mended in place by the Dataset of that name.
	apply(t, ns, "apiVersion: hpc.isthmus.sh/v1alpha1\nkind: Dataset\nmetadata: {name: imagenet}\nspec: {size: 1Gi, locations: [{cluster: none, path: /x}]}\n")
	phase(t, ns, "lost", "Completed", 2*time.Minute)
}
