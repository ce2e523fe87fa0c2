package controllers_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
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
	bare := map[string]bool{}
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
		for _, w := range strings.FieldsFunc(cells[0]+" "+cells[1], func(r rune) bool { return strings.ContainsRune(" ,;|`", r) }) {
			bare[strings.TrimSpace(w)] = true
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
	for _, word := range strings.Fields(reference) {
		if !bare[word] {
			t.Errorf("%s has no row", word)
		}
	}
}

// reference is what the types of the API do not name: states, reasons, objects,
// plugins with their arguments, and keys.
const reference = `
	Open Closed Closing Unknown
	Unschedulable Scheduled NotEnoughResources NotEnoughTasks NotEnoughPodsOfTask PodFailed PodDeleted
	Pending Inqueue Running Completed Succeed Failed Terminating retain delete
	fifo traverse hard soft any all none best-effort restricted single-numa-node Allow Forbid Replace
	exactMatch regexMatch labelMatch
	env svc ssh tensorflow pytorch mpi ray hcclrank
	--publish-not-ready-addresses --disable-network-policy --inject-hosts-env
	--ssh-key-file-path --ssh-private-key --ssh-public-key --ssh-port
	--ps --worker --chief --evaluator --port --master --wait-master-enabled --wait-master-timeout --wait-master-image
	--head --headContainer --workerContainer --dashboardPort --clientPort
	VK_TASK_INDEX VC_TASK_INDEX TF_CONFIG MASTER_ADDR MASTER_PORT WORLD_SIZE RANK MPI_HOST hccl/rankIndex
	task-index task-spec job-name job-namespace queue-name job-version template-uid job-retry-count numa-topology-policy partition-id job-forwarding
	preemptable cooldown-time revocable-zone jdb-min-available jdb-max-unavailable
	group-name group-min-member group-min-resources queue-allocation-gate
	network-topology-mode network-topology-highest-tier network-topology-source job-allocated-hypernode topology-decision
	hierarchy hierarchy-weights nodegroup-resource-limits closed-by-parent nodegroup-name
	sla-waiting-time task-priority task-topology task-topology-affinity task-topology-anti-affinity task-topology-task-order
	resource-strategy-scoring-type resource-strategy-weight
	vgpu-number vgpu-memory vgpu-cores vgpu-memory-percentage gpu-memory gpu-number
	vgpu-mode vgpu-podgroup-policy vgpu-use-gpuuuid vgpu-nouse-gpuuuid vgpu-node vgpu-time vgpu-ids-new vgpu-ids devices-to-allocate bind-time bind-phase
	node-vgpu-register gpu-index predicate-time gpu-unhealthy-ids nvidia.com/use-gputype nvidia.com/nouse-gputype
	createdByJobTemplate createdByJobFlow cronjob-scheduled-timestamp controller-out-of-sync resource-group qos-level oversubscription
`

// missing says that a file, or a test and its case, is not there.
func missing(name string) string {
	folder, test, isTest := strings.Cut(name, ".Test")
	if !isTest {
		if _, err := os.Stat(filepath.Join("..", name)); err != nil {
			return err.Error()
		}
		return ""
	}
	test, name, hasCase := strings.Cut(test, "/")
	said, err := textsOf(filepath.Join("..", folder), "Test"+test)
	switch {
	case err != nil:
		return err.Error()
	case said == nil:
		return folder + " has no test named Test" + test
	case hasCase && !said[name]:
		return folder + ".Test" + test + " has no case of exactly the name " + name
	}
	return ""
}

// textsOf are the texts that a test function holds, itself or in what it uses of its
// own package's tests: among them are the names of its cases. nil says that there is
// no such test.
func textsOf(folder, test string) (map[string]bool, error) {
	declared, err := declarations(folder)
	if err != nil {
		return nil, err
	}
	if _, ok := declared[test].(*ast.FuncDecl); !ok {
		return nil, nil
	}
	texts, seen, todo := map[string]bool{}, map[string]bool{}, []string{test}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if seen[name] || declared[name] == nil {
			continue
		}
		seen[name] = true
		ast.Inspect(declared[name], func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Ident:
				todo = append(todo, n.Name)
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					texts[text] = true
				}
			}
			return true
		})
	}
	return texts, nil
}

// parsed remembers what declarations found, which is asked for many times.
var parsed = map[string]map[string]ast.Node{}

// declarations are the functions and variables of a folder's tests by name.
func declarations(folder string) (map[string]ast.Node, error) {
	if found := parsed[folder]; found != nil {
		return found, nil
	}
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		return nil, err
	}
	found := map[string]ast.Node{}
	for _, f := range files {
		file, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					found[d.Name.Name] = d
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if v, ok := s.(*ast.ValueSpec); ok {
						for _, n := range v.Names {
							found[n.Name] = v
						}
					}
				}
			}
		}
	}
	parsed[folder] = found
	return found, nil
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
