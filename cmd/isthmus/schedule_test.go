package main

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// state writes a snapshot in which one gang runs and another waits for it.
func state(t *testing.T) string {
	t.Helper()
	w := schedtest.NewWorld()
	for _, line := range []string{
		"node n1 cpu=8 gpu=4", "group a min=1 estimate=2h", "pods a w 1 gpu=4", "cycle", "settle 30m",
		"group big min=1", "pods big w 1 gpu=4",
	} {
		if _, err := w.Do(line); err != nil {
			t.Fatal(err)
		}
	}
	return written(t, w)
}

// written writes what a world is to a file.
func written(t *testing.T, w *schedtest.World) string {
	t.Helper()
	return saved(t, w.Snapshot())
}

// saved writes a state to a file.
func saved(t *testing.T, s *snapshot.Snapshot) string {
	t.Helper()
	var b bytes.Buffer
	if err := s.Write(&b); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "state.json")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func printed(t *testing.T, args ...string) (string, error) {
	t.Helper()
	c := newCommand()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetArgs(args)
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

// TestUsageIsTold: where the scheduler remembers what queues held, top and explain say
// so, faded until the time that is asked for.
func TestUsageIsTold(t *testing.T) {
	w := schedtest.NewWorld()
	if _, err := w.Do("node n1 cpu=8 gpu=4"); err != nil {
		t.Fatal(err)
	}
	// Half of the GPUs for ever, until a half-life ago: a half-life by ln 2 is 5,194 s.
	w.Usage = &snapshot.Usage{At: w.Now.Unix(), HalfLife: 3600, Of: []snapshot.UsageOf{
		{Queue: "default", Namespace: "physics", Held: resource.MakeList(resource.Quantity{Name: "nvidia.com/gpu", Amount: 5194 * resource.ShareUnit / 2})},
		{Queue: "default", Namespace: "maths", Held: resource.MakeList(resource.Quantity{Name: "cpu", Amount: 5194 * resource.ShareUnit / 10})},
	}}
	var b bytes.Buffer
	if err := w.Snapshot().Write(&b); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "state.json")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string][]string{
		"explain queue default": {"has held 25.0% of the cluster on average of late (half-life 1h0m0s)", "namespace maths: 5.0%", "namespace physics: 25.0%"},
		"top":                   {"OF LATE", "25.0%"},
	} {
		got, err := printed(t, append(strings.Fields(args), "--snapshot="+file, "--at=2026-01-01T01:00:00Z")...)
		for _, words := range want {
			if err != nil || !strings.Contains(got, words) {
				t.Errorf("%s does not say %q: %v\n%s", args, words, err, got)
			}
		}
	}
}

func TestReplayAndExplain(t *testing.T) {
	file := state(t)
	const at = "2026-01-01T00:30:00Z"
	for _, tt := range []struct {
		args string
		want []string
	}{
		{"replay " + file, []string{"head big domain=nodes at=2026-01-01T02:00:00Z", "wait big NoCapacity: nodes: needs 4 nvidia.com/gpu, 0 free"}},
		{"explain job big --snapshot " + file, []string{"0 of at least 1 members placed, 1 wait", "waits (NoCapacity)", "starts 2026-01-01T02:00:00Z on nodes, at the latest", "after podgroup/default/a"}},
		{"explain job a --snapshot " + file, []string{"1 of at least 1 members placed, 0 wait", "runs for about 2h0m0s (declared)"}},
		{"explain queue default --snapshot " + file, []string{"nvidia.com/gpu: holds 4", "default/big waits (NoCapacity)"}},
		{"top --snapshot " + file, []string{"1 of 1 nodes ready", "gangs: 1 run, 1 wait", "nvidia.com/gpu: 4 of 4", "NoCapacity: nodes: needs 4 nvidia.com/gpu, 0 free; it can start at 2026-01-01T02:00:00Z"}},
		{"explain node n1 --snapshot " + file, []string{"nvidia.com/gpu: 0 of 4 free", "1 pods of default/a (queue default, priority 0)"}},
	} {
		got, err := printed(t, append(strings.Fields(tt.args), "--at="+at)...)
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
		}
		for _, want := range tt.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s does not say %q:\n%s", tt.args, want, got)
			}
		}
	}
	if got, err := printed(t, "explain", "job", "big", "--snapshot", file, "--at="+at); err != nil || strings.Count(got, "nodes: needs 4 nvidia.com/gpu, 0 free") != 1 {
		t.Errorf("why no domain has room is said twice where there is one: %v\n%s", err, got)
	}
	for _, args := range []string{"explain job none --snapshot " + file, "explain tree big --snapshot " + file, "explain node n2 --snapshot " + file, "replay " + file + ".none", "replay " + file + " --at=noon"} {
		if got, err := printed(t, strings.Fields(args)...); err == nil {
			t.Errorf("%s is no error and prints\n%s", args, got)
		}
	}
	conf := filepath.Join(t.TempDir(), "conf.yaml")
	for text, want := range map[string]string{
		"actions: \"enqueue, allocate\"\ntiers:\n- plugins:\n  - name: gang\n": "",
		"actions: \"enqueue, dance\"\n":                                        "dance",
	} {
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := printed(t, "replay", file, "--at="+at, "--scheduler-conf="+conf)
		switch {
		case want == "" && (err != nil || strings.Contains(got, "head big")):
			t.Errorf("without backfill nobody's start is planned: %v\n%s", err, got)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("a wrong configuration gives %v", err)
		}
	}
	again, err := printed(t, "snapshot", "--snapshot", file)
	if before, _ := os.ReadFile(file); err != nil || again != string(before) {
		t.Errorf("a snapshot of a snapshot differs (%v)", err)
	}
}

