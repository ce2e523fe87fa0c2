package slurmrest_test

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmrest"
)

// used are the fields of each list that are read, dots lead into objects.
func used(version, what string) []string {
	plain := version == "v0.0.38"
	switch what {
	case "jobs":
		fields := []string{
			"job_id", "het_job_id", "name", "comment", "user_name", "partition", "job_state", "priority",
			"state_reason", "restart_cnt", "nodes", "submit_time", "start_time", "end_time", "exit_code", "preempt_time",
		}
		if !plain {
			fields = append(fields, "het_job_id.set", "het_job_id.number", "start_time.number", "priority.set",
				"exit_code.return_code", "exit_code.signal.id", "exit_code.return_code.set")
		}
		return fields
	case "nodes":
		fields := []string{"name", "address", "state", "active_features", "cpus", "alloc_cpus", "real_memory", "alloc_memory", "gres", "gres_used"}
		if plain {
			return append(fields, "state_flags")
		}
		return append(fields, "effective_cpus", "specialized_memory")
	}
	if plain {
		return []string{"name", "nodes", "state", "max_time_limit", "default_time_limit"}
	}
	return []string{"name", "nodes", "nodes.configured", "partition.state", "maximums.time", "maximums.time.set", "defaults.time"}
}

// mutate changes a field of an object, or takes it out with value nil.
func mutate(object map[string]any, field string, value any) {
	head, rest, deep := strings.Cut(field, ".")
	switch {
	case deep:
		inner, _ := object[head].(map[string]any)
		mutate(inner, rest, value)
	case value == nil:
		delete(object, head)
	default:
		object[head] = value
	}
}

// Every field that is read is missed when it is not there, and caught when it
// holds something else: no part of a list ever reads as another value.
func TestMutatedFields(t *testing.T) {
	for _, version := range versions() {
		for _, what := range []string{"jobs", "nodes", "partitions"} {
			for _, field := range used(version, what) {
				for name, value := range map[string]any{
					"gone": nil, "an object": map[string]any{"x": 1}, "a list of lists": []any{[]any{1}}, "true": true, "a fraction": 1.5,
				} {
					var reply map[string]any
					if err := json.Unmarshal([]byte(replyFile(t, version, what)), &reply); err != nil {
						t.Fatal(err)
					}
					list, _ := reply[what].([]any)
					first, _ := list[0].(map[string]any)
					mutate(first, field, value)
					if set, ok := value.(bool); ok && set && strings.HasSuffix(field, ".set") {
						continue // that is what may be there
					}
					raw, err := json.Marshal(reply)
					if err != nil {
						t.Fatal(err)
					}
					answer := recorded(t, version)
					b := newBackend(t, serve(t, func(a asked) (int, string) {
						if strings.HasSuffix(a.path, "/"+what) {
							return http.StatusOK, string(raw)
						}
						return answer(a)
					}).URL)
					if what == "jobs" {
						o, err := b.Observe(t.Context(), "recorded", nil)
						if backends.KindOf(err) != backends.KindTransient || len(o.Jobs) != 0 || o.Complete {
							t.Errorf("%s: job with %s %s: %v, %d jobs", version, field, name, err, len(o.Jobs))
						}
						continue
					}
					if inv, err := b.Inventory(t.Context()); backends.KindOf(err) != backends.KindTransient || len(inv.Hosts) != 0 {
						t.Errorf("%s: %s with %s %s: %v", version, what, field, name, err)
					}
				}
			}
		}
	}
}

// Half a reply is none.
func TestBrokenReplies(t *testing.T) {
	whole := replyFile(t, "v0.0.42", "jobs")
	for what, reply := range map[string]string{
		"nothing": "", "null": "null", "a list": "[]", "a word": "ok", "no list": `{"errors": []}`, "null for the list": `{"jobs": null, "errors": []}`,
		"half": whole[:len(whole)/2], "all but the end": strings.TrimRight(whole, "}\n "), "twice": whole + whole, "text behind": whole + "x",
		"two lists": `{"jobs": [], "jobs": []}`, "an object for the list": `{"jobs": {}}`, "a list of numbers": `{"jobs": [1]}`,
		"an endless list of hosts": strings.ReplaceAll(whole, `"nodes": "gpu1"`, `"nodes": "n[0-99999999]"`),
		"an error beside the list": strings.Replace(whole, `"errors": []`, `"errors": [{"error_number": 1, "error": "x"}]`, 1),
	} {
		b := newBackend(t, serve(t, func(a asked) (int, string) {
			if strings.HasSuffix(a.path, "/jobs") {
				return http.StatusOK, reply
			}
			return recorded(t, "v0.0.42")(a)
		}).URL)
		if o, err := b.Observe(t.Context(), "recorded", nil); backends.KindOf(err) != backends.KindTransient || o.Complete || len(o.Jobs) != 0 {
			t.Errorf("%s: %+v, %v", what, o, err)
		}
	}
}

