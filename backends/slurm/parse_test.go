package slurm_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurm"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

func at(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }

func TestRecordedJobs(t *testing.T) {
	r := recorded(t)
	o, err := backend(t, r).Observe(t.Context(), "recorded", []string{"isthmus-bob", "isthmus-alice", "isthmus-bob"})
	if err != nil || !o.Complete || len(r.asked) != 1 {
		t.Fatalf("%v, complete %t, %d commands", err, o.Complete, len(r.asked))
	}
	if !slices.Contains(r.asked[0].Argv, "--user=isthmus-alice,isthmus-bob") || r.asked[0].User != "" {
		t.Errorf("asked %q as %q", r.asked[0].Argv, r.asked[0].User)
	}
	type brief struct {
		key      backends.Key
		state    backends.State
		reason   string
		held     bool
		never    bool
		restarts int
		hosts    string
		exit     string
		times    string // which of submitted, started, ended, estimated are set
	}
	want := map[backends.JobID]brief{
		"1":  {"k1", backends.StatePending, "JobHeldUser", true, false, 0, "", "0:0", "s"},
		"2":  {"k2", backends.StateCompleted, "", false, false, 0, "gpu1", "0:0", "sSe"},
		"3":  {"k3", backends.StateFailed, "NonZeroExitCode", false, false, 0, "gpu1", "3:0", "sSe"},
		"4":  {"k4", backends.StateFailed, "JobLaunchFailure", false, false, 0, "gpu1", "0:9", "sSe"},
		"5":  {"k5", backends.StateCancelled, "", false, false, 0, "gpu1", "0:15", "sSe"},
		"6":  {"k6", backends.StateRunning, "", false, false, 0, "gpu1", "0:0", "sS"},
		"7":  {"k7", backends.StateRunning, "", false, false, 0, "gpu3 cpu1", "0:0", "sS"},
		"9":  {"k8", backends.StatePending, "BeginTime", false, false, 1, "", "0:0", "sE"},
		"10": {"k9", backends.StatePending, "Resources", false, false, 0, "", "0:0", "sE"},
		"11": {"k10", backends.StatePending, "BadConstraints", false, true, 0, "", "0:0", "s"},
		"12": {"k11", backends.StateSuspended, "", false, false, 0, "cpu1", "0:0", "sS"},
		"13": {"k12", backends.StatePending, "JobHeldUser", true, false, 0, "", "0:0", "s"},
	}
	var ids []string
	for _, j := range o.Jobs {
		ids = append(ids, string(j.ID))
		got := brief{j.Key, j.State, j.Reason, j.Held, j.Never, j.Restarts, strings.Join(j.Hosts, " "), fmt.Sprintf("%d:%d", j.ExitCode, j.Signal), ""}
		for i, when := range []time.Time{j.Submitted, j.Started, j.Ended, j.Estimated} {
			if !when.IsZero() {
				got.times += string("sSeE"[i])
			}
		}
		if got != want[j.ID] {
			t.Errorf("job %s\n got %+v\nwant %+v", j.ID, got, want[j.ID])
		}
		if j.Owner != "recorded" || j.User != "isthmus-alice" {
			t.Errorf("job %s of %s, user %s", j.ID, j.Owner, j.User)
		}
	}
	if len(ids) != len(want) || !slices.IsSorted(ids) {
		t.Errorf("ids %v", ids)
	}
	if o, err = backend(t, recorded(t)).Observe(t.Context(), "other", nil); err != nil || len(o.Jobs) != 0 {
		t.Errorf("another owner: %+v, %v", o, err)
	}
}

