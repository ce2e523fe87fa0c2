package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/image/imagetest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/runtimetest"
)

func TestHostConforms(t *testing.T) {
	runtimetest.Run(t, runtimetest.Runtime{Node: conforming("host")})
}

func TestCharliecloudConforms(t *testing.T) {
	needs(t, "ch-run")
	runtimetest.Run(t, runtimetest.Runtime{Image: true, Node: conforming("charliecloud")})
}

func TestPodmanConforms(t *testing.T) {
	needs(t, "podman")
	runtimetest.Run(t, runtimetest.Runtime{Image: true, Root: true, OwnPIDs: true, Node: conforming("podman")})
}

// node runs pods of the conformance suite with the program under test.
type node struct {
	b       *bench
	runtime string
	image   string
	images  *manifest.Images
	dir     string
}

func conforming(runtime string) func(*testing.T, v1.Config, ...imagetest.Entry) runtimetest.Node {
	return func(t *testing.T, config v1.Config, more ...imagetest.Entry) runtimetest.Node {
		n := &node{b: newQuietBench(t), runtime: runtime}
		n.dir = filepath.Join(filepath.Dir(n.b.root), "shared")
		if err := os.Mkdir(n.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(n.dir, n.b.who.uid, n.b.who.gid); err != nil {
			t.Fatal(err)
		}
		if runtime != "host" {
			n.image, n.images = archived(t, n.b, imagetest.Shell(t, config, more...))
		}
		return n
	}
}

func (n *node) Dir() string { return n.dir }
func (n *node) UID() int    { return n.b.who.uid }

func (n *node) Start(p runtimetest.Pod) runtimetest.Running {
	n.b.t.Helper()
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			list[i].Image, list[i].ImagePullPolicy = n.image, corev1.PullIfNotPresent
		}
	}
	n.b.stage(member{spec: p.Spec, env: p.Env, volumes: p.Volumes, files: p.Files, grace: p.Grace, runtime: n.runtime, images: n.images})
	return started{n.b, n.b.startPod()}
}

type started struct {
	b *bench
	r *running
}

func (s started) Until(what string, ok func() bool) { until(s.b.t, what, ok) }
func (s started) Status() (manifest.Status, bool)   { return s.b.status(0) }
func (s started) Logs(container string) string {
	out, _, _ := s.b.agent(nil, "logs", "--key", "g1", "--rank", "0", "--container", container)
	return out
}
func (s started) Stop(grace int64) { s.b.stop(manifest.Stop{GraceSeconds: grace}) }
func (s started) Wait() manifest.Status {
	s.b.t.Helper()
	s.r.wait()
	status, ok := s.b.status(0)
	if !ok {
		s.b.t.Fatal("the pod has no status")
	}
	return status
}

// archived writes an image as an archive that the bench's user can read.
func archived(t *testing.T, b *bench, img v1.Image) (image string, images *manifest.Images) {
	t.Helper()
	dir := filepath.Join(filepath.Dir(b.root), "archives")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("app:v1")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "app.tar")
	if err := tarball.WriteToFile(file, tag, img); err != nil {
		t.Fatal(err)
	}
	return "docker-archive:" + file, &manifest.Images{Archives: []string{dir}}
}

// pulled is a pod of an image of a registry.
func pulled(r *imagetest.Registry, image string, cs ...corev1.Container) member {
	m := one(cs...)
	for i := range m.spec.Containers {
		m.spec.Containers[i].Image, m.spec.Containers[i].ImagePullPolicy = image, corev1.PullAlways
	}
	m.runtime, m.images = "charliecloud", &manifest.Images{Insecure: []string{r.Host}}
	return m
}

// A gang pulls once, with a secret that is nowhere afterwards.
func TestGangPullsOnce(t *testing.T) {
	needs(t, "ch-run")
	b := newBench(t)
	r := imagetest.NewRegistry(t, false, "puller", "canary-word")
	image := r.Push(t, "team/app:v1", imagetest.Shell(t, v1.Config{}))
	r.Reset()
	var members []member
	for range 4 {
		m := pulled(r, image, sh("main", "cat /etc/image"))
		m.secrets = [][]byte{r.Secret()}
		members = append(members, m)
	}
	b.stage(members...)
	if code := b.launch(); code != 0 {
		s, _ := b.status(0)
		t.Fatalf("launch: exit %d, %+v", code, s)
	}
	for rank := range members {
		if got := b.logs(rank, "main"); got != "isthmus\n" {
			t.Errorf("rank %d: log %q", rank, got)
		}
	}
	if m, n := r.Count("manifests"), r.Count("blobs"); m != 1 || n != 3 {
		t.Errorf("%d requests for manifests and %d for blobs, want 1 and 3", m, n)
	}
	var found []string
	err := filepath.WalkDir(filepath.Dir(b.root), func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(p)
		if bytes.Contains(data, []byte("canary-word")) || bytes.Contains(data, r.Secret()) || filepath.Base(p) == manifest.PullSecrets {
			found = append(found, p)
		}
		return err
	})
	if err != nil || len(found) > 0 {
		t.Errorf("the secret is left in %v, %v", found, err)
	}
}

