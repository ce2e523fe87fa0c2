package extend_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/extend"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/extender"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// server is an extender that refuses node "bad", and likes "good" best.
type server struct {
	mu     sync.Mutex
	asked  map[string]int // by verb
	seen   []string       // pods and nodes of questions
	broken func(w http.ResponseWriter) bool
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked == nil {
		s.asked = map[string]int{}
	}
	s.asked[r.URL.Path]++
	if s.broken != nil && s.broken(w) {
		return
	}
	var q struct {
		Task struct {
			Name, Namespace, TaskRole string
			Pod                       *corev1.Pod
		} `json:"task"`
		Node struct {
			Name string
			Node *corev1.Node
		} `json:"node"`
		Nodes []struct{ Name string } `json:"nodes"`
	}
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &q)
	}
	if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" || q.Task.Pod == nil {
		http.Error(w, fmt.Sprint("bad question: ", err), http.StatusBadRequest)
		return
	}
	switch r.URL.Path {
	case "/x/predicate":
		s.seen = append(s.seen, q.Task.Pod.Name+" on "+q.Node.Node.Name)
		if q.Node.Name == "bad" {
			fmt.Fprint(w, `{"status":"not this one","code":1}`)
			return
		}
		fmt.Fprint(w, `{"status":"","code":0}`)
	case "/x/prioritize":
		scores := map[string]float64{}
		for _, n := range q.Nodes {
			scores[n.Name] = float64(len(n.Name)) / 2
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"nodeScore": scores, "errorMessage": ""})
	default:
		http.NotFound(w, r)
	}
}

func (s *server) count(verb string) int { s.mu.Lock(); defer s.mu.Unlock(); return s.asked[verb] }

// objects are whatever is asked for.
type objects struct{}

func (objects) PodObject(namespace, name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "u"}}
}