func TestRecordedInventory(t *testing.T) {
	inv, err := backend(t, recorded(t)).Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if inv.System != "slurm" || inv.Version != "22.05.8" {
		t.Errorf("%s %s", inv.System, inv.Version)
	}
	var hosts []string
	for _, h := range inv.Hosts {
		hosts = append(hosts, fmt.Sprintf("%s %s %t %q cpu=%d/%d mem=%d/%d gpu=%v/%v feat=%v", h.Name, h.State, h.Usable, h.Why,
			h.Allocated.CPUs, h.CPUs, h.Allocated.MemoryMiB, h.MemoryMiB, h.Allocated.GPUs, h.GPUs, h.Features))
		if !strings.HasPrefix(h.Addr, "127.") {
			t.Errorf("host %s has address %q", h.Name, h.Addr)
		}
	}
	want := []string{
		`cpu1 MIXED true "" cpu=1/16 mem=20/64000 gpu=map[]/map[] feat=[]`,
		`cpu2 IDLE+DRAIN false "drained" cpu=0/16 mem=0/64000 gpu=map[]/map[] feat=[]`,
		`cpu3 DOWN false "down" cpu=0/16 mem=0/64000 gpu=map[]/map[] feat=[]`,
		`gpu1 MIXED true "" cpu=8/64 mem=2000/500000 gpu=map[a100:4]/map[a100:8] feat=[nvlink]`,
		`gpu2 IDLE+PLANNED true "" cpu=0/64 mem=0/500000 gpu=map[]/map[a100:8] feat=[nvlink]`,
		`gpu3 MIXED true "" cpu=8/64 mem=2000/500000 gpu=map[a100:4]/map[a100:8] feat=[nvlink]`,
		`gpu4 IDLE+MAINTENANCE+RESERVED false "in maintenance, reserved" cpu=0/64 mem=0/500000 gpu=map[]/map[a100:8] feat=[nvlink]`,
	}
	if !slices.Equal(hosts, want) {
		t.Errorf("hosts\n%s\nwant\n%s", strings.Join(hosts, "\n"), strings.Join(want, "\n"))
	}
	got := fmt.Sprintf("%+v", inv.Partitions)
	const wantParts = "[{Name:a Up:true Default:true Hosts:[gpu1 gpu2] MaxWalltime:24h0m0s DefaultWalltime:1h0m0s}" +
		" {Name:b Up:true Default:false Hosts:[cpu1 cpu2 cpu3 gpu3 gpu4] MaxWalltime:0s DefaultWalltime:0s}" +
		" {Name:off Up:false Default:false Hosts:[cpu1 cpu2 cpu3] MaxWalltime:0s DefaultWalltime:0s}]"
	if got != wantParts {
		t.Errorf("partitions %s", got)
	}
	if got := fmt.Sprintf("%+v", inv.Licenses); got != "[{Name:db@server Total:4 Used:0} {Name:fluent Total:8 Used:3}]" {
		t.Errorf("licences %s", got)
	}
}

// line is one answer of squeue; a field is set by its position in the request.
type line [16]string

func component(id string) line {
	return line{id, "N/A", "N/A", "isthmus/o/k", "alice", "p", "RUNNING", "1", "None", "0", "h1", "100", "200", "300", "0", "N/A"}
}

func (l line) with(changes map[int]string) line {
	for i, v := range changes {
		l[i] = v
	}
	return l
}

const (
	fLeader, fOffset, fState, fPriority, fReason, fRestarts, fNodes, fStart, fEnd, fExit, fPreempted = 1, 2, 6, 7, 8, 9, 10, 12, 13, 14, 15
)

// squeue answers with the lines, in the separator that was asked for.
func squeue(lines ...line) *replay {
	return &replay{answer: func(c transport.Command) (transport.Result, error) {
		var b strings.Builder
		for _, l := range lines {
			for _, v := range l {
				b.WriteString(v + nonceOf(c.Argv))
			}
			b.WriteString("\n")
		}
		return transport.Result{Stdout: []byte(b.String())}, nil
	}}
}

func observe(t *testing.T, r *replay) (backends.Observation, error) {
	t.Helper()
	return backend(t, r).Observe(t.Context(), "o", []string{"alice"})
}

func one(t *testing.T, lines ...line) backends.Job {
	t.Helper()
	o, err := observe(t, squeue(lines...))
	if err != nil || len(o.Jobs) != 1 {
		t.Fatalf("%v gives %+v, %v", lines, o, err)
	}
	return o.Jobs[0]
}

// A job that ends by itself in the grace of a preemption fails, by Slurm's word; it
// was preempted all the same. One of an earlier run was not.
func TestPreemptedWithGrace(t *testing.T) {
	for _, c := range []struct {
		word, at string
		want     backends.State
	}{
		{"FAILED", "250", backends.StatePreempted},
		{"FAILED", "200", backends.StatePreempted},
		{"FAILED", "150", backends.StateFailed},
		{"FAILED", "N/A", backends.StateFailed},
		{"COMPLETED", "250", backends.StateCompleted},
		{"CANCELLED", "250", backends.StateCancelled},
		{"RUNNING", "250", backends.StateRunning},
	} {
		if j := one(t, component("1").with(map[int]string{fState: c.word, fPreempted: c.at})); j.State != c.want {
			t.Errorf("%s, from 200 to 300, preempted at %s: %s, want %s", c.word, c.at, j.State, c.want)
		}
	}
}

