package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
)

// A Reservation of a virtual node is one of Slurm as well: a job that somebody submits
// there waits, the owner's pod comes in, and once the Reservation is deleted the job
// does, while the pod goes on.
func TestReservationAtSlurm(t *testing.T) {
	if here(t).Slurm() == nil {
		t.Skip("SKIP: the reservation is Slurm's, which cannot run here or this run was told not to")
	}
	ns := namespace(t, account.Alice)
	node := kubectl(t, "get", "nodes", "-l", "isthmus.sh/partition=h100", "-o", "jsonpath={.items[0].metadata.name}")
	set := func(how string) []string {
		return []string{"patch", "batchcluster", environment.ClusterName, "--type=merge", "-p", `{"spec":{"reservations":` + how + `}}`}
	}
	kubectl(t, set(`"batch"`)...)
	t.Cleanup(func() { kubectlAfter(t, set("null")...) })
	apply(t, ns, `
apiVersion: hpc.isthmus.sh/v1alpha1
kind: Reservation
metadata: {name: e2e-slurm}
spec: {duration: 1h, nodes: {names: [`+node+`]}, owners: {namespaces: [`+ns+`]}}
`)
	t.Cleanup(func() { kubectlAfter(t, "delete", "reservation", "e2e-slurm", "--ignore-not-found") })
	eventually(t, 2*time.Minute, "the Reservation is held, by Slurm as well", func() (bool, string) {
		out := kubectl(t, "get", "reservation", "e2e-slurm", "-o", `jsonpath={.status.batch[0].state} {.status.conditions[?(@.type=="Held")].status} {.status}`)
		return strings.HasPrefix(out, "InForce True "), out
	})
	name := kubectl(t, "get", "reservation", "e2e-slurm", "-o", "jsonpath={.status.batch[0].name}")
	if out := slurmRun(t, "scontrol", "--oneliner", "show", "reservation", name); !strings.Contains(out, " Users="+account.Alice+" ") {
		t.Errorf("Slurm has %s", out)
	}
	stranger := slurmRun(t, "sbatch", "--parsable", "--uid="+account.Bob, "--partition=h100", "--time=30", "--chdir=/tmp", "--output=/dev/null", "--wrap=sleep 600")
	defer func() {
		if _, err := here(t).Slurm().Run(t.Context(), "scancel", stranger); err != nil {
			t.Error(err)
		}
	}()
	state := func() string {
		return slurmRun(t, "squeue", "--noheader", "--states=all", "--jobs="+stranger, "--format=%T %r")
	}

	apply(t, ns, job{Name: "mine", Replicas: 1, Script: "exec sleep 600", Pod: onH100}.yaml())
	phase(t, ns, "mine", "Running", 2*time.Minute)
	pod := kubectl(t, "get", "pod", "mine-task-0", "-n", ns, "-o", `jsonpath={.metadata.annotations.isthmus\.sh/reserved-by} {.metadata.annotations.isthmus\.sh/batch-job-id}`)
	by, id, _ := strings.Cut(pod, " ")
	if by != "e2e-slurm" {
		t.Errorf("the pod was placed by reservation %q", by)
	}
	if out := slurmRun(t, "squeue", "--noheader", "--jobs="+id, "--format=%v"); out != name {
		t.Errorf("its job is in reservation %q, want %s", out, name)
	}
	if out := state(); !strings.HasPrefix(out, "PENDING") {
		t.Errorf("a stranger's job on the reserved hosts is %s", out)
	}
	kubectl(t, "delete", "reservation", "e2e-slurm")
	eventually(t, 2*time.Minute, "Slurm has no reservation any more, and the stranger's job runs", func() (bool, string) {
		out := state() + "; " + slurmRun(t, "scontrol", "--oneliner", "show", "reservation")
		return strings.HasPrefix(out, "RUNNING") && !strings.Contains(out, name), out
	})
	if out := slurmRun(t, "squeue", "--noheader", "--jobs="+id, "--format=%T"); out != "RUNNING" {
		t.Errorf("the owner's job is %s", out)
	}
	kubectl(t, "delete", "vcjob", "mine", "-n", ns)
}