// A node that lost its GPUs while pods hold them shows what is held.
func TestLostDevicesAreShown(t *testing.T) {
	w := schedtest.NewWorld()
	for _, line := range []string{"node n1 cpu=8 gpu=4", "node n2 cpu=8 gpu=4", "group a min=2", "pods a w 2 cpu=1 gpu=4", "cycle", "settle 1m", "node n1 cpu=8"} {
		if _, err := w.Do(line); err != nil {
			t.Fatal(line, err)
		}
	}
	file := written(t, w)
	for args, want := range map[string]string{
		"explain node n1 --snapshot " + file: "nvidia.com/gpu: -4 of 0 free",
		"top --snapshot " + file:             "4/0",
	} {
		if got, err := printed(t, strings.Fields(args)...); err != nil || !strings.Contains(got, want) {
			t.Errorf("%s does not say %q: %v\n%s", args, want, err, got)
		}
	}
}

// TestOrderIsExplained: a step that is queued early names what it comes after, and how
// far that is; one that has started waits for nothing.
func TestOrderIsExplained(t *testing.T) {
	w := schedtest.NewWorld()
	for _, line := range []string{"node n1 cpu=8", "group first min=2", "pods first w 2 cpu=1", "cycle", "settle 30m", "group second min=1", "pods second w 1 cpu=1"} {
		if _, err := w.Do(line); err != nil {
			t.Fatal(err)
		}
	}
	gang := func(name string) []*schedtest.Pod {
		for _, g := range w.Gangs {
			if g.Name == name {
				return g.Pods
			}
		}
		t.Fatalf("no gang %s", name)
		return nil
	}
	first, second := gang("first"), gang("second")
	attempt := first[0].Attempt
	if attempt == "" {
		t.Fatalf("the first is not placed: %+v", first[0])
	}
	for name, tt := range map[string]struct {
		phases [2]string
		after  []string
		own    string
		want   []string
	}{
		"it runs":       {[2]string{snapshot.PodRunning, snapshot.PodPending}, []string{attempt}, snapshot.PodPending, []string{"starts after default/first has completed, of which 1 of 2 members run on node n1"}},
		"it has failed": {[2]string{snapshot.PodSucceeded, snapshot.PodFailed}, []string{attempt}, snapshot.PodPending, []string{"of which 1 of 2 members failed on node n1: it is taken back"}},
		"it completed":  {[2]string{snapshot.PodSucceeded, snapshot.PodSucceeded}, []string{attempt}, snapshot.PodPending, []string{"starts after default/first, which has completed on node n1"}},
		"it is gone": {[2]string{snapshot.PodRunning, snapshot.PodRunning}, []string{"other", attempt}, snapshot.PodPending,
			[]string{`starts after gang attempt "other", which has no pods any more`, "starts after default/first has completed"}},
		"it has started": {[2]string{snapshot.PodSucceeded, snapshot.PodSucceeded}, []string{attempt}, snapshot.PodRunning, nil},
		"no order":       {[2]string{snapshot.PodRunning, snapshot.PodRunning}, nil, snapshot.PodPending, nil},
	} {
		first[0].Phase, first[1].Phase = tt.phases[0], tt.phases[1]
		second[0].After, second[0].Phase = tt.after, tt.own
		got, err := printed(t, "explain", "job", "second", "--at=2026-01-01T00:30:00Z", "--snapshot="+written(t, w))
		if err != nil || strings.Count(got, "starts after") != len(tt.want) {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
		for _, words := range tt.want {
			if !strings.Contains(got, words) {
				t.Errorf("%s: does not say %q:\n%s", name, words, got)
			}
		}
	}
}

// What a gang reads is explained with where it is and what its copy costs, and a
// virtual node with how long jobs wait there.
func TestExplainData(t *testing.T) {
	w := schedtest.NewWorld()
	for _, line := range []string{"virtual v shape=1*cpu=1 wait=600", "group big min=1", "pods big w 1 gpu=4"} {
		if _, err := w.Do(line); err != nil {
			t.Fatal(err)
		}
	}
	w.Nodes[0].Labels = map[string]string{"place": "v"}
	w.Gang("big").Data = []snapshot.Data{
		{Name: "images", Size: 1 << 40, PerSecond: 1 << 30, Places: []snapshot.DataPlace{{Labels: map[string]string{"place": "v"}}}},
		{Name: "lost", Unknown: true},
		{Name: "maps", Size: 1 << 40, PerSecond: 1 << 30, Staged: true, Places: []snapshot.DataPlace{{Labels: map[string]string{"place": "v"}}}, Targets: []snapshot.DataTarget{
			{Cluster: "east"}, {Cluster: "north", Since: w.Now.UnixNano()}, {Cluster: "west", Failed: true, Why: "no space left"}}},
		{Name: "words", Size: 1 << 30, PerSecond: 1 << 30, Places: []snapshot.DataPlace{{Labels: map[string]string{"place": "gone"}}}},
	}
	file := written(t, w)
	for args, wants := range map[string][]string{
		"explain node v": {"is expected to wait for 10m0s"},
		"explain job big --at=2026-01-01T00:10:00Z": {"reads dataset images of 1Ti: on v; elsewhere it starts 17m4s later, for the copy",
			"reads dataset maps of 1Ti: on v; elsewhere a copy of about 17m4s is made first", "may be copied to cluster east, which takes about 17m4s",
			"to cluster north, ready at about 2026-01-01T00:17:04Z", "to cluster west, which failed and is not tried again: no space left",
			"reads dataset lost, which does not exist", "waits (DatasetNotFound)",
			"reads dataset words of 1Gi: on no node; elsewhere it starts 1s later"},
	} {
		got, err := printed(t, append(strings.Fields(args), "--snapshot="+file)...)
		if err != nil {
			t.Errorf("%s: %v", args, err)
		}
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("%s does not say %q:\n%s", args, want, got)
			}
		}
	}
}