func (objects) NodeObject(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// bench is an asker at work, with a clock that the test moves.
type bench struct {
	*extend.Asker
	server *server
	url    string
	mu     sync.Mutex
	now    time.Time
	said   []snapshot.Opinion
	sets   int
}

func start(t *testing.T) *bench {
	t.Helper()
	b := &bench{server: &server{}, now: time.Unix(1000, 0)}
	front := httptest.NewServer(b.server)
	t.Cleanup(front.Close)
	b.url = front.URL + "/x/"
	b.Asker = &extend.Asker{
		Objects: objects{}, Count: func(string) {},
		Now: func() time.Time { b.mu.Lock(); defer b.mu.Unlock(); return b.now },
		Set: func(o []snapshot.Opinion) { b.mu.Lock(); defer b.mu.Unlock(); b.said = o; b.sets++ },
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	return b
}

func (b *bench) later(d time.Duration) { b.mu.Lock(); defer b.mu.Unlock(); b.now = b.now.Add(d) }

func (b *bench) opinions() []snapshot.Opinion { b.mu.Lock(); defer b.mu.Unlock(); return b.said }

// await looks again and again, as cycles do, until ok.
func (b *bench) await(t *testing.T, what string, s *snapshot.Snapshot, p plan.Plan, ok func() bool) {
	t.Helper()
	for deadline := time.After(time.Minute); ; {
		b.Look(s, p)
		if ok() {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("not within a minute: %s; answers are %+v", what, b.opinions())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// cluster has two equal pods and one of another class on two nodes.
func cluster(nodes ...string) *schedtest.World {
	w := schedtest.NewWorld()
	for _, name := range nodes {
		w.SetNode(schedtest.Real(name, resource.Quantity{Name: "cpu", Amount: 4}))
	}
	cpu := func(n int64) snapshot.ClassSpec {
		return snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: n})}
	}
	g := w.AddGang("g", 1)
	g.AddPods("w", 2, cpu(1))
	g.AddPods("big", 1, cpu(2))
	return w
}

// TestTheExtenderIsAsked once for each class and node, and again when there is a
// reason to.
func TestTheExtenderIsAsked(t *testing.T) {
	b := start(t)
	w := cluster("bad", "good-one")
	s := w.Snapshot()
	b.Use(&extender.Plugin{URL: b.url, Predicate: "predicate", Prioritize: "prioritize", Timeout: time.Minute})
	b.await(t, "both classes have an answer", s, plan.Plan{}, func() bool { return len(b.opinions()) == 2 })
	for _, o := range b.opinions() {
		bad, ok := o.On("bad")
		good, also := o.On("good-one")
		if !ok || !also || bad.Why != "the extender says: not this one" || bad.Score != 2 || good.Why != "" || good.Score != 4 || o.Failed != "" {
			t.Errorf("the answer is %+v", o)
		}
	}
	if n, m := b.server.count("/x/predicate"), b.server.count("/x/prioritize"); n != 4 || m != 2 {
		t.Errorf("asked %d and %d times about two classes on two nodes", n, m)
	}
	// A new node, pods that were placed, and time.
	s = cluster("bad", "good-one", "third").Snapshot()
	b.await(t, "the new node is asked about", s, plan.Plan{}, func() bool { return b.server.count("/x/predicate") >= 10 })
	b.Look(s, plan.Plan{Placements: []plan.Placement{{Gang: s.Gangs[0].Key}}})
	b.await(t, "asked again after a placement", s, plan.Plan{}, func() bool { return b.server.count("/x/prioritize") >= 6 })
	before := b.server.count("/x/prioritize") // two more may be under way by now
	b.await(t, "asked again after a while", s, plan.Plan{}, func() bool {
		b.later(11 * time.Second)
		return b.server.count("/x/prioritize") >= before+4
	})
	b.Use(nil)
	b.await(t, "answers are forgotten with the extender", s, plan.Plan{}, func() bool { return b.opinions() == nil })
}

// TestAnExtenderThatFails is told of by its class, and asked again later.
func TestAnExtenderThatFails(t *testing.T) {
	for want, broken := range map[string]func(http.ResponseWriter) bool{
		"predicate: status 500":       func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusInternalServerError); return true },
		"predicate: the answer is no": func(w http.ResponseWriter) bool { fmt.Fprint(w, "<html>"); return true },
		"predicate: Post":             func(http.ResponseWriter) bool { panic(http.ErrAbortHandler) },
		"predicate: status 302": func(w http.ResponseWriter) bool {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(http.StatusFound)
			return true
		},
	} {
		b := start(t)
		b.server.broken = broken
		s := cluster("bad", "good").Snapshot()
		b.Use(&extender.Plugin{URL: b.url, Predicate: "predicate", Timeout: time.Minute})
		b.await(t, want, s, plan.Plan{}, func() bool { return len(b.opinions()) == 2 })
		if o := b.opinions()[0]; !strings.HasPrefix(o.Failed, want) || len(o.Nodes) != 0 {
			t.Errorf("the answer is %+v, want %q", o, want)
		}
		b.server.mu.Lock()
		b.server.broken = nil
		b.server.mu.Unlock()
		b.later(4 * time.Second)
		b.await(t, "it recovers", s, plan.Plan{}, func() bool { return b.opinions()[0].Failed == "" && b.opinions()[1].Failed == "" })
	}
}

// TestAnExtenderThatHangs costs one time-out a class, however many nodes there are.
func TestAnExtenderThatHangs(t *testing.T) {
	hang := make(chan struct{})
	front := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer front.Close()
	defer close(hang)
	b := start(t)
	var nodes []string
	for i := range 200 {
		nodes = append(nodes, fmt.Sprintf("n%03d", i))
	}
	b.Use(&extender.Plugin{URL: front.URL, Predicate: "predicate", Timeout: 20 * time.Millisecond})
	b.await(t, "the time-out is told", cluster(nodes...).Snapshot(), plan.Plan{}, func() bool { return len(b.opinions()) == 2 })
	if o := b.opinions()[0]; o.Failed != "predicate: no answer within 20ms" {
		t.Errorf("the answer is %+v", o)
	}
}
