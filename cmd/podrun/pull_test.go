package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/image/imagetest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// pull asks for the gang's images and gives the answer.
func (b *bench) pull() manifest.Pull {
	b.t.Helper()
	out, stderr, code := b.agent([]byte(`{"key":"g1"}`), "pull")
	var a manifest.PullAnswer
	if err := json.Unmarshal([]byte(out), &a); err != nil || code != 0 || a.Code != 0 || a.Key != "g1" {
		b.t.Fatalf("pull: exit %d: %s%s", code, out, stderr)
	}
	return a.Pull
}

// pullers are the processes that pull for the bench's user.
func (b *bench) pullers() []int {
	b.t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		b.t.Fatal(err)
	}
	var out []int
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil || !bytes.HasSuffix(data, []byte("\x00agent\x00puller\x00--root\x00"+b.root+"\x00")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// Images are pulled before the job by a process that outlives the verb, by the
// next one when that is killed, and the job needs no registry.
func TestPullBeforeTheJob(t *testing.T) {
	needs(t, "ch-run")
	b := newBench(t)
	r := imagetest.NewRegistry(t, false, "puller", "canary-word")
	image := r.Push(t, "team/app:v1", imagetest.Shell(t, v1.Config{}))
	r.Reset()
	hold := make(chan struct{})
	r.Gate(func() { <-hold })
	m := pulled(r, image, sh("main", "cat /etc/image"))
	m.secrets = [][]byte{r.Secret()}
	b.stage(m, m)
	if got := b.pull(); got.Done || len(got.Images) > 0 && got.Images[0].Reason != manifest.ReasonPulling {
		t.Errorf("at first %+v", got)
	}
	until(t, "the registry is asked", func() bool { return r.Count("blobs") == 1 })
	first := b.pullers()
	if b.pull(); len(first) != 1 || len(b.pullers()) != 1 || b.pullers()[0] != first[0] {
		t.Fatalf("pullers %v, then %v", first, b.pullers())
	}
	group, err := syscall.Getpgid(first[0])
	if err != nil || group != first[0] {
		t.Errorf("the puller %d is in the group %d, %v: it ends with its caller", first[0], group, err)
	}
	if err := syscall.Kill(first[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	close(hold)
	r.Gate(nil)
	var last manifest.Pull
	until(t, "the next puller has it", func() bool { last = b.pull(); return last.Done })
	until(t, "no puller is left", func() bool { return len(b.pullers()) == 0 })
	r.Close()
	if code := b.launch(); code != 0 {
		s, _ := b.status(0)
		t.Fatalf("launch without a registry: exit %d, %+v", code, s)
	}
	for rank := range 2 {
		if got := b.logs(rank, "main"); got != "isthmus\n" {
			t.Errorf("rank %d: log %q", rank, got)
		}
	}
	if left, err := filepath.Glob(filepath.Join(b.root, "images/.pull-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A pull that failed says why, and goes on with a later call.
func TestPullBeforeTheJobFails(t *testing.T) {
	needs(t, "ch-run")
	b := newBench(t)
	r := imagetest.NewRegistry(t, false, "", "")
	m := pulled(r, r.Host+"/app:none", sh("main", "true"))
	m.spec.Containers[0].ImagePullPolicy = corev1.PullAlways
	b.stage(m)
	var last manifest.Pull
	until(t, "the failure is told", func() bool { last = b.pull(); return last.Failures == 1 })
	if len(last.Images) != 1 || last.Images[0].Reason != "ErrImagePull" || last.Images[0].Message == "" || last.RetryAt.IsZero() {
		t.Errorf("answer %+v", last)
	}
	until(t, "no puller waits", func() bool { return len(b.pullers()) == 0 })
}