func TestSimulate(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	sacct := write("month.sacct", "JobIDRaw|Submit|Start|End|AllocCPUS|State\n"+
		"1|2026-03-01T10:00:00|2026-03-01T10:00:00|2026-03-01T10:00:50|4|COMPLETED\n1.0|2026-03-01T10:00:00|2026-03-01T10:00:00|2026-03-01T10:00:50|4|COMPLETED\n")
	page := filepath.Join(dir, "page.html")
	got, err := printed(t, "simulate", "--trace="+sacct, "--report="+page)
	if html, _ := os.ReadFile(page); err != nil || !strings.Contains(got, "1 records are left out") || !strings.Contains(string(html), "Trace month.sacct") {
		t.Errorf("%v, prints\n%s\nand writes %d bytes", err, got, len(html))
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write([]byte("id,submit,run,estimate,size,user,queue\na,0,10,20,4,u,q\n")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := printed(t, "simulate", "--trace="+write("t.csv.gz", packed.String())); err != nil || !strings.Contains(got, "backfill        1") {
		t.Errorf("%v, prints\n%s", err, got)
	}
	for want, args := range map[string][]string{
		"say --format": {"--trace=" + write("t.txt", "")},
		"not a gzip":   {"--trace=" + write("t.swf.gz", "no gzip at all: invalid")},
		"line 1":       {"--trace=" + write("t.swf", "1 2 3\n")},
		"--report":     {"--report=" + filepath.Join(dir, "none", "page.html"), "--jobs=1"},
		"positive":     {"--nodes=0"},
		"be positive":  {"--load=NaN"},
		"--load must":  {"--load=Inf"},
	} {
		if got, err := printed(t, append([]string{"simulate"}, args...)...); err == nil || want != "not a gzip" && !strings.Contains(err.Error(), want) {
			t.Errorf("%v gives %v and prints\n%s", args, err, got)
		}
	}
}

// TestExplainTellsWhatHoldsANode: reservations and pods of other schedulers hold a node as
// gangs do; and a gang without pods waits for its owner, which no cycle says.
func TestExplainTellsWhatHoldsANode(t *testing.T) {
	w := schedtest.NewWorld()
	for _, line := range []string{
		"node n1 cpu=8 gpu=4", "node n2 cpu=8 gpu=4", "queue own weight=1", "queue teaching weight=1",
		"reserve whole for=2h nodes=n1 queues=own", "reserve part for=1h count=1 each.gpu=3 queues=teaching",
		"group empty min=3",
	} {
		if _, err := w.Do(line); err != nil {
			t.Fatal(err)
		}
	}
	s := w.Snapshot()
	other := *s.Nodes[1]
	other.Residents = append(slices.Clone(other.Residents), snapshot.Resident{UID: "elsewhere", Class: &snapshot.Class{}})
	s.Nodes[1] = &other
	file := saved(t, s)
	for args, want := range map[string][]string{
		"explain node n1":   {"reservation whole has the node for its owners from 2026-01-01T00:00:00Z until 2026-01-01T02:00:00Z"},
		"explain node n2":   {"1 of 4 free", "room for 1 pieces is kept for reservation part until 2026-01-01T01:00:00Z", "1 pods that are not this scheduler's"},
		"explain job empty": {"it has no pods, and needs 3: its owner has to make them"},
		"top":               {"it has no pods, and needs 3"},
	} {
		got, err := printed(t, append(strings.Fields(args), "--snapshot="+file, "--at=2026-01-01T00:01:00Z")...)
		for _, words := range want {
			if err != nil || !strings.Contains(got, words) {
				t.Errorf("%s does not say %q: %v\n%s", args, words, err, got)
			}
		}
	}
}

// TestExplainTellsWhatNeverFits: what is free now is not all that a gang has to know which
// is bigger than all there is.
func TestExplainTellsWhatNeverFits(t *testing.T) {
	w := schedtest.NewWorld()
	for _, line := range []string{
		"node n1 cpu=8 gpu=4", "node n2 cpu=8 gpu=4", "virtual v1 shape=2*cpu=16,gpu=2",
		"group holds min=1", "pods holds w 1 gpu=3", "cycle", "settle 1m",
		"group wide min=3", "pods wide w 3 gpu=4", "group tall min=1", "pods tall w 1 gpu=5",
		"group waits min=2", "pods waits w 2 gpu=4", "group grows min=1", "pods grows w 3 gpu=4",
	} {
		if _, err := w.Do(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	file := written(t, w)
	const wide, tall = "its 3 members need 12 nvidia.com/gpu together, and there is no place with more than 8, in use or not", "a member needs 5 nvidia.com/gpu, and no node has more than 4, in use or not"
	for gang, want := range map[string]string{"wide": wide, "tall": tall, "waits": "", "grows": "", "holds": ""} {
		got, err := printed(t, "explain", "job", gang, "--snapshot", file, "--at=2026-01-01T00:02:00Z")
		if err != nil || !strings.Contains(got, want) || want == "" && strings.Contains(got, "in use or not") {
			t.Errorf("%s is told, %v, want %q:\n%s", gang, err, want, got)
		}
	}
}
