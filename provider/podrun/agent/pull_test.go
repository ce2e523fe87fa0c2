package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/image"
	"github.com/isthmus-hpc/isthmus/provider/podrun/image/imagetest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/restart"
)

// puller is a user's gangs of images of one registry, with pullers in this process.
type puller struct {
	t      *testing.T
	dir    string
	r      *imagetest.Registry
	starts int
	pause  restart.Backoff
	ended  chan error
	ctx    context.Context //nolint:containedctx // of the pullers, in place of their processes
	kill   context.CancelFunc
}

func newPuller(t *testing.T, user, word string) *puller {
	t.Helper()
	p := &puller{t: t, dir: filepath.Join(t.TempDir(), "alice"), r: imagetest.NewRegistry(t, false, user, word), pause: restart.Kubelet(), ended: make(chan error, 64)}
	p.ctx, p.kill = context.WithCancel(context.Background())
	t.Cleanup(func() {
		p.r.Gate(nil)
		p.kill()
		p.wait()
	})
	return p
}

// wait waits for the end of all pullers.
func (p *puller) wait() {
	p.t.Helper()
	for ; p.starts > 0; p.starts-- {
		select {
		case err := <-p.ended:
			if err != nil {
				p.t.Errorf("puller: %v", err)
			}
		case <-time.After(2 * time.Minute):
			p.t.Fatal("a puller does not end")
		}
	}
}

func (p *puller) push(repository string) string {
	return p.r.Push(p.t, repository, imagetest.Image(p.t, v1.Config{}, imagetest.Layer(p.t, imagetest.File("f", repository, 0o644))))
}

// gang stages a gang of pods with one container an image.
func (p *puller) gang(key string, secrets [][]byte, pods ...[]string) {
	p.t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(name string, v any) {
		data, err := json.Marshal(v)
		if err == nil {
			err = w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(data))})
		}
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
	add("gang.json", manifest.Gang{Version: manifest.Version, Key: key})
	for rank, images := range pods {
		pod := manifest.Pod{Version: manifest.Version, Rank: rank, Runtime: "charliecloud", Images: &manifest.Images{Insecure: []string{p.r.Host}}}
		for i, img := range images {
			pod.Pod.Spec.Containers = append(pod.Pod.Spec.Containers, corev1.Container{Name: fmt.Sprintf("c%d", i), Image: img, ImagePullPolicy: corev1.PullAlways})
		}
		add(fmt.Sprintf("pods/%d/pod.json", rank), pod)
		if secrets != nil {
			add(fmt.Sprintf("pods/%d/%s", rank, manifest.PullSecrets), secrets)
		}
	}
	if err := w.Close(); err != nil {
		p.t.Fatal(err)
	}
	if err := stage(p.dir, key, &buf, program(p.t), ""); err != nil {
		p.t.Fatal(err)
	}
}

// ask is one call of the verb.
func (p *puller) ask(keys ...string) []manifest.PullAnswer {
	p.t.Helper()
	var in, out bytes.Buffer
	for _, key := range keys {
		fmt.Fprintf(&in, "{\"key\":%q}\n", key)
	}
	start := func() error {
		p.starts++
		go func() { p.ended <- Puller(p.ctx, p.dir, p.pause) }()
		return nil
	}
	if err := Pull(p.t.Context(), p.dir, &in, 10*time.Millisecond, start, &out); err != nil {
		p.t.Fatal(err)
	}
	var answers []manifest.PullAnswer
	for dec := json.NewDecoder(&out); dec.More(); {
		var a manifest.PullAnswer
		if err := dec.Decode(&a); err != nil {
			p.t.Fatal(err)
		}
		answers = append(answers, a)
	}
	if len(answers) != len(keys) {
		p.t.Fatalf("%d answers for %d gangs", len(answers), len(keys))
	}
	return answers
}

// until asks about one gang until the answer fits.
func (p *puller) until(what, key string, ok func(manifest.Pull) bool) manifest.Pull {
	p.t.Helper()
	var last manifest.PullAnswer
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); {
		if last = p.ask(key)[0]; last.Code == 0 && ok(last.Pull) {
			return last.Pull
		}
	}
	p.t.Fatalf("%s: not within 2 minutes; last answer %+v", what, last)
	return manifest.Pull{}
}

