package slurmrest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
)

// FuzzReplies: whatever a server sends, it is an error or it makes sense.
func FuzzReplies(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "*", "*.json"))
	if err != nil || len(files) == 0 {
		f.Fatalf("%d files, %v", len(files), err)
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(raw), strings.Contains(name, "v0.0.38"))
	}
	f.Add(`{"jobs": [{"comment": "isthmus/recorded/k", "user_name": "a", "job_id": {"set": true, "number": 1e2}}], "errors": [{"errno": -9}]}`, false)
	f.Fuzz(func(t *testing.T, text string, plain bool) {
		var rows []slurmjob.Component
		on, _ := jobs(func(c slurmjob.Component, ours bool) {
			if !ours {
				return
			}
			if !slurmjob.ValidID(c.ID) || !slurmjob.ValidID(c.Leader) || c.User == "" || c.Word == "" || c.Key == "" || c.Owner != "recorded" ||
				c.Offset < 0 || c.Restarts < 0 || c.ExitCode < 0 || c.Signal < 0 {
				t.Fatalf("read %+v", c)
			}
			rows = append(rows, c)
		}, "recorded")
		d := &dialect{plain: plain}
		on["nodes"] = func(dec *json.Decoder) error {
			return each(dec, func() error {
				var raw rawNode
				if err := dec.Decode(&raw); err != nil {
					return err
				}
				h, err := raw.host(d)
				if err == nil && (h.Name == "" || h.State == "" || h.CPUs < 0 || h.MemoryMiB < 0 || h.Allocated.CPUs < 0 || h.Usable == (h.Why != "")) {
					t.Fatalf("read %+v", h)
				}
				return err
			})
		}
		on["partitions"] = func(dec *json.Decoder) error {
			budget := 1000
			return each(dec, func() error {
				var raw rawPartition
				if err := dec.Decode(&raw); err != nil {
					return err
				}
				p, err := raw.partition(d, &budget)
				if err == nil && (p.Name == "" || p.MaxWalltime < 0 || p.DefaultWalltime < 0 || budget < 0) {
					t.Fatalf("read %+v, budget %d", p, budget)
				}
				return err
			})
		}
		out, err := decode(strings.NewReader(text), on)
		if err != nil {
			return
		}
		for _, e := range out.Errors {
			if strings.ContainsAny(e.String(), "\n\r\x00\x1b") {
				t.Fatalf("an error reads %q", e)
			}
		}
		kind := kindOf(out.Errors)
		if kind == "" {
			t.Fatal("errors without a kind")
		}
		jobs, err := slurmjob.Fold(rows)
		for _, j := range jobs {
			if err != nil || j.ID == "" || j.State == "" || j.Held && j.State != backends.StatePending || !j.Ended.IsZero() && !j.State.Terminal() {
				t.Fatalf("folded %+v, %v", j, err)
			}
		}
	})
}