// What Slurm says decides, by its numbers first; all texts and numbers of
// v0.0.38 here come from a real server.
func TestErrorReplies(t *testing.T) {
	numbered := func(n int, text string) string {
		return fmt.Sprintf(`{"errors": [{"error_number": %d, "error": %q}]}`, n, text)
	}
	const (
		unknown, transient, throttled = backends.KindUnknownOutcome, backends.KindTransient, backends.KindThrottled
		denied, invalid               = backends.KindDenied, backends.KindInvalid
	)
	for _, c := range []struct {
		status         int
		reply          string
		submit, others backends.Kind // of submit, and of release and cancel
	}{
		{500, `{"errors": [{"error_code": 2000, "error": "Invalid partition name specified"}]}`, invalid, invalid},
		{400, `{"errors": [{"description": "Unknown key \"bogus\"", "source": "hsearch_r"}, {"error_code": 9001, "error": "Failure during parsing"}]}`, invalid, invalid},
		{400, `{"errors": [{"error": "environment must be set", "error_code": 2127}, {"error_code": 9001}]}`, invalid, invalid},
		{500, numbered(2017, "Invalid job id specified"), invalid, ""},
		{500, numbered(2084, "Job has already finished"), "-", ""},
		{500, numbered(2021, "Job/step already completing or completed"), "-", ""},
		{200, numbered(2015, "Requested partition configuration not available now"), "-", ""},
		{500, numbered(2002, "Access/permission denied"), denied, denied},
		{500, numbered(2010, "Invalid user id"), denied, denied},
		{500, numbered(2050, "Job violates accounting/QOS policy"), throttled, throttled},
		{500, numbered(2105, "System submissions disabled"), transient, transient},
		{500, numbered(2020, "Job can not be altered now, try again later"), transient, transient},
		{500, numbered(1800, "Unable to contact slurm controller (connect failure)"), unknown, unknown},
		{500, numbered(1000, "Unexpected message received"), unknown, unknown},
		{500, numbered(5004, "Socket timed out on send/recv operation"), unknown, unknown},
		{500, numbered(5005, "Zero Bytes were transmitted or received"), unknown, unknown},
		{500, numbered(-1, "Unspecified error"), unknown, unknown},
		{500, numbered(1007, "Protocol authentication error"), unknown, unknown},
		{500, numbered(6000, "Invalid authentication credential"), denied, denied},
		{500, numbered(2999, "Something that no release says today"), unknown, unknown},
		{500, `{"errors": [{"error": "Rate limit exceeded, please retry"}]}`, throttled, throttled},
		{500, `{"errors": []}`, unknown, unknown},
		{401, "Authentication failure", denied, denied},
		{403, "<html>forbidden</html>", denied, denied},
		{429, "slow down", throttled, throttled},
		{404, noSuchPath, transient, transient},
		{413, "too large", invalid, invalid},
		{302, "", invalid, invalid},
		{502, "<html>bad gateway</html>", unknown, unknown},
		{503, "", unknown, unknown},
		{504, "", unknown, unknown},
		{200, "", unknown, unknown},
		{200, `{"errors": [], "job_id": 0}`, unknown, ""},
	} {
		b := newBackend(t, serve(t, func(a asked) (int, string) {
			if a.method != http.MethodGet {
				return c.status, c.reply
			}
			return recorded(t, "v0.0.40")(a)
		}).URL)
		ref := backends.JobRef{ID: "20", Key: "k20", User: "isthmus-alice"}
		if c.submit != "-" {
			_, err := b.Submit(t.Context(), spec())
			var e *backends.Error
			if !errors.As(err, &e) || e.Kind != c.submit || e.Key != "k20" || e.Op != "submit" {
				t.Errorf("submit, %d %s: %v, want %s", c.status, c.reply, err, c.submit)
			}
		}
		b = newBackend(t, serve(t, func(a asked) (int, string) {
			if a.method != http.MethodGet {
				return c.status, c.reply
			}
			return recorded(t, "v0.0.40")(a)
		}).URL)
		if got := backends.KindOf(b.Release(t.Context(), ref)); got != c.others {
			t.Errorf("release, %d %s: %q, want %q", c.status, c.reply, got, c.others)
		}
		if c.others != denied && c.others != transient { // those would stop before the request
			if got := backends.KindOf(b.Cancel(t.Context(), ref)); got != c.others {
				t.Errorf("cancel, %d %s: %q, want %q", c.status, c.reply, got, c.others)
			}
		}
		// The same said to a question.
		b = newBackend(t, serve(t, func(a asked) (int, string) {
			if strings.HasSuffix(a.path, "/jobs") {
				return c.status, c.reply
			}
			return recorded(t, "v0.0.40")(a)
		}).URL)
		want := transient
		switch c.others {
		case denied, throttled:
			want = c.others
		}
		if strings.Contains(c.reply, "1007") {
			want = denied
		}
		if o, err := b.Observe(t.Context(), "recorded", nil); backends.KindOf(err) != want || o.Complete {
			t.Errorf("observe, %d %s: %v, want %s", c.status, c.reply, err, want)
		}
	}
}

