package controllers_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	topology "volcano.sh/apis/pkg/apis/topology/v1alpha1"
)

// TestContract: every test, case and file that CONTRACT.md names exists, every row
// names one, and every field, event, action and phase of the API has a row.
func TestContract(t *testing.T) {
	page, err := os.ReadFile("CONTRACT.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	words := map[string]bool{}
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) != 3 || strings.HasPrefix(cells[0], "| Row") || strings.HasPrefix(cells[0], "|---") {
			continue
		}
		rows++
		for _, m := range quoted.FindAllStringSubmatch(cells[0]+cells[1], -1) {
			words[m[1]] = true
		}
		shown := quoted.FindAllStringSubmatch(cells[2], -1)
		if len(shown) == 0 {
			t.Errorf("row %q names no test", cells[0])
		}
		for _, m := range shown {
			if why := missing(m[1]); why != "" {
				t.Errorf("row %q: %s", cells[0], why)
			}
		}
	}
	if rows < 100 {
		t.Errorf("only %d rows were read", rows)
	}
	for _, word := range spoken() {
		if !words[word] {
			t.Errorf("%s has no row", word)
		}
	}
}

// missing says that a file, or a test and its case, is not there.
func missing(name string) string {
	folder, test, isTest := strings.Cut(name, ".Test")
	if !isTest {
		if _, err := os.Stat(filepath.Join("..", name)); err != nil {
			return err.Error()
		}
		return ""
	}
	test, text, hasCase := strings.Cut(test, "/")
	files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
	if err != nil {
		return err.Error()
	}
	found, said := false, !hasCase
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			return err.Error()
		}
		found = found || strings.Contains(string(raw), "\nfunc Test"+test+"(")
		said = said || strings.Contains(string(raw), text)
	}
	switch {
	case !found:
		return folder + " has no test named Test" + test
	case !said:
		return "the tests of " + folder + " have no case " + text
	}
	return ""
}

// spoken are the names that the API's types have.
func spoken() []string {
	var out []string
	for _, of := range []any{batch.JobSpec{}, batch.TaskSpec{}, batch.JobStatus{}, batch.JobState{}, batch.LifecyclePolicy{}, batch.VolumeSpec{}, batch.DependsOn{},
		batch.PartitionPolicySpec{}, batch.NetworkTopologySpec{}, batch.CronJobSpec{}, batch.CronJobStatus{}, scheduling.QueueSpec{}, scheduling.QueueStatus{},
		scheduling.PodGroupSpec{}, scheduling.SubGroupPolicySpec{}, flow.JobFlowSpec{}, flow.Flow{}, flow.DependsOn{}, flow.Probe{}, flow.JobFlowStatus{}, topology.HyperNodeSpec{}} {
		for i := range reflect.TypeOf(of).NumField() {
			if name, _, _ := strings.Cut(reflect.TypeOf(of).Field(i).Tag.Get("json"), ","); name != "" {
				out = append(out, name)
			}
		}
	}
	for _, e := range []bus.Event{bus.AnyEvent, bus.PodFailedEvent, bus.PodEvictedEvent, bus.PodPendingEvent, bus.PodRunningEvent, bus.JobUnknownEvent,
		bus.TaskCompletedEvent, bus.OutOfSyncEvent, bus.CommandIssuedEvent, bus.JobUpdatedEvent, bus.TaskFailedEvent} {
		out = append(out, string(e))
	}
	for _, a := range []bus.Action{bus.AbortJobAction, bus.RestartJobAction, bus.RestartTaskAction, bus.RestartPodAction, bus.RestartPartitionAction, bus.TerminateJobAction,
		bus.CompleteJobAction, bus.ResumeJobAction, bus.SyncJobAction, bus.EnqueueAction, bus.SyncQueueAction, bus.OpenQueueAction, bus.CloseQueueAction} {
		out = append(out, string(a))
	}
	for _, p := range []batch.JobPhase{batch.Pending, batch.Aborting, batch.Aborted, batch.Running, batch.Restarting, batch.Completing, batch.Completed,
		batch.Terminating, batch.Terminated, batch.Failed} {
		out = append(out, string(p))
	}
	return out
}
