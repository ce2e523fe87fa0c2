package provider

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/tools/record"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1/validation"
)

const fileCluster = `
apiVersion: hpc.isthmus.sh/v1alpha1
kind: BatchCluster
metadata: {name: hpc}
spec:
  type: slurm
  accounts: [{namespaceSelector: {}, user: alice}]
  staging: {directory: /shared}
  nodes: [{name: hpc-a, partition: a}]
`

// A file is followed as an object is: a mistake leaves the last good
// configuration at work and is told once, and a good one is taken over.
func TestFileIsFollowed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	write := func(text string) {
		t.Helper()
		tmp := file + ".new"
		if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, file); err != nil {
			t.Fatal(err)
		}
	}
	write(fileCluster)
	opened, closed := 0, 0
	d := &Daemon{Config: Config{
		Source:  FileSource{Path: file},
		Systems: map[string]Factory{"slurm": nil}, Log: logr.Discard(), Reload: 5 * time.Millisecond,
		Served: validation.Served{Types: map[string][]string{"slurm": {"cli"}}, Runtimes: []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost}},
		Connect: func(_ context.Context, c *hpcv1alpha1.BatchCluster) (Connection, error) {
			opened++
			if c.Spec.Accounts[0].User == "nobody" {
				return Connection{}, errors.New("spec.connection: nobody is known there")
			}
			return Connection{Close: func() { closed++ }}, nil
		},
	}}
	cluster, err := d.load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	events := record.NewFakeRecorder(10)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ended := make(chan struct{})
	go d.watchSpec(ctx, cluster, events, func() { close(ended) })

	for _, bad := range []struct{ text, want string }{
		{"{", "did not find"},
		{strings.Replace(fileCluster, "alice", "root", 1), "spec.accounts[0].user"},
		{strings.Replace(fileCluster, "alice", "nobody", 1), "spec.connection: nobody"},
		{strings.Replace(fileCluster, "poll", "pol", 1) + "  pol: {}\n", `unknown field "spec.pol"`},
		{strings.Replace(fileCluster, "{name: hpc}", "{name: other}", 1), "metadata.name"},
	} {
		write(bad.text)
		select {
		case got := <-events.Events:
			if !strings.Contains(got, "InvalidConfiguration") || !strings.Contains(got, bad.want) {
				t.Errorf("event %q, want %q", got, bad.want)
			}
		case <-ended:
			t.Fatalf("taken over: %s", bad.text)
		case <-ctx.Done():
			t.Fatalf("no event about %q", bad.want)
		}
		if !strings.Contains(d.invalidSpec(), bad.want) {
			t.Errorf("problem %q, want %q", d.invalidSpec(), bad.want)
		}
	}
	if n := len(events.Events); n > 0 {
		t.Errorf("%d events more than mistakes", n)
	}
	write(strings.Replace(fileCluster, "alice", "bob", 1))
	select {
	case <-ended:
	case <-ctx.Done():
		t.Fatal("a good configuration is not taken over")
	}
	again, err := d.load(t.Context())
	if err != nil || again.Spec.Accounts[0].User != "bob" || d.invalidSpec() != "" {
		t.Errorf("loaded %v, %v; problem %q", again, err, d.invalidSpec())
	}
	if closed < 3 || opened <= closed {
		t.Errorf("%d connections were made on trial and %d closed", opened, closed)
	}
}

func TestFileMustBeValidAtTheStart(t *testing.T) {
	d := &Daemon{Config: Config{Source: FileSource{Path: filepath.Join(t.TempDir(), "none")}, Log: logr.Discard()}}
	if _, err := d.load(t.Context()); err == nil || !strings.Contains(err.Error(), "read configuration") {
		t.Errorf("error %v", err)
	}
}

// heldSource is an object that somebody mends after it was found wrong.
type heldSource struct {
	cluster hpcv1alpha1.BatchCluster
	told    chan hpcv1alpha1.BatchClusterStatus
}

func (h *heldSource) Load(context.Context) (*hpcv1alpha1.BatchCluster, error) {
	return h.cluster.DeepCopy(), nil
}

func (h *heldSource) Report(_ context.Context, _ *hpcv1alpha1.BatchCluster, s hpcv1alpha1.BatchClusterStatus) error {
	h.told <- s
	return nil
}

// What a batch system's factory finds wrong is told by the object and does not
// end the daemon; with a file, it does.
func TestMistakesThatShowWhenServed(t *testing.T) {
	source := &heldSource{told: make(chan hpcv1alpha1.BatchClusterStatus, 1)}
	d := &Daemon{Config: Config{Source: source, Log: logr.Discard(), Reload: time.Millisecond}}
	wrong := specError{errors.New("spec.local: no partition")}
	if err := d.mistake(t.Context(), &source.cluster, wrong); err != nil {
		t.Errorf("an object's mistake ends the daemon: %v", err)
	}
	if s := <-source.told; len(s.Conditions) != 1 || s.Conditions[0].Reason != "InvalidSpec" || !strings.Contains(s.Conditions[0].Message, "spec.local") {
		t.Errorf("conditions %+v", s.Conditions)
	}
	other := errors.New("the listener is closed")
	if err := d.mistake(t.Context(), &source.cluster, other); !errors.Is(err, other) {
		t.Errorf("another error became %v", err)
	}
	d.Source = FileSource{Path: "x"}
	if err := d.mistake(t.Context(), &source.cluster, wrong); err == nil {
		t.Error("a file's mistake is waited for")
	}
}