func TestStates(t *testing.T) {
	for word, want := range map[string]backends.State{
		"PENDING": "Pending", "CONFIGURING": "Pending", "REQUEUED": "Pending", "REQUEUE_HOLD": "Pending", "REQUEUE_FED": "Pending",
		"SPECIAL_EXIT": "Pending", "RESV_DEL_HOLD": "Pending", "RUNNING": "Running", "RESIZING": "Running", "SIGNALING": "Running",
		"SUSPENDED": "Suspended", "STOPPED": "Suspended", "COMPLETING": "Completing", "STAGE_OUT": "Completing", "COMPLETED": "Completed",
		"FAILED": "Failed", "CANCELLED": "Cancelled", "TIMEOUT": "Timeout", "DEADLINE": "Timeout", "OUT_OF_MEMORY": "OutOfMemory",
		"NODE_FAIL": "NodeFail", "BOOT_FAIL": "NodeFail", "PREEMPTED": "Preempted", "REVOKED": "Unknown", "LAUNCH_FAILED": "Unknown",
		"RECONFIG_FAIL": "Unknown", "UPDATE_DB": "Unknown", "NEW_IN_2030": "Unknown",
	} {
		j := one(t, component("1").with(map[int]string{fState: word}))
		if j.State != want {
			t.Errorf("%s is read as %s, want %s", word, j.State, want)
		}
		if held := word == "REQUEUE_HOLD" || word == "SPECIAL_EXIT" || word == "RESV_DEL_HOLD"; j.Held != held {
			t.Errorf("%s: held %t", word, j.Held)
		}
		if j.Ended.IsZero() == j.State.Terminal() {
			t.Errorf("%s: ended %v", word, j.Ended)
		}
	}
}

