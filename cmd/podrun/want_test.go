package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/image/imagetest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// want says which images are to be there before containers are added.
func (b *bench) want(w manifest.Want) {
	b.t.Helper()
	body, err := json.Marshal(w)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, stderr, code := b.agent(body, "want", "--key", "g1", "--rank", "0"); code != 0 {
		b.t.Fatalf("want: exit %d: %s", code, stderr)
	}
}

// The images of containers that are added to a running pod are pulled beside the
// job too, with the pod's secrets, which are gone then; one that cannot be pulled
// keeps none of the others back. The job needs no registry.
func TestAddedImagesBeforeTheyRun(t *testing.T) {
	needs(t, "ch-run")
	b := newBench(t)
	r := imagetest.NewRegistry(t, false, "puller", "canary-word")
	own := r.Push(t, "team/app:v1", imagetest.Shell(t, v1.Config{}))
	tools := r.Push(t, "team/tools:v1", imagetest.Shell(t, v1.Config{Env: []string{"TOOL=yes"}}))
	m := pulled(r, own, sh("main", "sleep 1000"))
	m.secrets = [][]byte{r.Secret()}
	b.stage(m)
	until(t, "the pod's own image is there", func() bool { return b.pull().Done })
	r.Reset()
	none := r.Host + "/team/none:v1"
	w := manifest.Want{Version: manifest.Version, Secrets: [][]byte{r.Secret()},
		Images: []manifest.WantedImage{{Image: tools, Policy: corev1.PullAlways}, {Image: none, Policy: corev1.PullAlways}}}
	b.want(w)
	var last manifest.Pull
	until(t, "one is there and the other is not", func() bool {
		last = b.pull()
		there, missing := false, false
		for _, i := range last.Images {
			there = there || i.Image == tools && i.Done
			missing = missing || i.Image == none && i.Reason == manifest.ReasonErrImagePull
		}
		return there && missing && last.Failures > 0
	})
	b.want(w)
	if again := b.pull(); len(again.Images) != len(last.Images) || again.Failures < last.Failures {
		t.Errorf("asked once more it begins anew: %+v after %+v", again, last)
	}
	if n := r.Count("manifests"); n > 4 {
		t.Errorf("%d requests for manifests: the pod's own image is asked for again", n)
	}
	until(t, "no puller is left", func() bool { return len(b.pullers()) == 0 })
	r.Close()
	pod := b.startPod()
	until(t, "the container runs", func() bool { return b.runningNow("main") })
	look := sh("look", `echo "$TOOL"; cat /etc/image`)
	look.Image, look.ImagePullPolicy = tools, corev1.PullAlways
	b.add(manifest.EphemeralContainer{Container: look})
	until(t, "it has ended", func() bool {
		s, _ := b.status(0)
		return len(s.Ephemeral) == 1 && s.Ephemeral[0].State.Terminated != nil
	})
	if log := b.logs(0, "look"); log != "yes\nisthmus\n" {
		s, _ := b.status(0)
		t.Errorf("log %q, state %+v", log, s.Ephemeral)
	}
	b.stop(manifest.Stop{})
	pod.wait()
	err := filepath.WalkDir(b.root, func(name string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.Contains(name, "/rootfs/") {
			return err
		}
		data, err := os.ReadFile(name) //nolint:gosec // of the test
		if err == nil && strings.Contains(string(data), string(r.Secret())) {
			t.Errorf("%s holds the secret", name)
		}
		if strings.HasSuffix(name, manifest.WantFile) {
			t.Errorf("%s is left", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWantInput(t *testing.T) {
	b := newBench(t)
	b.stage(one(sh("main", "true")))
	for name, body := range map[string]string{"nonsense": "nonsense", "another version": `{"version":99}`} {
		if _, stderr, code := b.agent([]byte(body), "want", "--key", "g1", "--rank", "0"); code == 0 || !strings.Contains(stderr, "wanted") {
			t.Errorf("%s: exit %d: %s", name, code, stderr)
		}
	}
	if _, _, code := b.agent([]byte(`{"version":1}`), "want", "--key", "g1", "--rank", "7"); code == 0 {
		t.Error("a member that does not exist")
	}
}
