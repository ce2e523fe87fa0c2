package pbs_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/pbs"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
)

// What a job came after goes with the record of its end, and not before.
func TestOldRecords(t *testing.T) {
	dir, shell := t.TempDir(), local.New()
	r := &answers{t: t, files: map[string]string{"qstat --version": "pbs_version = 23.06.06\n", "qstat -B -f": "Server: s\n", "qstat -f": ""}}
	r.say = func(c transport.Command) (transport.Result, error) {
		if c.Argv[0] != "/bin/sh" {
			return transport.Result{Exit: -1}, nil
		}
		c.User = "" // whoever runs the test
		return shell.Run(t.Context(), c)
	}
	b, err := pbs.New(pbs.Config{Runner: r, Dialect: pbs.Pro, Records: func(string) (string, error) { return dir, nil }})
	if err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	now := time.Now()
	for name, age := range map[string]time.Duration{
		"1.pbs.end": 2 * day, "1.pbs.after": 3 * day, // ended
		"2.pbs.cancel": 2 * day, "2.pbs.after": 3 * day, // was cancelled
		"3.pbs.end": day / 2, "3.pbs.after": 3 * day, // has just ended
		"4.pbs.run": 2 * day, "4.pbs.after": 3 * day, // runs
		"5.pbs.after": 3 * day, // waits
		"6.pbs.after": 40 * day,
		"7.pbs.new":   2 * day,
		"8 $(x).end":  2 * day, "8 $(x).after": 3 * day,
	} {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(at, now, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if o, err := b.Observe(t.Context(), "o", []string{"alice"}); err != nil || !o.Complete {
		t.Fatalf("%+v, %v", o, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"3.pbs.after", "3.pbs.end", "4.pbs.after", "4.pbs.run", "5.pbs.after"}; !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
}
