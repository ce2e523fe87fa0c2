package slurmrest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmrest"
)

// asked is one request that a replaying server got.
type asked struct {
	method, path string
	user, token  string
	body         map[string]any
}

// server replays replies. Requests that answer does not know get 404, in
// slurmrestd's words.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []asked
	answer func(asked) (status int, reply string)
}

func (s *server) requests(method string) (out []asked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.asked {
		if a.method == method || method == "" {
			out = append(out, a)
		}
	}
	return out
}

func serve(t *testing.T, answer func(asked) (int, string)) *server {
	t.Helper()
	s := &server{answer: answer}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := asked{method: r.Method, path: r.URL.Path, user: r.Header.Get("X-SLURM-USER-NAME"), token: r.Header.Get("X-SLURM-USER-TOKEN")}
		if raw, err := io.ReadAll(r.Body); err == nil && len(raw) > 0 {
			if err := json.Unmarshal(raw, &a.body); err != nil {
				t.Errorf("the body is no JSON: %v", err)
			}
		}
		s.mu.Lock()
		s.asked = append(s.asked, a)
		answer := s.answer
		s.mu.Unlock()
		status, reply := answer(a)
		w.WriteHeader(status)
		if _, err := io.WriteString(w, reply); err != nil {
			t.Logf("the client left: %v", err)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

const noSuchPath = "Unable find requested URL. Please view /openapi/v3 for API reference."

// fixed is a user's token for tests without a real server.
type fixed struct{}

func (fixed) Token(_ context.Context, user string, _ time.Time) (slurmrest.Token, error) {
	return slurmrest.Token{Text: "token-of-" + user, Origin: "o"}, nil
}

func newBackend(t *testing.T, url string) *slurmrest.Backend {
	t.Helper()
	b, err := slurmrest.New(slurmrest.Config{URL: url, Tokens: fixed{}, Users: []string{"alice"}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// replyFile reads a reply from testdata.
func replyFile(t *testing.T, version, what string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", version, what+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// recorded answers as a server of one version does: with the replies of
// testdata, and 404 to other versions.
func recorded(t *testing.T, version string) func(asked) (int, string) {
	return func(a asked) (int, string) {
		what, ok := strings.CutPrefix(a.path, "/slurm/"+version+"/")
		switch {
		case !ok:
			return http.StatusNotFound, noSuchPath
		case a.method == http.MethodDelete:
			return http.StatusOK, replyFile(t, version, "cancel")
		case what == "job/submit":
			return http.StatusOK, replyFile(t, version, "submit")
		case a.method == http.MethodPost:
			return http.StatusOK, replyFile(t, version, "release")
		case strings.HasPrefix(what, "job/"):
			return http.StatusOK, replyFile(t, version, "submitted")
		}
		return http.StatusOK, replyFile(t, version, what)
	}
}

// versions with replies in testdata. Only those of v0.0.38 come from a server.
func versions() []string { return []string{"v0.0.38", "v0.0.40", "v0.0.42", "v0.0.44"} }

func at(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }

func TestVersionsRead(t *testing.T) {
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			b := newBackend(t, serve(t, recorded(t, version)).URL)
			o, err := b.Observe(t.Context(), "recorded", []string{"isthmus-alice"})
			if err != nil || !o.Complete {
				t.Fatalf("%v, complete %t", err, o.Complete)
			}
			var got []string
			for _, j := range o.Jobs {
				when := ""
				for i, at := range []time.Time{j.Submitted, j.Started, j.Ended, j.Estimated} {
					if !at.IsZero() {
						when += string("sSeE"[i])
					}
				}
				got = append(got, fmt.Sprintf("%s %s %s %q held=%t never=%t restarts=%d hosts=%v exit=%d:%d %s %s",
					j.ID, j.Key, j.State, j.Reason, j.Held, j.Never, j.Restarts, j.Hosts, j.ExitCode, j.Signal, when, j.User))
				if !j.Submitted.After(at(1_700_000_000)) {
					t.Errorf("job %s was submitted at %v", j.ID, j.Submitted)
				}
			}
			compare(t, "jobs", got, []string{
				`1 k1 Pending "JobHeldUser" held=true never=false restarts=0 hosts=[] exit=0:0 s isthmus-alice`,
				`10 k10 Pending "BadConstraints" held=false never=true restarts=0 hosts=[] exit=0:0 s isthmus-alice`,
				`2 k2 Completed "" held=false never=false restarts=0 hosts=[gpu1] exit=0:0 sSe isthmus-alice`,
				`3 k3 Failed "NonZeroExitCode" held=false never=false restarts=0 hosts=[gpu1] exit=3:0 sSe isthmus-alice`,
				`4 k4 Failed "JobLaunchFailure" held=false never=false restarts=0 hosts=[gpu1] exit=0:9 sSe isthmus-alice`,
				`5 k5 Cancelled "" held=false never=false restarts=0 hosts=[gpu1] exit=0:15 sSe isthmus-alice`,
				`6 k6 Running "" held=false never=false restarts=0 hosts=[gpu1] exit=0:0 sS isthmus-alice`,
				`7 k7 Running "" held=false never=false restarts=0 hosts=[gpu2 cpu1] exit=0:0 sS isthmus-alice`,
				`9 k8 Pending "BeginTime" held=false never=false restarts=1 hosts=[] exit=0:0 sE isthmus-alice`,
			})
			inv, err := b.Inventory(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(inv.Version, " (REST "+version+")") || inv.Version[0] != '2' {
				t.Errorf("version %q", inv.Version)
			}
			got = nil
			for _, h := range inv.Hosts {
				got = append(got, fmt.Sprintf("%s %s %s usable=%t %q cpu=%d/%d mem=%d/%d gpu=%v/%v %v", h.Name, h.Addr, h.State, h.Usable, h.Why,
					h.Allocated.CPUs, h.CPUs, h.Allocated.MemoryMiB, h.MemoryMiB, h.Allocated.GPUs, h.GPUs, h.Features))
			}
			compare(t, "hosts", got, []string{
				`cpu1 127.0.1.13 MIXED usable=true "" cpu=1/16 mem=20/64000 gpu=map[]/map[] []`,
				`cpu2 127.0.1.14 IDLE+DRAIN usable=false "drained" cpu=0/16 mem=0/64000 gpu=map[]/map[] []`,
				`gpu1 127.0.1.11 MIXED usable=true "" cpu=8/64 mem=2000/500000 gpu=map[a100:4]/map[a100:8] [nvlink ib]`,
				`gpu2 127.0.1.12 MIXED usable=true "" cpu=8/64 mem=2000/500000 gpu=map[a100:4]/map[a100:8] [nvlink ib]`,
			})
			// From v0.0.39 on a partition does not say that it is the default.
			compare(t, "partitions", []string{strings.ReplaceAll(fmt.Sprintf("%+v", inv.Partitions), "Default:true", "Default:false")}, []string{
				"[{Name:a Up:true Default:false Hosts:[gpu1 gpu2] MaxWalltime:24h0m0s DefaultWalltime:1h0m0s}" +
					" {Name:b Up:true Default:false Hosts:[cpu1 cpu2 gpu2] MaxWalltime:0s DefaultWalltime:0s}" +
					" {Name:off Up:false Default:false Hosts:[cpu1 cpu2] MaxWalltime:0s DefaultWalltime:0s}]",
			})
		})
	}
}

func compare(t *testing.T, what string, got, want []string) {
	t.Helper()
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("%s\n%s\nwant\n%s", what, g, w)
	}
}

// spec is that of the replies "submitted": a job of two components.
func spec() backends.JobSpec {
	return backends.JobSpec{
		Key: "k20", Owner: "recorded", User: "isthmus-alice", Partition: "b", Account: "acct", QOS: "high", Constraint: "nvlink&ib",
		Reservation: "resv", Walltime: 61 * time.Second, WorkDir: "/scratch/50% off/k20",
		Components: []backends.Component{
			{Tasks: 2, CPUs: 4, MemoryMiB: 1001, GPUs: map[string]int64{"a100": 2, "": 1}}, {Tasks: 1, CPUs: 1},
		},
	}
}

// Hosts that are left out are a text in v0.0.38 and a list after it.
func TestVersionsExclude(t *testing.T) {
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			s := serve(t, recorded(t, version))
			spec := spec()
			spec.ExcludedHosts = []string{"n1", "n3", "n2", "login"}
			if _, err := newBackend(t, s.URL).Submit(t.Context(), spec); err != nil {
				t.Fatal(err)
			}
			jobs, _ := s.requests(http.MethodPost)[0].body["jobs"].([]any)
			field, want := "excluded_nodes", "[login,n[1-3]]"
			if version == "v0.0.38" {
				field, want = "exclude_nodes", "login,n[1-3]"
			}
			for _, j := range jobs {
				if job, _ := j.(map[string]any); fmt.Sprint(job[field]) != want {
					t.Errorf("%s is %v, want %s", field, job[field], want)
				}
			}
			if len(jobs) != 2 {
				t.Errorf("%d jobs", len(jobs))
			}
		})
	}
}

