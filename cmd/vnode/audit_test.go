package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"

	"github.com/isthmus-hpc/isthmus/provider/account"
)

func TestAuditLog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	for _, key := range []string{"first", "second"} { // a restart goes on in the same file
		sink, end, err := auditTo(file, logr.Discard())
		if err != nil {
			t.Fatal(err)
		}
		sink(account.Submission{Key: key, User: "alice", Outcome: account.Submitted})
		end()
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines: %s", len(lines), raw)
	}
	var got account.Submission
	if err := json.Unmarshal([]byte(lines[1]), &got); err != nil || got.Key != "second" || got.User != "alice" {
		t.Errorf("%+v, %v", got, err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if sink, _, err := auditTo("", logr.Discard()); sink != nil || err != nil {
		t.Errorf("a sink without a file: %v", err)
	}
	if _, _, err := auditTo(filepath.Join(t.TempDir(), "none", "x"), logr.Discard()); err == nil {
		t.Error("no error")
	}
}