func done(p manifest.Pull) bool { return p.Done }

// Images come once for all gangs and members, with the pods' secrets, and the
// gangs' directories say which they are.
func TestPull(t *testing.T) {
	p := newPuller(t, "puller", "canary-word")
	a, b := p.push("team/a:v1"), p.push("team/b:v1")
	p.r.Reset()
	hold := make(chan struct{})
	p.r.Gate(func() { <-hold })
	p.gang("k1", [][]byte{p.r.Secret()}, []string{a, b}, []string{a})
	p.gang("k2", [][]byte{p.r.Secret()}, []string{b})
	if got := p.ask("k1", "none"); got[0].Code != ExitDone || got[0].Pull.Done || got[1].Code != ExitNotFound {
		t.Errorf("at first %+v", got)
	}
	got := p.until("the first image is under way", "k1", func(s manifest.Pull) bool { return len(s.Images) > 0 })
	if len(got.Images) != 2 || got.Images[0].Image != a || got.Images[0].Reason != manifest.ReasonPulling || got.Images[1].Image != b || got.Done {
		t.Errorf("under way: %+v", got)
	}
	for range 5 {
		p.ask("k1", "k2")
	}
	if p.starts != 1 {
		t.Errorf("%d pullers for one user", p.starts)
	}
	close(hold)
	p.until("k1 is done", "k1", done)
	p.until("k2 is done", "k2", done)
	p.wait()
	if m, n := p.r.Count("manifests"), p.r.Count("blobs"); m != 3 || n != 4 {
		t.Errorf("%d requests for manifests and %d for blobs, want 3 (one a gang and image) and 4", m, n)
	}
	if got := p.ask("k1")[0]; !got.Pull.Done || p.starts != 0 {
		t.Errorf("once more: %+v, %d pullers", got, p.starts)
	}
	// A job on a host without a network finds it by the gang's record.
	p.r.Reset()
	s := image.New(&manifest.Images{Insecure: []string{"127.0.0.1:1"}}, p.dir)
	img, err := s.Ensure(t.Context(), a, corev1.PullAlways, filepath.Join(p.dir, "g/k1", image.Record(a)))
	if err != nil || p.r.Count("manifests") != 0 {
		t.Fatalf("by the job: %+v, %v, %d requests", img, err, p.r.Count("manifests"))
	}
	s.Close()
	if data, err := os.ReadFile(filepath.Join(img.Rootfs, "f")); err != nil || string(data) != "team/a:v1" {
		t.Errorf("the image holds %q, %v", data, err)
	}
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if needed, err := neededImages(root); err != nil || !needed[img.Digest] || len(needed) != 2 {
		t.Errorf("the collector may remove it: %v, %v", needed, err)
	}
}

// A failure is told, tried again after a growing pause, and keeps nothing else back.
func TestPullFails(t *testing.T) {
	p := newPuller(t, "", "")
	good, late := p.push("good:v1"), p.r.Host+"/late:v1"
	p.gang("k1", nil, []string{late, good, "NO NAME"})
	got := p.until("the failure", "k1", func(s manifest.Pull) bool { return s.Failures > 0 })
	p.wait()
	if len(got.Images) != 3 || got.Images[0].Reason != "ErrImagePull" || got.Images[0].Message == "" || !got.Images[1].Done || got.Images[2].Reason != "InvalidImageName" {
		t.Errorf("state %+v", got.Images)
	}
	if wait := time.Until(got.RetryAt.Time); got.Failures != 1 || wait > 10*time.Second || wait < -time.Minute {
		t.Errorf("%d failures, the next try comes in %s", got.Failures, wait)
	}
	if p.ask("k1"); p.starts > 0 && time.Now().Before(got.RetryAt.Time) {
		t.Error("a puller was started in the pause")
	}
	p.wait()

	p.pause = restart.Backoff{Base: time.Millisecond, Max: time.Millisecond}
	p.gang("k2", nil, []string{late})
	p.until("several failures", "k2", func(s manifest.Pull) bool { return s.Failures > 2 && s.Images[0].Reason == "ErrImagePull" })
	p.push("late:v1")
	if got := p.until("it is there", "k2", done); got.Failures != 0 || !got.Images[0].Done {
		t.Errorf("state %+v", got)
	}
	p.wait()
}

