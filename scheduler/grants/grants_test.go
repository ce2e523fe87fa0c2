package grants

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// server answers by method and path; what it is not told of is denied, as an API
// server words it. It notes what it is asked.
type server struct {
	answers map[string][]string // "CODE BODY", one after the other; the last for ever
	asked   []string
	sent    []string
}

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	at := r.Method + " " + r.URL.Path
	if r.URL.Query().Get("watch") == "true" {
		at = "WATCH " + r.URL.Path
	}
	s.asked = append(s.asked, at)
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		s.sent = append(s.sent, string(body))
	}
	code, body := http.StatusForbidden, ""
	if left := s.answers[at]; len(left) > 0 {
		if _, err := fmt.Sscan(left[0], &code); err != nil {
			return nil, err
		}
		body = left[0][4:]
		if len(left) > 1 {
			s.answers[at] = left[1:]
		}
	} else {
		q, _ := parse(r)
		body = fmt.Sprintf(`{"kind":"Status","message":"x is forbidden: User \"u\" cannot %s resource \"%s\" in API group \"\""}`, q.verb, q.resource)
	}
	return &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

type bench struct {
	*Ledger
	server *server
	wire   http.RoundTripper
	now    time.Time
	told   []string
}

func newBench(answers map[string][]string) *bench {
	b := &bench{server: &server{answers: answers}, now: time.Unix(1e9, 0)}
	b.Ledger = &Ledger{Now: func() time.Time { return b.now }, Evicts: true, Report: func(r Right, denied bool) { b.told = append(b.told, fmt.Sprintf("%s %t", r, denied)) }}
	b.wire = b.Wrap(b.server)
	return b
}

func (b *bench) send(t *testing.T, method, path, body string) (code int, text string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "https://api"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer x")
	r.Header.Set("Content-Type", "application/merge-patch+json")
	if strings.HasSuffix(path, "/status") {
		r.Header.Set("Content-Type", "application/strategic-merge-patch+json")
	}
	resp, err := b.wire.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

const (
	groups = "/apis/scheduling.volcano.sh/v1beta1/namespaces/ns/podgroups"
	pods   = "/api/v1/namespaces/ns/pods"
	pdbs   = "/apis/policy/v1/namespaces/ns/poddisruptionbudgets"
)

func TestPatchBecomesUpdate(t *testing.T) {
	group := `200 {"apiVersion":"scheduling.volcano.sh/v1beta1","kind":"PodGroupList","items":[{"metadata":{"name":"g","uid":"u","resourceVersion":"7"},"spec":{"minMember":9007199254740993},"status":{"phase":"Pending"}}]}`
	for name, tc := range map[string]struct {
		list, put []string
		patch     string
		code      int
		want      string // in what is put
		puts      int
	}{
		"at once":              {list: []string{group}, put: []string{"200 {}"}, patch: `{"metadata":{"uid":"u"},"status":{"phase":"Inqueue"}}`, code: 200, want: `"phase":"Inqueue"`, puts: 1},
		"large numbers stay":   {list: []string{group}, put: []string{"200 {}"}, patch: `{"status":{"phase":null}}`, code: 200, want: `9007199254740993`, puts: 1},
		"somebody came before": {list: []string{group}, put: []string{"409 {}", "200 {}"}, patch: `{"status":{"phase":"Inqueue"}}`, code: 200, want: `"resourceVersion":"7"`, puts: 2},
		"always somebody":      {list: []string{group}, put: []string{"409 {}"}, patch: `{}`, code: 409, puts: tries},
		"of one version":       {list: []string{group}, put: []string{"409 {}"}, patch: `{"metadata":{"resourceVersion":"5"}}`, code: 409, want: `"resourceVersion":"5"`, puts: 1},
		"gone":                 {list: []string{`200 {"items":[]}`}, patch: `{}`, code: 404},
		"not to be read":       {patch: `{}`, code: 403},
		"not to be written":    {list: []string{group}, patch: `{}`, code: 403, puts: 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(map[string][]string{"GET " + groups: tc.list, "PUT " + groups + "/g": tc.put})
			code, text := b.send(t, http.MethodPatch, groups+"/g", tc.patch)
			puts := 0
			for _, at := range b.server.asked {
				if strings.HasPrefix(at, "PUT ") {
					puts++
				}
			}
			if code != tc.code || puts != tc.puts || puts > 0 && !strings.Contains(b.server.sent[len(b.server.sent)-1], tc.want) {
				t.Errorf("%d %s after %v with %v; want %d after %d PUTs with %s", code, text, b.server.asked, b.server.sent, tc.code, tc.puts, tc.want)
			}
			want := []string{"patch podgroups.scheduling.volcano.sh true"}
			if tc.put == nil && tc.puts > 0 {
				want = append(want, "update podgroups.scheduling.volcano.sh true")
			}
			if !slices.Equal(b.told, want) {
				t.Errorf("it tells %v, want %v", b.told, want)
			}
		})
	}
}

