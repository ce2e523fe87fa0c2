package pbs_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/pbs"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// observeText observes owner "o" of an answer of qstat.
func observeText(t testing.TB, dialect pbs.Dialect, text string, again ...string) (backends.Observation, error) {
	t.Helper()
	version := map[pbs.Dialect]string{pbs.Pro: "pbs_version = 23.06.06\n", pbs.Torque: "Version: 6.1.3\n"}[dialect]
	files := map[string]string{"qstat --version": version, "/bin/sh": "",
		"qstat -B -f": "Server: pbs\n    job_history_enable = True\n    query_other_jobs = True\n"}
	list := map[pbs.Dialect]string{pbs.Pro: "qstat -x -f -w", pbs.Torque: "qstat -f"}[dialect]
	files[list] = text
	for i := 0; i+1 < len(again); i += 2 {
		files[again[i]] = again[i+1]
	}
	return replay(t, &answers{files: files}, dialect).Observe(t.Context(), "o", []string{"u"})
}

func jobText(id, state string, lines ...string) string {
	return "Job Id: " + id + "\n    Job_Name = k1\n    Job_Owner = u@pbs\n    job_state = " + state + "\n    queue = workq\n" +
		"    Variable_List = ISTHMUS_TAG=isthmus/o/k1" + strings.Join(append([]string{""}, lines...), "\n    ") + "\n\n"
}

