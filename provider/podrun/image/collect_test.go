package image_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/image"
	"github.com/isthmus-hpc/isthmus/provider/podrun/image/imagetest"
)

// aged makes an image look as if it had not been used for long.
func aged(t *testing.T, s *image.Store, img image.Image) {
	t.Helper()
	then := time.Now().Add(-48 * time.Hour)
	digest := strings.TrimPrefix(img.Digest, "sha256:")
	for _, f := range []string{filepath.Join("uses", digest), filepath.Join("sha256", digest)} {
		if err := os.Chtimes(filepath.Join(s.Dir, f), then, then); err != nil {
			t.Fatal(err)
		}
	}
}

func nobody(string) bool { return false }

// An image that a process uses stays, whatever the limits and the clocks say; when
// that process has ended it goes, and whoever wants it then pulls it again.
func TestCollect(t *testing.T) {
	r := imagetest.NewRegistry(t, false, "", "")
	full := r.Push(t, "team/app:v1", small(t, "one"))
	s, other := store(t, r), store(t, r)
	other.Dir = s.Dir
	ctx := limit(t)
	img, err := s.Ensure(ctx, full, corev1.PullIfNotPresent, "")
	if err != nil {
		t.Fatal(err)
	}
	if img.Bytes < 1 {
		t.Errorf("the image takes %d bytes", img.Bytes)
	}
	old := image.Limits{Unused: time.Hour, Bytes: 1}
	aged(t, s, img)
	if got, err := other.Collect(ctx, old, nobody); err != nil || len(got) > 0 {
		t.Fatalf("removed %v although it is held, %v", got, err)
	}
	s.Close()
	if got, err := other.Collect(ctx, old, nobody); err != nil || len(got) > 0 {
		t.Fatalf("removed %v although it was used a moment ago, %v", got, err)
	}
	aged(t, s, img)
	if got, err := other.Collect(ctx, old, func(d string) bool { return d == img.Digest }); err != nil || len(got) > 0 {
		t.Fatalf("removed %v although it is needed, %v", got, err)
	}
	has(t, img, "d/f", "one")
	got, err := other.Collect(ctx, old, nobody)
	if err != nil || len(got) != 1 || got[0].Digest != img.Digest || got[0].Bytes != img.Bytes {
		t.Fatalf("removed %v, %v", got, err)
	}
	if _, err := os.Stat(img.Rootfs); !os.IsNotExist(err) {
		t.Errorf("the image is still there: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(s.Dir, ".gone-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	r.Reset()
	if img, err = s.Ensure(ctx, full, corev1.PullIfNotPresent, ""); err != nil {
		t.Fatal(err)
	}
	has(t, img, "d/f", "one")
	if r.Count("blobs") == 0 {
		t.Error("the image came from nowhere")
	}
}

// Users and the collector at once: nobody who was given an image loses it.
func TestCollectBesideUsers(t *testing.T) {
	r := imagetest.NewRegistry(t, false, "", "")
	full := r.Push(t, "app:v1", small(t, "one"))
	dir := filepath.Join(t.TempDir(), "images")
	ctx := limit(t)
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		removed := 0
		defer func() { done <- removed }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			s := &image.Store{Dir: dir}
			// The clock is on nobody's side: only locks protect.
			then := time.Now().Add(-48 * time.Hour)
			uses, _ := filepath.Glob(filepath.Join(dir, "uses", "*")) // the pattern is well-formed
			images, _ := filepath.Glob(filepath.Join(dir, "sha256", "*"))
			for _, f := range append(uses, images...) {
				_ = os.Chtimes(f, then, then) // it may be gone
			}
			got, err := s.Collect(ctx, image.Limits{Unused: time.Hour}, nobody)
			if err != nil {
				t.Error(err)
				return
			}
			removed += len(got)
		}
	}()
	for range 50 {
		s := &image.Store{Dir: dir, Insecure: []string{r.Host}}
		img, err := s.Ensure(ctx, full, corev1.PullIfNotPresent, "")
		if err != nil {
			t.Fatal(err)
		}
		has(t, img, "d/f", "one")
		s.Close()
	}
	close(stop)
	t.Logf("removed %d times between 50 uses", <-done)
}
