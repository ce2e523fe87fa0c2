package slurmrest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/backendtest"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// hostile are texts that break careless quoting, JSON made by hand, or what Slurm makes
// of a field; M stands for a file that nobody is to make.
func hostile() []string {
	return []string{
		"-a", "--uid=0", "--wrap=id", ":", "a:b", "a b", " ", "'", `"`, "`id`", "`touch M`", "$(touch M)", "${HOME}", "a;touch${IFS}M", "a|id", "a&&id", "a>M",
		"a\nb", "#SBATCH --uid=0", "\n#SBATCH --uid=0", "a\x00b", "\t", "\r", "\x1f", "\x7f", "\xff", "%j", "%%", `\`, `\\`, "*", "?", "[1-2]", "{a,b}", "~", "!!",
		"root", "..", "/", "é", "東京", "\u202e", "\u2028", strings.Repeat("x", 10000),
		`","hold":false,"x":"`, `"}],"script":"#!/bin/sh\ntouch M`, `\u0022`, "';touch${IFS}M;'", `";touch${IFS}M;"`, "\r\ntouch M\n", "null", "{}", "[]", "M:+1", "--", "-",
	}
}

func fields() map[string]func(*backends.JobSpec, string) {
	return map[string]func(*backends.JobSpec, string){
		"partition":                 func(s *backends.JobSpec, v string) { s.Partition = v },
		"account":                   func(s *backends.JobSpec, v string) { s.Account = v },
		"qos":                       func(s *backends.JobSpec, v string) { s.QOS = v },
		"constraints":               func(s *backends.JobSpec, v string) { s.Constraint = v },
		"reservation":               func(s *backends.JobSpec, v string) { s.Reservation = v },
		"licenses":                  func(s *backends.JobSpec, v string) { s.Licenses = map[string]int64{v: 1} },
		"current_working_directory": func(s *backends.JobSpec, v string) { s.WorkDir = "/w/" + v },
		"name":                      func(s *backends.JobSpec, v string) { s.Key = backends.Key(v) },
		"comment":                   func(s *backends.JobSpec, v string) { s.Owner = v },
	}
}

// TestHostileStrings: whatever a field holds, it is refused, or it is the value of that
// field of the request, byte for byte, and no other field changes.
func TestHostileStrings(t *testing.T) {
	for _, version := range []string{"v0.0.38", "v0.0.40", "v0.0.44"} {
		s := serve(t, recorded(t, version))
		b := newBackend(t, s.URL)
		sent := func(job backends.JobSpec) map[string]any {
			before := len(s.requests(http.MethodPost))
			// The recorded job is another, so what was sent is all that counts.
			_, err := b.Submit(t.Context(), job)
			posts := s.requests(http.MethodPost)[before:]
			if len(posts) > 0 {
				return posts[0].body
			}
			if kind := backends.KindOf(err); kind != backends.KindInvalid {
				t.Fatalf("%s without a request: %v", kind, err)
			}
			return nil
		}
		plain := spec()
		plain.Components = plain.Components[:1]
		accepted := 0
		for field, set := range fields() {
			ordinary := plain
			set(&ordinary, "ordinary")
			base := sent(ordinary)
			for _, v := range hostile() {
				job := plain
				set(&job, v)
				got := sent(job)
				if got == nil {
					continue
				}
				accepted++
				if a, b := others(t, got, field, v), others(t, base, field, "ordinary"); a != b {
					t.Errorf("%s %s=%q: the request is\n%s, want\n%s", version, field, v, a, b)
				}
			}
		}
		if accepted < 60 {
			t.Errorf("%s: only %d texts got as far as a request: what is refused shows nothing", version, accepted)
		}
	}
}

// others is a request without the field, which has to hold the text, and those that are
// made of it.
func others(t *testing.T, body map[string]any, field, text string) string {
	t.Helper()
	job, _ := body["job"].(map[string]any)
	if got := fmt.Sprint(job[field]); !strings.Contains(got, text) {
		t.Errorf("%s is %.200q, without %.200q", field, got, text)
	}
	rest := map[string]any{}
	for name, value := range job {
		made := field == "current_working_directory" && name == "standard_output" || field == "name" && name == "comment"
		if name != field && !made {
			rest[name] = value
		}
	}
	raw, err := json.Marshal([]any{len(body), body["script"], rest})
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestHostileStringsOnSlurm: the real slurmrestd takes or refuses such texts, runs
// nothing of them, and what it takes is our job, held and of our user.
func TestHostileStringsOnSlurm(t *testing.T) {
	t.Parallel()
	c := realCluster(t, false)
	b := newReal(t, c, c.RESTSocket())
	d := backendtest.DiskOf(t, account.Alice)
	dir := t.TempDir()
	marker := filepath.Join(dir, "made")
	if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // whoever runs a text has to be able to make the file
		t.Fatal(err)
	}
	const owner = "hostile-rest"
	tried, taken := 0, map[backends.JobID]backends.Key{}
	for field, set := range fields() {
		if field == "name" || field == "comment" || field == "current_working_directory" {
			continue // of a form of our own, and of the conformance suite's cases
		}
		for i, v := range hostile() {
			key := backends.Key(fmt.Sprintf("h%s%d", field[:2], i))
			job := backends.JobSpec{
				Key: key, Owner: owner, User: account.Alice, Partition: "suite", WorkDir: d.Place(t, string(key), backendtest.Program{}),
				Components: []backends.Component{{Tasks: 1, CPUs: 1, MemoryMiB: 10}},
			}
			set(&job, strings.ReplaceAll(v, "M", marker))
			tried++
			id, err := b.Submit(t.Context(), job)
			switch kind := backends.KindOf(err); {
			case err == nil:
				taken[id] = key
			case kind == backends.KindUnknownOutcome, kind == backends.KindTransient && !strings.Contains(err.Error(), "eservation"):
				t.Errorf("%s %q: %v", field, v, err)
			}
		}
	}
	seen, err := b.Observe(t.Context(), owner, []string{account.Alice})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range seen.Jobs {
		if j.State.Terminal() {
			continue // Slurm keeps a record of some that it refused
		}
		if key, ours := taken[j.ID]; !ours || j.Key != key || !j.Held || j.User != account.Alice || j.Partition != "suite" {
			t.Errorf("there is a job %+v, want one of %v", j, taken)
		}
		if err := b.Cancel(t.Context(), backends.JobRef{ID: j.ID, Key: j.Key, User: j.User}); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(marker); err == nil {
		t.Error("a text was executed")
	}
	t.Logf("%d texts, %d taken, 0 executed", tried, len(taken))
}