// From v0.0.39 on a release, and from v0.0.41 on a cancel, may be told of each
// component that it failed though the reply as a whole has no error.
func TestErrorsOfComponents(t *testing.T) {
	ref := backends.JobRef{ID: "20", Key: "k20", User: "isthmus-alice"}
	for code, want := range map[int]backends.Kind{0: "", 2002: backends.KindDenied, 2084: "", 2020: backends.KindTransient, 5004: backends.KindUnknownOutcome} {
		b := newBackend(t, serve(t, func(a asked) (int, string) {
			switch a.method {
			case http.MethodPost:
				return http.StatusOK, fmt.Sprintf(`{"results": [{"job_id": 20, "error_code": 0, "error": ""}, {"job_id": 21, "error_code": %d, "error": "x"}], "errors": []}`, code)
			case http.MethodDelete:
				return http.StatusOK, fmt.Sprintf(`{"status": [{"error": {"code": %d, "string": "x", "message": "y"}, "step_id": "20"}], "errors": []}`, code)
			}
			return recorded(t, "v0.0.42")(a)
		}).URL)
		if got := backends.KindOf(b.Release(t.Context(), ref)); got != want {
			t.Errorf("release with %d: %q, want %q", code, got, want)
		}
		if got := backends.KindOf(b.Cancel(t.Context(), ref)); got != want {
			t.Errorf("cancel with %d: %q, want %q", code, got, want)
		}
	}
}

// A submit is good only when the server shows the job as it was asked for; a
// job that is not is cancelled, and the outcome is unknown.
func TestSubmitIsVerified(t *testing.T) {
	for what, change := range map[string]func(map[string]any){
		"not held": func(j map[string]any) {
			j["priority"], j["state_reason"] = map[string]any{"set": true, "infinite": false, "number": 5}, "Priority"
		},
		"running":         func(j map[string]any) { j["job_state"] = []string{"RUNNING"} },
		"another name":    func(j map[string]any) { j["name"] = "wrap" },
		"another comment": func(j map[string]any) { j["comment"] = "isthmus/recorded/k21" },
		"no comment":      func(j map[string]any) { j["comment"] = "" },
		"another user":    func(j map[string]any) { j["user_name"] = "isthmus-bob" },
		"another leader":  func(j map[string]any) { j["het_job_id"] = 19 },
	} {
		var reply map[string]any
		if err := json.Unmarshal([]byte(replyFile(t, "v0.0.42", "submitted")), &reply); err != nil {
			t.Fatal(err)
		}
		list, _ := reply["jobs"].([]any)
		first, _ := list[0].(map[string]any)
		change(first)
		raw, err := json.Marshal(reply)
		if err != nil {
			t.Fatal(err)
		}
		s := serve(t, func(a asked) (int, string) {
			if a.method == http.MethodGet && strings.HasSuffix(a.path, "/job/20") {
				return http.StatusOK, string(raw)
			}
			return recorded(t, "v0.0.42")(a)
		})
		id, err := newBackend(t, s.URL).Submit(t.Context(), spec())
		if backends.KindOf(err) != backends.KindUnknownOutcome || id != "" {
			t.Errorf("%s: %q, %v", what, id, err)
		}
		if n := len(s.requests(http.MethodDelete)); n != 1 {
			t.Errorf("%s: %d cancels, want 1", what, n)
		}
	}
}