func TestVersionsWrite(t *testing.T) {
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			s := serve(t, recorded(t, version))
			b := newBackend(t, s.URL)
			job := spec()
			job.Licenses = map[string]int64{"fluent": 2, "db@server": 1}
			job.Switches, job.SwitchesWait = 1, time.Minute
			if version == "v0.0.38" { // has no field for it
				id, err := b.Submit(t.Context(), job)
				if backends.KindOf(err) != backends.KindInvalid || b.Capabilities().Switches || len(s.requests(http.MethodPost)) > 0 {
					t.Errorf("a job with switches: %q, %v", id, err)
				}
				job.Switches, job.SwitchesWait = 0, 0
			}
			id, err := b.Submit(t.Context(), job)
			if err == nil && b.Capabilities().Switches != (version != "v0.0.38") {
				t.Errorf("switches can be asked for: %t", b.Capabilities().Switches)
			}
			if err != nil || id != "20" {
				t.Fatalf("submit: %q, %v", id, err)
			}
			ref := backends.JobRef{ID: id, Key: "k20", User: "isthmus-alice"}
			if err := b.Release(t.Context(), ref); err != nil {
				t.Errorf("release: %v", err)
			}
			if err := b.Cancel(t.Context(), ref); err != nil {
				t.Errorf("cancel: %v", err)
			}
			posts := s.requests(http.MethodPost)
			if len(posts) != 2 || posts[1].path != "/slurm/"+version+"/job/20" || fmt.Sprint(posts[1].body) != "map[hold:false]" {
				t.Fatalf("posted %+v", posts)
			}
			if d := s.requests(http.MethodDelete); len(d) != 1 || d[0].path != "/slurm/"+version+"/job/20" {
				t.Errorf("deleted %+v", d)
			}
			for _, a := range s.requests("") {
				if a.user != "isthmus-alice" || a.token != "token-of-isthmus-alice" {
					t.Errorf("%s %s as %q with token %q", a.method, a.path, a.user, a.token)
				}
			}
			body := posts[0].body
			list, ok := body["jobs"].([]any)
			if !ok || len(list) != 2 {
				t.Fatalf("jobs are %v", body["jobs"])
			}
			first, _ := list[0].(map[string]any)
			script := body["script"]
			if version != "v0.0.38" {
				script = first["script"]
				delete(first, "script")
			}
			if script != backends.LaunchScript {
				t.Errorf("the script is %q", script)
			}
			raw, err := json.MarshalIndent(body["jobs"], "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			compare(t, "job", []string{string(raw)}, []string{strings.TrimSpace(replyFile(t, version, "submit-body"))})
		})
	}
}