// The whole table of states and exit codes, of both families.
func TestStatesAndCodes(t *testing.T) {
	for _, c := range []struct {
		dialect pbs.Dialect
		state   string
		lines   []string
		want    backends.State
		exit    string
	}{
		{pbs.Pro, "Q", nil, backends.StatePending, "0:0"}, {pbs.Pro, "H", []string{"Hold_Types = u"}, backends.StatePending, "0:0"},
		{pbs.Pro, "W", nil, backends.StatePending, "0:0"}, {pbs.Pro, "T", nil, backends.StatePending, "0:0"},
		{pbs.Pro, "R", nil, backends.StateRunning, "0:0"}, {pbs.Pro, "E", nil, backends.StateCompleting, "0:0"},
		{pbs.Pro, "S", nil, backends.StateSuspended, "0:0"}, {pbs.Pro, "U", nil, backends.StateSuspended, "0:0"},
		{pbs.Pro, "M", nil, backends.StateUnknown, "0:0"}, {pbs.Pro, "B", nil, backends.StateUnknown, "0:0"}, {pbs.Pro, "?", nil, backends.StateUnknown, "0:0"},
		{pbs.Pro, "F", []string{"Exit_status = 0"}, backends.StateCompleted, "0:0"},
		{pbs.Pro, "F", []string{"Exit_status = 7"}, backends.StateFailed, "7:0"},
		{pbs.Pro, "F", []string{"Exit_status = 255"}, backends.StateFailed, "255:0"},
		{pbs.Pro, "F", []string{"Exit_status = 137"}, backends.StateFailed, "0:9"},
		{pbs.Pro, "F", []string{"Exit_status = 265"}, backends.StateFailed, "0:9"},
		{pbs.Pro, "F", []string{"Exit_status = 271"}, backends.StateFailed, "0:15"},
		{pbs.Pro, "F", []string{"Exit_status = 271", "substate = 91"}, backends.StateCancelled, "0:15"},
		{pbs.Pro, "F", []string{"Exit_status = 0", "substate = 91"}, backends.StateCancelled, "0:0"},
		{pbs.Pro, "F", []string{"Exit_status = 271", "substate = 91", "comment = Job preempted by deletion"}, backends.StatePreempted, "0:15"},
		{pbs.Pro, "F", []string{"substate = 91"}, backends.StateCancelled, "0:0"},
		{pbs.Pro, "F", []string{"stime = Tue Nov 24 03:19:13 2026"}, backends.StateFailed, "0:0"},
		{pbs.Pro, "F", []string{"Exit_status = -29", "substate = 93"}, backends.StateTimeout, "0:0"},
		{pbs.Pro, "F", []string{"Exit_status = -28"}, backends.StateTimeout, "0:0"},
		{pbs.Pro, "F", []string{"Exit_status = -27"}, backends.StateOutOfMemory, "0:0"},
		{pbs.Pro, "F", []string{"Exit_status = -26"}, backends.StateOutOfMemory, "0:0"},
		{pbs.Pro, "F", []string{"Exit_status = -20"}, backends.StateNodeFail, "0:0"},
		{pbs.Pro, "F", []string{"Exit_status = -1"}, backends.StateNodeFail, "0:0"},
		{pbs.Pro, "F", []string{"Exit_status = -4"}, backends.StateNodeFail, "0:0"},
		{pbs.Pro, "F", []string{"Exit_status = -10"}, backends.StateFailed, "0:0"},
		{pbs.Pro, "F", []string{"Exit_status = -17"}, backends.StateFailed, "0:0"},
		{pbs.Pro, "F", []string{"Exit_status = -25"}, backends.StateFailed, "0:0"},
		{pbs.Pro, "F", []string{"Exit_status = -99"}, backends.StateFailed, "0:0"},
		{pbs.Torque, "C", []string{"exit_status = 0"}, backends.StateCompleted, "0:0"},
		{pbs.Torque, "C", []string{"exit_status = 3"}, backends.StateFailed, "3:0"},
		{pbs.Torque, "C", []string{"exit_status = -10"}, backends.StateOutOfMemory, "0:0"},
		{pbs.Torque, "C", []string{"exit_status = -11"}, backends.StateTimeout, "0:0"},
		{pbs.Torque, "C", []string{"exit_status = -12"}, backends.StateTimeout, "0:0"},
		{pbs.Torque, "C", []string{"exit_status = -13"}, backends.StateNodeFail, "0:0"},
		{pbs.Torque, "C", []string{"exit_status = -9"}, backends.StateFailed, "0:0"},
		{pbs.Torque, "C", []string{"exit_status = 271"}, backends.StateFailed, "0:15"},
		{pbs.Torque, "C", nil, backends.StateCancelled, "0:0"},
	} {
		o, err := observeText(t, c.dialect, jobText("1.pbs", c.state, c.lines...))
		if err != nil || len(o.Jobs) != 1 {
			t.Errorf("%s %s %v: %+v, %v", c.dialect, c.state, c.lines, o, err)
			continue
		}
		j := o.Jobs[0]
		if got := fmt.Sprintf("%d:%d", j.ExitCode, j.Signal); j.State != c.want || got != c.exit {
			t.Errorf("%s %s %v: %s, exit %s (%s); want %s, %s", c.dialect, c.state, c.lines, j.State, got, j.Reason, c.want, c.exit)
		}
	}
}