// A status of Kubernetes' own kinds is patched by its lists' keys, and what was denied is
// not asked for again before its time; then it is.
func TestPatchOfPodStatus(t *testing.T) {
	list := `200 {"apiVersion":"v1","kind":"PodList","items":[{"metadata":{"name":"p"},"status":{"conditions":[{"type":"Ready","status":"False"}]}}]}`
	b := newBench(map[string][]string{"GET " + pods: {list}, "PUT " + pods + "/p/status": {"200 {}"}})
	patch := `{"status":{"conditions":[{"type":"PodScheduled","status":"False"}]}}`
	for range 2 {
		if code, text := b.send(t, http.MethodPatch, pods+"/p/status", patch); code != 200 {
			t.Fatal(code, text)
		}
		if last := b.server.sent[len(b.server.sent)-1]; !strings.Contains(last, "Ready") || !strings.Contains(last, "PodScheduled") || !strings.Contains(last, `"kind":"Pod"`) {
			t.Errorf("it writes %s", last)
		}
	}
	tried := func() (n int) {
		for _, at := range b.server.asked {
			if strings.HasPrefix(at, "PATCH ") {
				n++
			}
		}
		return n
	}
	if tried() != 1 {
		t.Errorf("the patch was tried %d times, want once: %v", tried(), b.server.asked)
	}
	b.now = b.now.Add(Again)
	b.server.answers["PATCH "+pods+"/p/status"] = []string{"200 {}"}
	for range 2 {
		b.send(t, http.MethodPatch, pods+"/p/status", patch)
	}
	if want := []string{"patch pods/status true", "patch pods/status false"}; tried() != 3 || !slices.Equal(b.told, want) {
		t.Errorf("the patch was tried %d times, and %v told; want 3 and %v", tried(), b.told, want)
	}
}

