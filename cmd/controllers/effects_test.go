package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
)

var update = flag.Bool("update", false, "write testdata/effects.golden anew")

// play plays a scene, and gives back the world it ended in.
func play(t *testing.T, s *scene, decide func(write) mishap) *miniature {
	t.Helper()
	m := newMiniature(t, options{podGroups: true, inherit: true, schedulers: []string{"volcano"}, workers: 1,
		hyperLabels: []string{"rack", "zone"}, webhook: webhookOptions{address: "0"}, vnodeUsers: []string{vnodeUser}, certSigner: certificates.KubeletServingSignerName})
	m.decide = decide
	m.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}})
	if !slices.Contains(s.with, "isthmus-queue") {
		for name, parent := range map[string]string{"root": "", "default": "root"} {
			m.create(&scheduling.Queue{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: scheduling.QueueSpec{Parent: parent}, Status: scheduling.QueueStatus{State: scheduling.QueueStateOpen}})
		}
	}
	s.begin(m)
	script := s.script
	if script == nil {
		script = func(*corev1.Pod) (corev1.PodPhase, int32) { return corev1.PodSucceeded, 0 }
	}
	for step := 1; step <= s.long; step++ {
		if do := s.steps[step]; do != nil {
			do(m)
		}
		m.settle(s.with)
		m.play(script)
		m.now = m.now.Add(20 * time.Second)
	}
	m.settle(s.with)
	return m
}

func without(write) mishap { return fine }