// A puller that is killed leaves no half image; the next one pulls it whole.
func TestPullerKilled(t *testing.T) {
	needs(t, "ch-run")
	b := newBench(t)
	r := imagetest.NewRegistry(t, false, "", "")
	image := r.Push(t, "app:v1", imagetest.Shell(t, v1.Config{}))
	r.Reset()
	b.stage(pulled(r, image, sh("main", "cat /etc/image /layer2")))
	asked, hold := make(chan struct{}, 16), make(chan struct{})
	r.Gate(func() {
		asked <- struct{}{}
		if r.Count("blobs") == 3 { // the configuration and the first layer are through
			<-hold
		}
	})
	first := b.startPod()
	until(t, "the second layer is asked for", func() bool { return r.Count("blobs") == 3 })
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-first.done
	close(hold)
	r.Gate(nil)
	half, err := filepath.Glob(filepath.Join(b.root, "images/.pull-*"))
	if err != nil || len(half) == 0 {
		t.Errorf("nothing was in the making: %v", err)
	}
	if whole, err := filepath.Glob(filepath.Join(b.root, "images/sha256/*")); err != nil || len(whole) > 0 {
		t.Errorf("half an image is in place: %v, %v", whole, err)
	}
	if code := b.pod(); code != 0 {
		s, _ := b.status(0)
		t.Fatalf("exit %d, %+v", code, s)
	}
	if got := b.logs(0, "main"); !strings.HasSuffix(got, "isthmus\ntwo\n") {
		t.Errorf("log %q", got)
	}
	if half, err := filepath.Glob(filepath.Join(b.root, "images/.pull-*")); err != nil || len(half) > 0 {
		t.Errorf("left: %v, %v", half, err)
	}
	b.emptyTemp() // what the killed one could not remove
}

// waits waits until the first container of rank 0 waits for that reason.
func (b *bench) waits(reason string) {
	b.t.Helper()
	var last corev1.ContainerState
	seen := func() bool {
		if s, ok := b.status(0); ok && len(s.Containers) > 0 {
			last = s.Containers[0].State
		}
		return last.Waiting != nil && last.Waiting.Reason == reason
	}
	defer func() {
		if b.t.Failed() {
			b.t.Logf("the container's last state is %+v", last)
		}
	}()
	until(b.t, "the reason is "+reason, seen)
}

// Reasons are the kubelet's, and the pod goes on once the cause has gone.
func TestPullReasons(t *testing.T) {
	needs(t, "ch-run")
	for name, tc := range map[string]struct {
		policy  corev1.PullPolicy
		image   string
		reasons []string
	}{
		"not there":  {corev1.PullAlways, "app:none", []string{"ErrImagePull", "ImagePullBackOff"}},
		"never":      {corev1.PullNever, "app:none", []string{"ErrImageNeverPull"}},
		"no name":    {corev1.PullAlways, "APP:none", []string{"InvalidImageName"}},
		"comes late": {corev1.PullAlways, "app:late", []string{"ErrImagePull"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			r := imagetest.NewRegistry(t, false, "", "")
			m := pulled(r, r.Host+"/"+tc.image, sh("main", "echo ran"))
			m.spec.Containers[0].ImagePullPolicy = tc.policy
			b.stage(m)
			// The reasons take turns for as long as the cause is there, each for half a
			// second: a look that comes late sees them the next time.
			p := b.startPod("--backoff-base=1s", "--backoff-max=1s")
			for _, want := range tc.reasons {
				b.waits(want)
			}
			if name == "comes late" {
				r.Push(t, tc.image, imagetest.Shell(t, v1.Config{}))
				if code := p.wait(); code != 0 || b.logs(0, "main") != "ran\n" {
					t.Errorf("exit %d", code)
				}
				return
			}
			if err := p.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			p.wait()
			b.final(0, manifest.PhaseFailed)
		})
	}
}