func TestURLs(t *testing.T) {
	for text, field := range map[string]string{
		"http://cluster.example:6820": "url", "http://10.0.0.1:6820": "url", "http://127.0.0.1.example:6820": "url", "http://[::2]:1": "url",
		"ftp://127.0.0.1": "url", "cluster:6820": "url", "": "url", "https://": "url", "https://user:pw@host": "url", "https://host/slurm": "url",
		"https://host?x=1": "url", "unix://host/path": "url", "unix://": "url", "http://localhost:1/": "", "http://127.8.9.1:6820": "",
		"http://[::1]:6820": "", "https://cluster.example:6820": "", "unix:///run/slurmrestd.socket": "",
	} {
		_, err := slurmrest.New(slurmrest.Config{URL: text, Tokens: fixed{}})
		if got := err != nil && strings.HasPrefix(err.Error(), field+": "); (field != "") != got || (field == "" && err != nil) {
			t.Errorf("%q: %v", text, err)
		}
		if err != nil && strings.Contains(err.Error(), "pw") {
			t.Errorf("%q: the error shows a password", text)
		}
	}
	if _, err := slurmrest.New(slurmrest.Config{URL: "unix:///s"}); err == nil || !strings.HasPrefix(err.Error(), "tokens: ") {
		t.Errorf("without tokens: %v", err)
	}
	if _, err := slurmrest.New(slurmrest.Config{URL: "unix:///s", Tokens: fixed{}, Env: []string{"A"}}); err == nil || !strings.HasPrefix(err.Error(), "env: ") {
		t.Errorf("with half a variable: %v", err)
	}
}

// Only a server that the CA file vouches for is shown a token.
func TestTLS(t *testing.T) {
	shown := 0
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown++
		status, reply := recorded(t, "v0.0.42")(asked{method: r.Method, path: r.URL.Path})
		w.WriteHeader(status)
		fmt.Fprint(w, reply)
	}))
	t.Cleanup(s.Close)
	write := func(name string, data []byte) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := write("ca", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	for _, c := range []struct {
		ca string
		ok bool
	}{{"", false}, {good, true}} {
		b, err := slurmrest.New(slurmrest.Config{URL: s.URL, CAFile: c.ca, Tokens: fixed{}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.Observe(t.Context(), "recorded", []string{"alice"})
		if (err == nil) != c.ok || err != nil && (backends.KindOf(err) != backends.KindTransient || shown != 0) {
			t.Errorf("with CA file %q: %v, %d requests seen", c.ca, err, shown)
		}
	}
	for what, file := range map[string]string{"empty": write("e", nil), "missing": "/nonexistent/ca"} {
		if _, err := slurmrest.New(slurmrest.Config{URL: s.URL, CAFile: file, Tokens: fixed{}}); err == nil || !strings.HasPrefix(err.Error(), "caFile: ") {
			t.Errorf("a CA file that is %s: %v", what, err)
		}
	}
}

// A reply without an end, or one that never comes, costs bounded memory and time.
func TestEndlessReplies(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	mode := "endless"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/jobs") {
			fmt.Fprint(w, `{"errors": []}`)
			return
		}
		if mode == "slow" {
			w.(http.Flusher).Flush()
			select {
			case <-hang:
			case <-r.Context().Done():
			}
			return
		}
		open := map[string]string{"endless": `{"jobs": [`, "one string": `{"x": "`, "deep": ""}[mode]
		next := map[string]string{"endless": `{"comment": "", "user_name": "x"},`, "one string": "yyyyyyyyyyyyyyyy", "deep": `{"a":[`}[mode]
		if _, err := fmt.Fprint(w, open); err != nil {
			return
		}
		chunk := strings.Repeat(next, 1000)
		for {
			if _, err := fmt.Fprint(w, chunk); err != nil {
				return
			}
		}
	}))
	t.Cleanup(s.Close)
	for _, mode = range []string{"endless", "one string", "deep", "slow"} {
		timeout := time.Minute
		if mode == "slow" {
			timeout = 200 * time.Millisecond
		}
		b, err := slurmrest.New(slurmrest.Config{URL: s.URL, Tokens: fixed{}, Timeout: timeout, MaxReply: 4 << 20})
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		_, err = b.Observe(t.Context(), "o", []string{"alice"})
		runtime.GC()
		runtime.ReadMemStats(&after)
		if backends.KindOf(err) != backends.KindTransient {
			t.Errorf("%s: %v", mode, err)
		}
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
			t.Errorf("%s: %d bytes are kept", mode, grown)
		}
	}
}