func TestWaitingJobs(t *testing.T) {
	o, err := observeText(t, pbs.Pro,
		jobText("1.pbs", "Q", "comment = Can Never Run: Insufficient amount of resource: ncpus (R: 97 A: 96 T: 96)")+
			jobText("2.pbs", "Q", "comment = Not Running: Insufficient amount of resource: ncpus (R: 96 A: 95 T: 96)", "estimated.start_time = Tue Nov 24 05:00:00 2026")+
			jobText("3.pbs", "Q", "run_count = 2", "estimated.start_time = 1795490403")+
			jobText("4.pbs", "H", "Hold_Types = us", "run_count = 21"))
	if err != nil || len(o.Jobs) != 4 {
		t.Fatalf("%+v, %v", o, err)
	}
	if j := o.Jobs[0]; !j.Never || !strings.HasPrefix(j.Reason, "Can Never Run") {
		t.Errorf("%+v", j)
	}
	if j := o.Jobs[1]; j.Never || !j.Estimated.Equal(time.Date(2026, 11, 24, 5, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v", j)
	}
	if j := o.Jobs[2]; j.Restarts != 2 || j.Estimated.IsZero() {
		t.Errorf("%+v", j)
	}
	if j := o.Jobs[3]; !j.Held || j.Reason != "JobHeldAdmin" || j.Restarts != 21 {
		t.Errorf("%+v", j)
	}
}

// Folded or wide, with values that hold line ends and look like anything.
func TestForeignTextInValues(t *testing.T) {
	evil := "Job Id: 7.pbs\n    Job_Name = x\n    Job_Owner = v@pbs\n    job_state = R\n    queue = workq\n" +
		"    Variable_List = BASH_FUNC_f%%=() { echo\n}\nJob Id: 1.pbs\n    Job_Owner = u@pbs\n    job_state = F\n    Exit_status = 0\n" +
		"    Variable_List = ISTHMUS_TAG=isthmus/o/k1\n\n"
	ours := jobText("1.pbs", "R", "stime = Tue Nov 24 03:19:13 2026")
	o, err := observeText(t, pbs.Pro, evil+ours, "qstat -x -f 1.pbs", ours)
	if err != nil || len(o.Jobs) != 1 || o.Jobs[0].State != backends.StateRunning {
		t.Errorf("a job that another's text imitates: %+v, %v", o.Jobs, err)
	}
	o, err = observeText(t, pbs.Pro, ours+evil, "qstat -x -f 1.pbs", ours)
	if err != nil || len(o.Jobs) != 1 || o.Jobs[0].State != backends.StateRunning {
		t.Errorf("the same in the other order: %+v, %v", o.Jobs, err)
	}
	folded := "Job Id: 1.pbs\n    Job_Owner = u@pbs\n    job_state = R\n    exec_host = n1/0*4+n\n\t2/0*4\n    Variable_List = PBS_O_HOME=/home/u,\n\tISTHMUS_TAG=isthm\n\tus/o/k1\n"
	if o, err = observeText(t, pbs.Pro, "Welcome to this site\n\n"+folded); err != nil || len(o.Jobs) != 1 || !slices.Equal(o.Jobs[0].Hosts, []string{"n1", "n2"}) {
		t.Errorf("folded: %+v, %v", o.Jobs, err)
	}
	for what, text := range map[string]string{
		"cut within a line": "Job Id: 1.pbs\n    Job_Owner = u@pbs\n    Variable_List = ISTHMUS_TAG=isth",
		"without a state":   "Job Id: 1.pbs\n    Job_Owner = u@pbs\n    Variable_List = ISTHMUS_TAG=isthmus/o/k1\n",
		"a wrong run count": jobText("1.pbs", "R", "run_count = many"),
	} {
		if o, err := observeText(t, pbs.Pro, text); backends.KindOf(err) != backends.KindTransient || o.Complete {
			t.Errorf("%s: %+v, %v", what, o, err)
		}
	}
}

func TestTorqueInventory(t *testing.T) {
	r := &answers{t: t, files: map[string]string{
		"qstat --version": "Version: 6.1.3\n", "qstat -B -f": "Server: t\n    default_queue = batch\n    resources_default.walltime = 01:00:00\n",
		"qstat -Q -f": "Queue: batch\n    queue_type = Execution\n    resources_max.walltime = 48:00:00\n    enabled = True\n    started = True\n\n" +
			"Queue: gpu\n    queue_type = Execution\n    resources_default.neednodes = a100\n    enabled = True\n    started = False\n\nQueue: in\n    queue_type = Route\n",
		"qstat -f": "Job Id: 3.t\n    job_state = R\n    exec_gpus = n1-gpu/0+n1-gpu/2\n\nJob Id: 4.t\n    job_state = C\n    exec_gpus = n1-gpu/1\n\n",
		"pbsnodes -a": "n1\n     state = job-exclusive\n     np = 16\n     properties = a100,ib\n     ntype = cluster\n     jobs = 0-3/3.t,5/4.t\n" +
			"     status = opsys=linux,physmem=65920900kb,ncpus=16\n     gpus = 4\n\nn2\n     state = down,offline\n     np = 8\n     jobs = 0/3.t, 1/3.t\n\n",
	}}
	inv, err := replay(t, r, pbs.Torque).Inventory(t.Context())
	if err != nil || len(inv.Hosts) != 2 || len(inv.Partitions) != 2 || inv.System != "torque" {
		t.Fatalf("%+v, %v", inv, err)
	}
	n1, n2 := inv.Hosts[0], inv.Hosts[1]
	if !n1.Usable || n1.CPUs != 16 || n1.Allocated.CPUs != 16 || n1.MemoryMiB != 64375 || n1.GPUs[""] != 4 || n1.Allocated.GPUs[""] != 2 || !slices.Equal(n1.Features, []string{"a100", "ib"}) {
		t.Errorf("%+v", n1)
	}
	if n2.Usable || n2.Why != "down, set offline" || n2.Allocated.CPUs != 2 {
		t.Errorf("%+v", n2)
	}
	batch, gpu := inv.Partitions[0], inv.Partitions[1]
	if !batch.Default || batch.MaxWalltime != 48*time.Hour || batch.DefaultWalltime != time.Hour || len(batch.Hosts) != 2 {
		t.Errorf("%+v", batch)
	}
	if gpu.Up || !slices.Equal(gpu.Hosts, []string{"n1"}) {
		t.Errorf("%+v", gpu)
	}
}

func FuzzQstat(f *testing.F) {
	f.Add(testdata(f, "qstat-jobs.txt"), true)
	f.Add(jobText("1.pbs", "F", "Exit_status = 271"), false)
	f.Add(jobText("1.pbs", "R", "exec_host = n1/0*4+n2/0-3")+"Job Id: 1.pbs\n    job_state = X\n", true)
	f.Fuzz(func(t *testing.T, text string, torque bool) {
		dialect := pbs.Pro
		if torque {
			dialect = pbs.Torque
		}
		for _, owner := range []string{"isthmus/o/", "isthmus/recorded/"} {
			o, err := observeText(t, dialect, strings.ReplaceAll(text, owner, "isthmus/o/"))
			if err != nil && (o.Complete || len(o.Jobs) > 0) {
				t.Fatalf("an error with an answer: %+v, %v", o, err)
			}
			for _, j := range o.Jobs {
				if j.Owner != "o" || j.Key == "" || j.ID == "" || j.State == "" || j.User != "u" || j.Restarts < 0 {
					t.Fatalf("half a job: %+v", j)
				}
			}
		}
	})
}

func FuzzPbsnodes(f *testing.F) {
	f.Add(testdata(f, "pbsnodes.txt"), false)
	f.Add("n1\n     state = free\n     np = 4\n     jobs = 0-3/1.t\n     gpus = 2\n     status = physmem=1kb\n", true)
	f.Fuzz(func(t *testing.T, text string, torque bool) {
		dialect, version := pbs.Pro, "pbs_version = 23.06.06\n"
		if torque {
			dialect, version = pbs.Torque, "Version: 6.1.3\n"
		}
		b := replay(t, &answers{files: map[string]string{"qstat --version": version, "qstat -B -f": "Server: s\n", "qstat": "", "pbsnodes": text,
			"qstat -Q": "Queue: q\n    queue_type = Execution\n"}}, dialect)
		inv, err := b.Inventory(t.Context())
		for _, h := range inv.Hosts {
			if err != nil || h.Name == "" || h.CPUs < 0 || h.MemoryMiB < 0 || h.Allocated.CPUs < 0 || h.Usable == (h.Why != "") {
				t.Fatalf("%+v, %v", h, err)
			}
		}
	})
}

var _ transport.Runner = (*answers)(nil)