func TestEvictionWithoutTheRight(t *testing.T) {
	pod := func(phase, uid string) string {
		return `200 {"apiVersion":"v1","kind":"PodList","items":[{"metadata":{"name":"p","uid":"` + uid + `","resourceVersion":"3","labels":{"app":"a"}},"status":{"phase":"` + phase + `"}}]}`
	}
	budget := func(labels string) string {
		return `200 {"items":[{"metadata":{"name":"b"},"spec":{"selector":` + labels + `}}]}`
	}
	for name, tc := range map[string]struct {
		pod, budgets string
		code         int
		says         string
	}{
		"no budget":              {pod: pod("Running", "u"), budgets: `200 {"items":[]}`, code: 201},
		"another's budget":       {pod: pod("Running", "u"), budgets: budget(`{"matchLabels":{"app":"b"}}`), code: 201},
		"covered":                {pod: pod("Running", "u"), budgets: budget(`{"matchLabels":{"app":"a"}}`), code: 403, says: "disruption budget b covers the pod"},
		"all are covered":        {pod: pod("Running", "u"), budgets: budget(`{}`), code: 403, says: "disruption budget b covers the pod"},
		"budgets are not told":   {pod: pod("Running", "u"), code: 403, says: "cannot be read"},
		"covered, has not begun": {pod: pod("Pending", "u"), budgets: budget(`{}`), code: 201},
		"another pod":            {pod: pod("Running", "v"), budgets: `200 {"items":[]}`, code: 409},
		"gone":                   {pod: `200 {"items":[]}`, code: 404},
	} {
		t.Run(name, func(t *testing.T) {
			answers := map[string][]string{"GET " + pods: {tc.pod}, "DELETE " + pods + "/p": {"200 {}"}}
			if tc.budgets != "" {
				answers["GET "+pdbs] = []string{tc.budgets}
			}
			b := newBench(answers)
			code, text := b.send(t, http.MethodPost, pods+"/p/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p","namespace":"ns"},"deleteOptions":{"preconditions":{"uid":"u"}}}`)
			deleted := slices.Contains(b.server.asked, "DELETE "+pods+"/p")
			if code != tc.code || !strings.Contains(text, tc.says) || deleted != (tc.code == 201) {
				t.Errorf("%d %s, deleted: %t; want %d %s", code, text, deleted, tc.code, tc.says)
			}
			if last := b.server.sent[len(b.server.sent)-1]; deleted && (!strings.Contains(last, `"uid":"u"`) || !strings.Contains(last, `"resourceVersion":"3"`)) {
				t.Errorf("it deletes with %s", last)
			}
		})
	}
}

// What an admission forbids is no right that is missing.
func TestForbiddenOtherwise(t *testing.T) {
	b := newBench(map[string][]string{"POST " + pods + "/p/binding": {`403 {"message":"pods \"p\" is forbidden: exceeded quota"}`}})
	if code, text := b.send(t, http.MethodPost, pods+"/p/binding", `{}`); code != 403 || !strings.Contains(text, "quota") || len(b.told) != 0 {
		t.Errorf("%d %s, told %v", code, text, b.told)
	}
}

// Who gets an answer can tell a right that is missing from what is forbidden otherwise.
func TestLacks(t *testing.T) {
	at := groups + "/g"
	b := newBench(map[string][]string{"GET " + groups: {`200 {"apiVersion":"scheduling.volcano.sh/v1beta1","kind":"PodGroupList","items":[{"metadata":{"name":"g"}}]}`}})
	lacks := func() bool {
		_, text := b.send(t, http.MethodPatch, at, `{}`)
		return Lacks(fmt.Errorf("patch: %w", apierrors.NewForbidden(schema.GroupResource{}, "g", errors.New(text))))
	}
	byServer := lacks()
	b.now = b.now.Add(10 * time.Second)
	byServer = lacks() && byServer
	b.now, b.server.asked = b.now.Add(9*time.Second), nil
	if byHere := lacks(); !byServer || !byHere || b.server.asked != nil {
		t.Errorf("a right is missing by the API server: %t, by what is known of it: %t (asked %v)", byServer, byHere, b.server.asked)
	}
	b.server.answers["PATCH "+at], b.now = []string{`403 {"message":"a policy says no"}`}, b.now.Add(time.Hour)
	if lacks() {
		t.Error("what a policy forbids is a right that is missing")
	}
}

// A binding that is denied for a moment is sent at the next try: a gang must not stay
// half bound for longer than the API server says so.
func TestBindingDeniedForAMoment(t *testing.T) {
	at := pods + "/p/binding"
	b := newBench(map[string][]string{})
	if code, text := b.send(t, http.MethodPost, at, `{}`); code != 403 {
		t.Fatal(code, text)
	}
	b.server.answers["POST "+at] = []string{"201 {}"}
	if code, text := b.send(t, http.MethodPost, at, `{}`); code != 201 {
		t.Errorf("once it is granted: %d %s", code, text)
	}
	if want := []string{"create pods/binding true", "create pods/binding false"}; !slices.Equal(b.told, want) {
		t.Errorf("it tells %v, want %v", b.told, want)
	}
}

// What may be neither patched nor updated is not read and written each time: it is tried
// again after as long as it is denied, and at most after Again.
func TestNeitherPatchNorUpdate(t *testing.T) {
	group := `200 {"apiVersion":"scheduling.volcano.sh/v1beta1","kind":"PodGroupList","items":[{"metadata":{"name":"g"}}]}`
	b := newBench(map[string][]string{"GET " + groups: {group}})
	asked := func(after time.Duration, want ...string) {
		t.Helper()
		b.now, b.server.asked = b.now.Add(after), nil
		if code, text := b.send(t, http.MethodPatch, groups+"/g", `{}`); code != 403 || !slices.Equal(b.server.asked, want) {
			t.Errorf("%d %s after %v, want 403 after %v", code, text, b.server.asked, want)
		}
	}
	asked(0, "PATCH "+groups+"/g", "GET "+groups, "PUT "+groups+"/g")
	asked(10*time.Second, "GET "+groups, "PUT "+groups+"/g")
	asked(9 * time.Second)
	asked(time.Second, "GET "+groups, "PUT "+groups+"/g")
	asked(time.Hour, "PATCH "+groups+"/g", "GET "+groups, "PUT "+groups+"/g")
	asked(Again - time.Second)
	b.server.answers["PUT "+groups+"/g"] = []string{"200 {}"}
	b.now = b.now.Add(time.Second)
	if code, text := b.send(t, http.MethodPatch, groups+"/g", `{}`); code != 200 {
		t.Errorf("once it is granted: %d %s", code, text)
	}
	if want := []string{"patch podgroups.scheduling.volcano.sh true", "update podgroups.scheduling.volcano.sh true", "update podgroups.scheduling.volcano.sh false"}; !slices.Equal(b.told, want) {
		t.Errorf("it tells %v, want %v", b.told, want)
	}
}

// A right that a namespace lacked in which nothing is written any more does not stay
// missing: it is granted in the others, and nobody would ever hear it of that one.
func TestNamespaceWithoutWork(t *testing.T) {
	b := newBench(map[string][]string{})
	b.Evicts = false
	at := func(n string) string { return "/api/v1/namespaces/" + n + "/pods/p/binding" }
	for _, n := range []string{"busy", "left"} {
		b.send(t, http.MethodPost, at(n), `{}`)
	}
	b.now = b.now.Add(Stale - time.Second)
	b.server.answers["POST "+at("busy")] = []string{"201 {}"}
	b.send(t, http.MethodPost, at("busy"), `{}`)
	b.Refresh(t.Context())
	if want := []string{"create pods/binding true"}; !slices.Equal(b.told, want) {
		t.Errorf("before its time it tells %v, want %v", b.told, want)
	}
	b.now = b.now.Add(time.Second)
	b.Refresh(t.Context())
	b.send(t, http.MethodPost, at("left"), `{}`)
	if want := []string{"create pods/binding true", "create pods/binding false", "create pods/binding true"}; !slices.Equal(b.told, want) {
		t.Errorf("it tells %v, want %v", b.told, want)
	}
	for range 3 { // what is still wanted stays missing
		b.now = b.now.Add(Stale / 2)
		b.send(t, http.MethodPost, at("left"), `{}`)
		b.Refresh(t.Context())
	}
	if len(b.told) != 3 {
		t.Errorf("it tells %v, and nothing has changed", b.told)
	}
}

// Too many requests are turned away before rights are looked at; a disruption budget's
// answer comes after.
func TestTooManyRequests(t *testing.T) {
	b := newBench(map[string][]string{"GET " + pods: {`200 {"items":[]}`}})
	evict := pods + "/p/eviction"
	send := func(at string) {
		b.now = b.now.Add(Again)
		b.send(t, http.MethodPost, at, `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p","namespace":"ns"},"deleteOptions":{"preconditions":{"uid":"u"}}}`)
	}
	for _, at := range []string{evict, pods + "/p/binding"} {
		send(at)
		b.server.answers["POST "+at] = []string{"429 Too many requests, please try again later."}
		send(at)
	}
	if want := []string{"create pods/eviction true", "create pods/binding true"}; !slices.Equal(b.told, want) {
		t.Errorf("it tells %v, want %v", b.told, want)
	}
	b.server.answers["POST "+evict] = []string{`429 {"kind":"Status","details":{"causes":[{"reason":"DisruptionBudget"}]}}`}
	send(evict)
	if got := b.told[len(b.told)-1]; got != Evict.String()+" false" {
		t.Errorf("it tells %v after a budget's answer", b.told)
	}
}

// TestKinds: one that may not be followed is denied until it may be, by a list and a
// watch, by a watch that lists, or when it is asked for again; errors say nothing.
func TestKinds(t *testing.T) {
	all := "/apis/policy/v1/poddisruptionbudgets"
	const kind = "poddisruptionbudgets.policy"
	b := newBench(map[string][]string{})
	list := func() { b.send(t, http.MethodGet, all, "") }
	watch := func(more string) { b.send(t, http.MethodGet, all+"?watch=true"+more, "") }
	want := func(when string, denied bool, told int) {
		t.Helper()
		if b.Denied(kind) != denied || len(b.told) != told {
			t.Fatalf("%s: denied %t, told %v; want %t and %d", when, b.Denied(kind), b.told, denied, told)
		}
	}
	watch("&sendInitialEvents=true")
	list()
	want("nothing is granted", true, 1)
	b.server.answers["GET "+all] = []string{"500 {}"}
	list()
	want("an error", true, 1)
	b.server.answers["GET "+all] = []string{"200 {}"}
	list()
	want("only a list", true, 1)
	b.server.answers["WATCH "+all] = []string{"200 {}"}
	watch("")
	want("both", false, 2)
	delete(b.server.answers, "WATCH "+all)
	delete(b.server.answers, "GET "+all)
	watch("")
	list()
	want("taken away", true, 3)
	b.server.answers["WATCH "+all] = []string{"200 {}"}
	watch("&sendInitialEvents=true")
	want("a watch that lists", false, 4)
	delete(b.server.answers, "WATCH "+all)
	list()
	watch("")
	b.Refresh(t.Context())
	want("asked again in vain", true, 6) // and evictions are denied
	b.server.answers["GET "+all] = []string{"200 {}"}
	b.Refresh(t.Context())
	want("asked again", false, 7)
	if !slices.Contains(b.told, Evict.String()+" true") {
		t.Errorf("evictions are not asked for: %v", b.told)
	}
	b.server.answers["POST /api/v1/namespaces/default/pods/"+nobody+"/eviction"] = []string{`404 {}`}
	b.Refresh(t.Context())
	if got := b.told[len(b.told)-1]; got != Evict.String()+" false" {
		t.Errorf("it tells %s", got)
	}
}

func TestEveryLossIsWorded(t *testing.T) {
	for kind := range lost {
		if text := (Right{Read, kind}).Lost(); text == "" || text != lost[kind] {
			t.Errorf("%s: %q", kind, text)
		}
	}
	if got := (Right{"patch", "podgroups.scheduling.volcano.sh"}).Lost(); !strings.Contains(got, "updated instead") {
		t.Error(got)
	}
	for _, verb := range []string{"update", "patch"} {
		if got := (Right{verb, "unheard-of"}).Lost(); !strings.HasSuffix(got, "what needs it is not done") {
			t.Errorf("%s: %q", verb, got)
		}
	}
}

// TestParse knows requests, also of an API server behind a path.
func TestParse(t *testing.T) {
	for at, want := range map[string]string{
		"GET /api/v1/pods":                                             "list pods in ",
		"GET /api/v1/namespaces/a/pods?watch=1":                        "watch pods in a",
		"GET /api/v1/namespaces":                                       "list namespaces in ",
		"PUT /api/v1/namespaces/a/status":                              "update namespaces/status in ",
		"PATCH /k8s/c/api/v1/namespaces/a/pods/p/status":               "patch pods/status in a",
		"POST /k8s/c/apis/batch.volcano.sh/v1alpha1/namespaces/a/jobs": "create jobs.batch.volcano.sh in a",
		"DELETE /apis/scheduling.volcano.sh/v1beta1/queues/q":          "delete queues.scheduling.volcano.sh in ",
		"GET /apis/scheduling.volcano.sh/v1beta1":                      "",
		"GET /version":        "",
		"GET /api/v1/nodes/n": "",
	} {
		method, path, _ := strings.Cut(at, " ")
		r, err := http.NewRequestWithContext(t.Context(), method, "https://api"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if q, ok := parse(r); ok {
			got = q.verb + " " + q.kind() + " in " + q.namespace
		}
		if got != want {
			t.Errorf("%s is %q, want %q", at, got, want)
		}
	}
}