// A gang that is removed ends the pull of its image, and nothing of it comes back.
func TestPullOfARemovedGang(t *testing.T) {
	p := newPuller(t, "", "")
	img := p.push("app:v1")
	asked, hold := make(chan struct{}, 16), make(chan struct{})
	p.r.Gate(func() { asked <- struct{}{}; <-hold })
	p.gang("k1", nil, []string{img})
	p.ask("k1")
	select {
	case <-asked:
	case <-time.After(2 * time.Minute):
		t.Fatal("nobody asks for the image")
	}
	if err := Remove(p.dir, "k1"); err != nil {
		t.Fatal(err)
	}
	p.wait() // although the registry says nothing
	close(hold)
	if left, err := os.ReadDir(filepath.Join(p.dir, "g")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if left, err := filepath.Glob(filepath.Join(p.dir, "images/.pull-*")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if got := p.ask("k1")[0]; got.Code != ExitNotFound {
		t.Errorf("of a gang that is gone: %+v", got)
	}
}

// A gang that is staged anew under its old name has its images pulled anew, also
// while the puller that was done with it is kept alive by another gang.
func TestPullOfAGangStagedAnew(t *testing.T) {
	p := newPuller(t, "", "")
	slow, img := p.push("slow:v1"), p.push("app:v1")
	asked, hold := make(chan struct{}, 16), make(chan struct{})
	p.r.Gate(func() { asked <- struct{}{}; <-hold })
	p.gang("slow", nil, []string{slow})
	p.ask("slow")
	select {
	case <-asked:
	case <-time.After(2 * time.Minute):
		t.Fatal("nobody asks for the slow image")
	}
	p.r.Gate(nil)
	for range 2 {
		p.gang("k1", nil, []string{img})
		p.until("the image is there", "k1", done)
		if err := Remove(p.dir, "k1"); err != nil {
			t.Fatal(err)
		}
	}
	if s := p.ask("slow")[0].Pull; s.Failures > 0 || s.Done {
		t.Errorf("the gang that was staged anew waited for the end of the other's pull: %+v", s)
	}
	close(hold)
	p.until("the slow one is there at last", "slow", done)
	p.wait()
}

// A puller that ends in the middle leaves what it has not said to be done to the
// next one.
func TestPullGoesOn(t *testing.T) {
	p := newPuller(t, "", "")
	img := p.push("app:v1")
	hold := make(chan struct{})
	p.r.Gate(func() { <-hold })
	p.gang("k1", nil, []string{img})
	p.until("it is under way", "k1", func(s manifest.Pull) bool { return len(s.Images) > 0 })
	p.kill()
	p.wait()
	close(hold)
	p.r.Gate(nil)
	p.ctx, p.kill = context.WithCancel(context.Background())
	p.until("the next one has it", "k1", done)
	p.wait()
}

func TestPullInput(t *testing.T) {
	p := newPuller(t, "", "")
	p.gang("k1", nil, []string{"NO NAME"})
	var out bytes.Buffer
	never := func() error { return errors.New("started") }
	if err := Pull(t.Context(), p.dir, strings.NewReader("nonsense"), 0, never, &out); Code(err) != ExitInvalid {
		t.Errorf("nonsense: %v", err)
	}
	if err := Pull(t.Context(), p.dir, strings.NewReader(`{"key":"../k1"}`), 0, never, &out); err != nil || !strings.Contains(out.String(), `"code":3`) {
		t.Errorf("a path as key: %v, %s", err, out.String())
	}
	if err := Pull(t.Context(), p.dir, strings.NewReader(`{"key":"k1"}`), 0, never, &out); err == nil || !strings.Contains(err.Error(), "started") {
		t.Errorf("a puller that cannot be started: %v", err)
	}
	put(t, filepath.Join(p.dir, "g/k1", manifest.PullFile), `{"version":99}`)
	out.Reset()
	if err := Pull(t.Context(), p.dir, strings.NewReader(`{"key":"k1"}`), 0, never, &out); err != nil || !strings.Contains(out.String(), "version 99") {
		t.Errorf("of another version: %v, %s", err, out.String())
	}
}