func TestReasons(t *testing.T) {
	for reason, class := range map[string]string{
		"Priority": "wait", "Resources": "wait", "Dependency": "wait", "BeginTime": "wait", "Licenses": "wait", "ReqNodeNotAvail": "wait",
		"Reservation": "wait", "QOSGrpCpuLimit": "wait", "AssocGrpGRES": "wait", "QOSMaxJobsPerUserLimit": "wait", "AssocMaxJobsLimit": "wait",
		"QOSMaxGRESPerUser": "wait", "PartitionDown": "wait", "PartitionConfig": "wait", "None": "wait", "SomethingNew": "wait",
		"PartitionTimeLimit": "never", "PartitionNodeLimit": "never", "BadConstraints": "never", "InvalidAccount": "never", "InvalidQOS": "never",
		"DependencyNeverSatisfied": "never", "MaxMemPerLimit": "never", "AccountNotAllowed": "never", "AssocMaxCpuPerJobLimit": "never",
		"AssocMaxWallDurationPerJobLimit": "never", "QOSMaxWallDurationPerJobLimit": "never", "QOSMaxGRESPerJob": "never",
		"QOSMaxNodePerJobLimit": "never", "QOSMinGRES": "never",
		"JobHeldUser": "held", "JobHeldAdmin": "held", "JobHoldMaxRequeue": "held", "launch_failed_requeued_held": "held", "ReservationDeleted": "held",
	} {
		j := one(t, component("1").with(map[int]string{fState: "PENDING", fReason: reason, fNodes: ""}))
		got := map[[2]bool]string{{false, false}: "wait", {true, false}: "held", {false, true}: "never"}[[2]bool{j.Held, j.Never}]
		if got != class {
			t.Errorf("%s is %q, want %s", reason, got, class)
		}
	}
	// Priority 0 is a hold whatever the reason, but for what Slurm gave up on.
	for reason, held := range map[string]bool{"Dependency": true, "Resources": true, "BadConstraints": false} {
		if j := one(t, component("1").with(map[int]string{fState: "PENDING", fReason: reason, fPriority: "0"})); j.Held != held {
			t.Errorf("priority 0 with %s: held %t", reason, j.Held)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for text, want := range map[string][2]int{
		"0": {0, 0}, "768": {3, 0}, "65280": {255, 0}, "9": {0, 9}, "139": {0, 11}, // 128 is the core dump flag
		"0:0": {0, 0}, "3:0": {3, 0}, "0:9": {0, 9}, "0:125": {0, 125}, "N/A": {0, 0},
	} {
		j := one(t, component("1").with(map[int]string{fState: "FAILED", fExit: text}))
		if j.ExitCode != want[0] || j.Signal != want[1] {
			t.Errorf("%s is read as exit %d, signal %d", text, j.ExitCode, j.Signal)
		}
	}
}

func TestComponentsFold(t *testing.T) {
	part := func(offset int, changes map[int]string) line {
		l := component(fmt.Sprint(10 + offset)).with(map[int]string{fLeader: "10", fOffset: fmt.Sprint(offset), fNodes: fmt.Sprintf("h%d", offset)})
		return l.with(changes)
	}
	state := func(w string) map[int]string { return map[int]string{fState: w} }
	for _, c := range []struct {
		parts  []string
		want   backends.State
		reason string
	}{
		{[]string{"PENDING", "PENDING"}, backends.StatePending, ""},
		{[]string{"RUNNING", "PENDING"}, backends.StatePending, ""},
		{[]string{"RUNNING", "RUNNING"}, backends.StateRunning, ""},
		{[]string{"COMPLETED", "COMPLETING"}, backends.StateCompleting, ""},
		{[]string{"COMPLETED", "RUNNING"}, backends.StateRunning, ""},
		{[]string{"COMPLETED", "COMPLETED"}, backends.StateCompleted, ""},
		{[]string{"FAILED", "COMPLETED"}, backends.StateFailed, ""},
		{[]string{"FAILED", "CANCELLED"}, backends.StateFailed, ""},
		{[]string{"COMPLETED", "NODE_FAIL"}, backends.StateNodeFail, ""},
		{[]string{"CANCELLED", "CANCELLED"}, backends.StateCancelled, ""},
	} {
		var lines []line
		for i, w := range c.parts {
			lines = append(lines, part(i, state(w)))
		}
		slices.Reverse(lines) // squeue gives them in any order
		if j := one(t, lines...); j.State != c.want || j.ID != "10" || j.Key != "k" || strings.Join(j.Hosts, " ") != "h0 h1" {
			t.Errorf("%v folds to %+v, want %s", c.parts, j, c.want)
		}
	}
	held := one(t, part(0, map[int]string{fState: "PENDING", fReason: "Resources"}), part(1, map[int]string{fState: "PENDING", fReason: "JobHeldUser", fPriority: "0"}))
	if !held.Held {
		t.Error("a job with a held component does not read held")
	}
	late := one(t, part(0, map[int]string{fState: "COMPLETED", fEnd: "300", fRestarts: "1", fExit: "256"}), part(1, map[int]string{fState: "COMPLETED", fEnd: "310", fRestarts: "2"}))
	if !late.Ended.Equal(at(310)) || late.Restarts != 2 || late.ExitCode != 1 {
		t.Errorf("folded %+v", late)
	}
	waits := one(t, part(0, map[int]string{fState: "PENDING", fStart: "500", fNodes: ""}), part(1, map[int]string{fState: "PENDING", fStart: "600", fNodes: ""}))
	if !waits.Estimated.Equal(at(600)) || !waits.Started.IsZero() {
		t.Errorf("folded %+v", waits)
	}
}

func TestHalfAnAnswerIsNone(t *testing.T) {
	good := component("1")
	for what, r := range map[string]*replay{
		"cut in a field":        cut(squeue(good, good), 20),
		"cut before the end":    cut(squeue(good), 1),
		"an error message":      fixed(transport.Result{Stdout: []byte("slurm_load_jobs error: Socket timed out\n")}),
		"exit 1":                fixed(transport.Result{Exit: 1, Stderr: []byte("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")}),
		"id is a word":          squeue(good.with(map[int]string{0: "all"})),
		"no state":              squeue(good.with(map[int]string{fState: ""})),
		"time is a date":        squeue(good.with(map[int]string{fStart: "2026-01-01T00:00:00"})),
		"exit is a word":        squeue(good.with(map[int]string{fExit: "many"})),
		"restarts is a word":    squeue(good.with(map[int]string{fRestarts: "many"})),
		"leader is a word":      squeue(good.with(map[int]string{fLeader: "x", fOffset: "0"})),
		"offset is a word":      squeue(good.with(map[int]string{fLeader: "1", fOffset: "x"})),
		"endless list of hosts": squeue(good.with(map[int]string{fNodes: "n[0-99999999]"})),
	} {
		o, err := observe(t, r)
		if backends.KindOf(err) != backends.KindTransient || o.Complete || len(o.Jobs) != 0 {
			t.Errorf("%s: %+v, %v", what, o, err)
		}
	}
	// What is not ours need not make sense.
	if o, err := observe(t, squeue(good, line{"??", "", "", "(null)", "\xff", "", "", "", "", "x", "[", "", "", "", ""})); err != nil || len(o.Jobs) != 1 || !o.Complete {
		t.Errorf("beside a strange job: %+v, %v", o, err)
	}
	if o, err := observe(t, squeue()); err != nil || len(o.Jobs) != 0 || !o.Complete {
		t.Errorf("no jobs: %+v, %v", o, err)
	}
}

// cut takes bytes off the end of an answer.
func cut(r *replay, n int) *replay {
	return &replay{answer: func(c transport.Command) (transport.Result, error) {
		res, err := r.answer(c)
		res.Stdout = res.Stdout[:len(res.Stdout)-n]
		return res, err
	}}
}

func TestFederatedCluster(t *testing.T) {
	inner := squeue(component("1"))
	r := &replay{answer: func(c transport.Command) (transport.Result, error) {
		res, err := inner.answer(c)
		res.Stdout = append([]byte("CLUSTER: east\n"), res.Stdout...)
		return res, err
	}}
	b, err := slurm.New(slurm.Config{Runner: r, Cluster: "east"})
	if err != nil {
		t.Fatal(err)
	}
	o, err := b.Observe(t.Context(), "o", nil)
	if err != nil || len(o.Jobs) != 1 || r.asked[0].Argv[1] != "--clusters=east" {
		t.Errorf("%+v, %v, asked %q", o, err, r.asked[0].Argv)
	}
}

func node(changes map[string]string) string {
	values := map[string]string{"CPUTot": "8", "RealMemory": "1000", "State": "IDLE", "Gres": "(null)", "GresUsed": "gpu:0"}
	maps.Copy(values, changes)
	out := "NodeName=n1"
	for _, k := range slices.Sorted(maps.Keys(values)) {
		out += " " + k + "=" + values[k]
	}
	return out + " \n"
}

// hosts reads an answer to "show node".
func hosts(t *testing.T, answer string) ([]backends.Host, error) {
	t.Helper()
	rec := recorded(t)
	inv, err := backend(t, &replay{answer: func(c transport.Command) (transport.Result, error) {
		if c.Argv[len(c.Argv)-1] == "node" {
			return transport.Result{Stdout: []byte(answer)}, nil
		}
		return rec.answer(c)
	}}).Inventory(t.Context())
	return inv.Hosts, err
}

func TestHostStates(t *testing.T) {
	for state, why := range map[string]string{
		"IDLE": "", "MIXED": "", "ALLOCATED": "", "COMPLETING": "", "IDLE+CLOUD+POWERED_DOWN": "", "MIXED+PLANNED": "", "IDLE~": "", "IDLE#": "", "IDLE-": "",
		"IDLE+DYNAMIC_NORM": "", "ALLOCATED+COMPLETING": "", "IDLE+SOMETHING_NEW": "",
		"IDLE*": "not responding", "DOWN*": "down, not responding", "IDLE+DRAIN": "drained", "MIXED+DRAIN": "drained", "DOWN+NOT_RESPONDING": "down, not responding",
		"IDLE+RESERVED": "reserved", "IDLE+MAINTENANCE": "in maintenance", "MAINT": "in maintenance", "IDLE+POWERING_DOWN": "powering down", "IDLE%": "powering down",
		"FUTURE": "future", "UNKNOWN": "unknown", "IDLE+FAIL": "fail", "DOWN+INVALID_REG": "down, invalid reg", "IDLE@": "reboot pending", "IDLE^": "rebooting", "NEW_BASE": "in state NEW_BASE",
	} {
		got, err := hosts(t, node(map[string]string{"State": state}))
		if err != nil || len(got) != 1 || got[0].Why != why || got[0].Usable != (why == "") {
			t.Errorf("%s: %+v, %v; want %q", state, got, err, why)
		}
	}
}

func TestHostAmounts(t *testing.T) {
	for gres, want := range map[string]string{
		"(null)": "map[]", "gpu:4": "map[:4]", "gpu": "map[:1]", "gpu:a100:4(S:0-3)": "map[a100:4]", "gpu:a100:4(IDX:0-1,3),gpu:h100:2(IDX:N/A)": "map[a100:4 h100:2]",
		"gpu:a100:2,gpu:a100:2": "map[a100:4]", "shard:a100:32,gpu:a100:4": "map[/shard:32 a100:4]", "gpu:t4:1,shard:4(0/4),shard": "map[/shard:5 t4:1]", "craynetwork:4K": "map[]", "gpu:1g.5gb:7": "map[1g.5gb:7]",
		"gpu:a100:no_consume:4": "map[]", "gpu:a100:2K": "map[a100:2048]", "gpu:a100:0": "map[]",
	} {
		got, err := hosts(t, node(map[string]string{"Gres": gres}))
		if err != nil || fmt.Sprint(got[0].GPUs) != want {
			t.Errorf("%s: %v, %v; want %s", gres, got, err, want)
		}
	}
	for used, want := range map[string][2]int64{
		"gpu:t4:0(IDX:N/A),shard:t4:2(IDX:0-1)": {2, 2}, "shard:1(IDX:3)": {1, 1}, "shard:t4:0(IDX:N/A)": {0, 0}, "gpu:t4:2(IDX:0-1)": {0, 0},
		"shard:3(IDX:0,2-3)": {3, 3}, "shard:5": {5, 0}, "shard:1(IDX:x": {1, 0}, "shard:1(IDX:0-999999999)": {1, 0},
	} {
		got, err := hosts(t, node(map[string]string{"GresUsed": used}))
		if err != nil || got[0].Allocated.GPUs[backends.Shard] != want[0] || got[0].Shared != want[1] {
			t.Errorf("%s: %+v, %v; want %d shares of %d GPUs", used, got, err, want[0], want[1])
		}
	}
	got, err := hosts(t, node(map[string]string{"CPUTot": "8", "CPUEfctv": "6", "MemSpecLimit": "100", "CPUAlloc": "2", "AllocMem": "300"}))
	if err != nil || got[0].CPUs != 6 || got[0].MemoryMiB != 900 || got[0].Allocated.CPUs != 2 || got[0].Allocated.MemoryMiB != 300 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := hosts(t, "No nodes in the system\n"); err != nil || len(got) != 0 {
		t.Errorf("no nodes: %+v, %v", got, err)
	}
	for _, bad := range []string{
		"nonsense\n", node(map[string]string{"CPUTot": "-1"}), node(map[string]string{"RealMemory": "lots"}), node(map[string]string{"Gres": "gpu:a:b"}),
		node(map[string]string{"Gres": "gpu:$(id):1"}), "NodeName=\n", "NodeName=n1\n",
	} {
		if got, err := hosts(t, bad); backends.KindOf(err) != backends.KindTransient {
			t.Errorf("%q: %+v, %v", bad, got, err)
		}
	}
}

func FuzzObserve(f *testing.F) {
	f.Add("", false)
	f.Add("slurm_load_jobs error: Socket timed out\n", false)
	f.Add(strings.Join(component("1").slice(), "|"), true)
	f.Add(strings.Join(component("2").with(map[int]string{fLeader: "1", fOffset: "1", fNodes: "n[1-3]"}).slice(), "|"), true)
	f.Fuzz(func(t *testing.T, text string, fields bool) {
		r := &replay{answer: func(c transport.Command) (transport.Result, error) {
			if fields {
				text = strings.ReplaceAll(text, "|", nonceOf(c.Argv)) + nonceOf(c.Argv) + "\n"
			}
			return transport.Result{Stdout: []byte(text)}, nil
		}}
		o, err := observe(t, r)
		if err != nil && (o.Complete || len(o.Jobs) > 0) {
			t.Fatalf("an error with an answer: %+v, %v", o, err)
		}
		for _, j := range o.Jobs {
			if j.Owner != "o" || j.Key == "" || j.ID == "" || j.State == "" {
				t.Fatalf("half a job: %+v", j)
			}
		}
	})
}

func (l line) slice() []string { return l[:] }

func FuzzInventory(f *testing.F) {
	f.Add(node(nil))
	f.Add(node(map[string]string{"Gres": "gpu:a100:4(S:0-3),shard:8", "State": "IDLE*+DRAIN"}))
	f.Fuzz(func(t *testing.T, text string) {
		got, err := hosts(t, text)
		for _, h := range got {
			if err != nil || h.Name == "" || h.CPUs < 0 || h.MemoryMiB < 0 || h.Usable == (h.Why != "") {
				t.Fatalf("%+v, %v", h, err)
			}
		}
	})
}
