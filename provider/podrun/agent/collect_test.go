package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

func put(t *testing.T, file, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func collected(t *testing.T, dir string) manifest.Collected {
	t.Helper()
	var buf bytes.Buffer
	if err := Collect(dir, &buf); err != nil {
		t.Fatal(err)
	}
	var c manifest.Collected
	if err := json.Unmarshal(buf.Bytes(), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCollect(t *testing.T) {
	if c := collected(t, filepath.Join(t.TempDir(), "missing")); len(c.Gangs) != 0 {
		t.Errorf("of nothing: %+v", c)
	}
	dir := staged(t, "k1", "k2", "k3")
	g := func(name string) string { return filepath.Join(dir, "g", name) }
	put(t, g("k1/pods/0/status.json"), `{"rank":0,"seq":7,"phase":"Running"}`)
	put(t, g("k1/pods/1/status.json"), `{"rank":1,"ph`)            // torn
	put(t, g("k1/pods/2/status.json"), `{"rank":0,"phase":"X"}`)   // another's
	put(t, g("k1/pods/03/status.json"), `{"rank":3,"phase":"X"}`)  // no rank
	put(t, g("k1/batch.log"), "not wanted while pods have status") //
	put(t, g("k2/end.json"), `{"restart":1,"exitCode":2}`)
	put(t, g("k2/batch.log"), strings.Repeat("0123456789", 1000)+"the end\xff")
	put(t, g(".stage-abc/pods/0/status.json"), `{"rank":0}`)
	put(t, g(".stage-old-1/f"), "x")
	if err := os.Chtimes(g(".stage-old-1"), time.Time{}, time.Now().Add(-2*litterAge)); err != nil {
		t.Fatal(err)
	}
	put(t, g("stray"), "a file")
	if err := os.Symlink("/etc/passwd", g("k3/batch.log")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(g("k3/pods/0/status.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := collected(t, dir)
	if _, err := os.Lstat(g(".stage-old-1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a killed verb left long ago is still there: %v", err)
	}
	if _, err := os.Lstat(g(".stage-abc")); err != nil {
		t.Errorf("what a verb may be at work on: %v", err)
	}
	if len(c.Gangs) != 4 { // "stray" is a valid key of something that is no gang
		t.Logf("gangs: %v", c.Gangs)
	}
	k1, k2, k3 := c.Gangs["k1"], c.Gangs["k2"], c.Gangs["k3"]
	if len(k1.Pods) != 1 || k1.Pods[0].Seq != 7 || k1.End != nil || k1.BatchLogTail != "" {
		t.Errorf("k1: %+v", k1)
	}
	if k2.End == nil || k2.End.ExitCode != 2 || !strings.HasSuffix(k2.BatchLogTail, "the end?") || len(k2.BatchLogTail) != batchLogTail {
		t.Errorf("k2: %+v", k2)
	}
	if len(k3.Pods) != 0 || k3.BatchLogTail != "" {
		t.Errorf("k3: %+v", k3)
	}
	if _, ok := c.Gangs["stray"]; ok {
		t.Error("a stray file is a gang")
	}
}

// 2,000 pods are read whole.
func TestCollectMany(t *testing.T) {
	dir := staged(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	status := func(rank int) string {
		data, err := json.Marshal(manifest.Status{Rank: rank, Phase: manifest.PhaseRunning, Message: strings.Repeat("x", 500)})
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for g := range 20 {
		for rank := range 100 {
			put(t, filepath.Join(dir, "g", "k"+strconv.Itoa(g), "pods", strconv.Itoa(rank), "status.json"), status(rank))
		}
	}
	began := time.Now()
	c := collected(t, dir)
	took := time.Since(began)
	n := 0
	for _, g := range c.Gangs {
		n += len(g.Pods)
	}
	if n != 2000 {
		t.Errorf("%d pods, want 2000", n)
	}
	t.Logf("2,000 pods in %v", took) // a figure for people: how busy the machine is cannot be known
}
