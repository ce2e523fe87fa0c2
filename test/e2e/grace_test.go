package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// A running gang that is deleted ends as on a kubelet, although the batch system
// kills much sooner (KillWait is 5 s here): each member's preStop hook ends before
// its SIGTERM, and what it does then ends within its grace. One that is deaf is
// killed when the grace is over, and one that is given no grace at once.
func TestDeletedGangKeepsItsGrace(t *testing.T) {
	ns := namespace(t, account.Alice)
	marks := openMarks(t)
	slow := fmt.Sprintf(`trap 'sleep 8; echo term >>%[1]s/$HOSTNAME; exit 3' TERM; echo up >>%[1]s/$HOSTNAME; while :; do sleep 1; done`, marks)
	hook := fmt.Sprintf(`          lifecycle: {preStop: {exec: {command: [/bin/sh, -c, "sleep 8; echo hook >>%s/$HOSTNAME"]}}}`, marks)
	patient := strings.Replace(job{Name: "patient", Replicas: 2, Script: slow, Extra: hook}.yaml(), "terminationGracePeriodSeconds: 3", "terminationGracePeriodSeconds: 100", 1)
	apply(t, ns, patient)
	phase(t, ns, "patient", "Running", 2*time.Minute)
	read := func(member int) string {
		data, err := os.ReadFile(filepath.Join(marks, fmt.Sprintf("patient-task-%d", member)))
		if err != nil {
			return err.Error()
		}
		return strings.Join(strings.Fields(string(data)), " ")
	}
	for member := range 2 {
		eventually(t, time.Minute, "the member is up", func() (bool, string) { got := read(member); return got == "up", got })
	}
	kubectl(t, "delete", "vcjob", "patient", "-n", ns)
	for member := range 2 {
		eventually(t, 2*time.Minute, "the hook and then the program have ended", func() (bool, string) {
			got := read(member)
			return got == "up hook term", got
		})
	}
	gone := func(what string) {
		t.Helper()
		eventually(t, 2*time.Minute, what, func() (bool, string) {
			pods, jobs := strings.TrimSpace(kubectl(t, "get", "pods", "-n", ns, "-o", "name")), live(batchJobs(t))
			return pods == "" && len(jobs) == 0, fmt.Sprint(pods, jobs)
		})
	}
	gone("nothing of the gang is left")

	deaf := `trap '' TERM; while :; do sleep 1; done`
	apply(t, ns, job{Name: "deaf", Replicas: 2, Script: deaf}.yaml())
	phase(t, ns, "deaf", "Running", 2*time.Minute)
	kubectl(t, "delete", "vcjob", "deaf", "-n", ns)
	gone("the deaf gang is killed")

	hasty := strings.Replace(job{Name: "hasty", Replicas: 2, Script: deaf}.yaml(), "terminationGracePeriodSeconds: 3", "terminationGracePeriodSeconds: 600", 1)
	apply(t, ns, hasty)
	phase(t, ns, "hasty", "Running", 2*time.Minute)
	kubectl(t, "delete", "pods", "--all", "-n", ns, "--grace-period=0", "--force", "--wait=false")
	kubectl(t, "delete", "vcjob", "hasty", "-n", ns, "--wait=false")
	gone("the gang without a grace is killed at once")
}

// openMarks is a directory in which the mapped users leave files.
func openMarks(t *testing.T) string {
	t.Helper()
	marks := t.TempDir()
	for d := marks; d != filepath.Dir(d) && strings.HasPrefix(d, os.TempDir()) && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil { //nolint:gosec // the mapped users write their marks here
			t.Fatal(err)
		}
	}
	return marks
}