// A server that offers several versions is spoken to in the best known one;
// one that offers none gets a clear error, and is asked again later.
func TestAgreement(t *testing.T) {
	offers := func(versions ...string) func(asked) (int, string) {
		return func(a asked) (int, string) {
			for _, v := range versions {
				if strings.HasPrefix(a.path, "/slurm/"+v+"/") {
					return http.StatusOK, `{"errors": [], "jobs": []}`
				}
			}
			return http.StatusNotFound, noSuchPath
		}
	}
	for want, have := range map[string][]string{
		"v0.0.38": {"v0.0.36", "v0.0.37", "v0.0.38"}, // 22.05
		"v0.0.40": {"v0.0.39", "v0.0.40", "v0.0.41"}, // 24.05
		"v0.0.42": {"v0.0.40", "v0.0.41", "v0.0.42", "v0.0.43"},
		"v0.0.44": {"v0.0.42", "v0.0.43", "v0.0.44", "v0.0.45"},
		"v0.0.45": {"v0.0.45", "v0.0.46"},
		"v0.0.43": {"v0.0.43"},
		"v0.0.41": {"v0.0.41"},
		"v0.0.39": {"v0.0.39"},
	} {
		s := serve(t, offers(have...))
		b := newBackend(t, s.URL)
		for range 2 {
			if _, err := b.Observe(t.Context(), "o", nil); err != nil {
				t.Errorf("%v: %v", have, err)
			}
		}
		all := s.requests("")
		if last := all[len(all)-1]; last.path != "/slurm/"+want+"/jobs" {
			t.Errorf("%v: asked %s, want %s", have, last.path, want)
		}
		if n := len(all); all[n-2].path != all[n-1].path {
			t.Errorf("%v: it agreed twice: %+v", have, all)
		}
	}
	s := serve(t, offers("v0.0.36"))
	b := newBackend(t, s.URL)
	_, err := b.Observe(t.Context(), "o", nil)
	if backends.KindOf(err) != backends.KindTransient || !strings.Contains(err.Error(), "none of the versions v0.0.38 to v0.0.45") {
		t.Errorf("without a version: %v", err)
	}
	s.mu.Lock()
	s.answer = offers("v0.0.42")
	s.mu.Unlock()
	if _, err := b.Observe(t.Context(), "o", nil); err != nil {
		t.Errorf("after the server was upgraded: %v", err)
	}
	s.mu.Lock()
	s.answer = offers("v0.0.44")
	s.mu.Unlock()
	if _, err := b.Observe(t.Context(), "o", nil); backends.KindOf(err) != backends.KindTransient {
		t.Errorf("while the version is lost: %v", err)
	}
	if _, err := b.Observe(t.Context(), "o", nil); err != nil {
		t.Errorf("after the version changed: %v", err)
	}
}