// told is what a scene comes to, for people.
func (m *miniature) told() []string {
	m.t.Helper()
	var out []string
	for _, o := range m.objects() {
		text := ""
		switch o := o.(type) {
		case *batch.Job:
			text = fmt.Sprintf("%s, retry %d, version %d", o.Status.State.Phase, o.Status.RetryCount, o.Status.Version)
		case *batch.CronJob:
			text = fmt.Sprintf("%d active", len(o.Status.Active))
		case *flow.JobFlow:
			text = string(o.Status.State.Phase)
		case *scheduling.Queue:
			text = fmt.Sprintf("%s %v", o.Status.State, o.Annotations)
		case *scheduling.PodGroup:
			text = fmt.Sprintf("%d members", o.Spec.MinMember)
		case *bus.Command:
			text = "is left"
		case *hpc.Dataset:
			for _, c := range o.Status.Copies {
				text += fmt.Sprintf("[%s %s after %d attempts]", c.Cluster, c.Phase, c.Attempts)
			}
		default:
			continue
		}
		out = append(out, fmt.Sprintf("  ends: %s %s: %s", m.api.kind(o), o.GetName(), text))
	}
	for key, n := range m.api.made {
		if strings.HasPrefix(key, "Pod/") || strings.HasPrefix(key, "Job/") || strings.HasPrefix(key, "PodGroup/") {
			out = append(out, fmt.Sprintf("  made: %s, %d times", key, n))
		}
	}
	for _, w := range m.writes {
		file, _, _ := strings.Cut(w.site, ":")
		out = append(out, fmt.Sprintf("  does: %s: %s %s", file, w.verb, w.kind))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Every write that the controllers have, in scenes that go through all of them, has
// every mishap: kill -9 before and after it, an answer that is lost, 409, 429 and 500.
// What there is in the end, and how often each object was made, is to the letter what
// it is without. testdata/effects.golden holds the writes, so that a new one shows;
// TestEveryWriteHasAScene, that all of them are there. In the ordinary run each effect
// has each mishap the first time that any scene comes to it, and those that leave
// something half done the first time that each scene does; with ISTHMUS_SEEDS all of
// them have all every time, and that many runs of each scene have several at random.
func TestEveryEffect(t *testing.T) {
	t.Parallel()
	all := scenes(t)
	var golden []string
	var mu sync.Mutex
	total := 0
	calm, first, taken := make([]*miniature, len(all)), make([]map[string]bool, len(all)), map[string]bool{}
	for i := range all {
		calm[i], first[i] = play(t, &all[i], without), map[string]bool{}
		for _, w := range calm[i].writes {
			first[i][w.effect()] = first[i][w.effect()] || !taken[w.effect()]
			taken[w.effect()] = true
		}
	}
	t.Run("scenes", func(t *testing.T) {
		for i := range all {
			s := &all[i]
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				calm := calm[i]
				n := everyMishap(t, s, calm, first[i])
				n += manyMishaps(t, s, calm)
				mu.Lock()
				defer mu.Unlock()
				golden = append(golden, s.name+"\n"+strings.Join(calm.told(), "\n")+"\n")
				total += n
			})
		}
	})
	t.Logf("%d runs with mishaps", total)
	slices.Sort(golden)
	text := strings.Join(golden, "\n")
	if *update {
		if err := os.WriteFile("testdata/effects.golden", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/effects.golden")
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) && !t.Failed() {
		t.Fatalf("effects are not those of testdata/effects.golden; if that is meant, run with -update. They are:\n%s", text)
	}
}

// everyMishap strikes each write of a scene with each mishap, one a run.
func everyMishap(t *testing.T, s *scene, calm *miniature, first map[string]bool) (runs int) {
	t.Helper()
	want := calm.snapshot()
	done := map[string]bool{}
	for _, target := range calm.writes {
		effect, long := target.effect(), number("ISTHMUS_SEEDS", 0) > 0
		if done[effect] && !long {
			continue
		}
		done[effect] = true
		for what := diesBefore; what < mishaps; what++ {
			if what > unheard && !first[effect] && !long {
				continue
			}
			m := play(t, s, func(w write) mishap {
				if w == target {
					return what
				}
				return fine
			})
			runs++
			if m.struck == 0 {
				t.Errorf("%s: it never came to this", target)
			}
			same(t, fmt.Sprintf("%s %s", target, what), want, m.snapshot())
		}
	}
	return runs
}

// manyMishaps strikes writes at random.
func manyMishaps(t *testing.T, s *scene, calm *miniature) (runs int) {
	t.Helper()
	want := calm.snapshot()
	for seed := range number("ISTHMUS_SEEDS", 1) {
		random := rand.New(rand.NewPCG(uint64(seed), 11)) //nolint:gosec // a seed that can be given again
		m := play(t, s, func(write) mishap {
			if random.IntN(4) > 0 {
				return fine
			}
			return mishap(1 + random.IntN(int(mishaps)-1))
		})
		runs++
		same(t, fmt.Sprintf("seed %d", seed), want, m.snapshot())
	}
	return runs
}

// same tells the first difference.
func same(t *testing.T, when string, want, got []string) {
	t.Helper()
	if slices.Equal(want, got) {
		return
	}
	var lacks, extra []string
	for _, line := range want {
		if !slices.Contains(got, line) {
			lacks = append(lacks, line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			extra = append(extra, line)
		}
	}
	t.Errorf("%s: it ends otherwise than without.\nLacks:\n%s\nHas instead:\n%s", when, strings.Join(lacks, "\n"), strings.Join(extra, "\n"))
}

// elsewhere are writes that no scene has, with where they are shown.
var elsewhere = map[string]string{
	"admission/pods.go":               "a dry run, which writes nothing",
	"admission/servingcert/keeper.go": "the webhook's certificates: its own tests",
}

// Every call in the controllers' code that writes to the API server is in a scene.
func TestEveryWriteHasAScene(t *testing.T) {
	t.Parallel()
	reached := map[string]bool{}
	all := scenes(t)
	for i := range all {
		for _, w := range play(t, &all[i], without).writes {
			reached[w.site] = true
		}
	}
	calls := 0
	for _, c := range writeCalls(t) {
		calls++
		if elsewhere[c.file] != "" {
			continue
		}
		hit := false
		for line := c.from; line <= c.to; line++ {
			hit = hit || reached[c.file+":"+strconv.Itoa(line)]
		}
		if !hit {
			t.Errorf("controllers/%s:%d writes (%s), and no scene of TestEveryEffect comes to it", c.file, c.from, c.verb)
		}
	}
	if calls < 25 {
		t.Errorf("only %d calls that write were found in the controllers' code", calls)
	}
	t.Logf("%d calls that write", calls)
}

type writeCall struct {
	file, verb string
	from, to   int
}

// writeCalls are the calls of a client's methods that write, in controllers/.
func writeCalls(t *testing.T) []writeCall {
	t.Helper()
	root := filepath.Join("..", "..", "controllers")
	var out []writeCall
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "controllertest") {
			return err
		}
		if dir := filepath.Base(filepath.Dir(path)); dir == "owned" || dir == "report" {
			return nil // the calls of what writes there are looked for
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || len(call.Args) < 2 || !slices.Contains([]string{"Create", "Update", "Patch", "Delete", "DeleteAllOf", "Apply", "CreateJob", "DeleteJob", "Status"}, method.Sel.Name) {
				return true
			}
			if ctx, ok := call.Args[0].(*ast.Ident); !ok || ctx.Name != "ctx" {
				return true
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				t.Error(err)
			}
			out = append(out, writeCall{rel, method.Sel.Name, set.Position(call.Pos()).Line, set.Position(call.End()).Line})
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
