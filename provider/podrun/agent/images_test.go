package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/image"
)

// stocked makes a store with images a, b and c, unused for 3, 2 and 1 days.
func stocked(t *testing.T, dir string) {
	t.Helper()
	for i, name := range []string{"a", "b", "c"} {
		digest := strings.Repeat(name, 64)
		put(t, filepath.Join(dir, "sha256", digest, "image.json"), `{"digest":"sha256:`+digest+`","bytes":1000}`)
		put(t, filepath.Join(dir, "uses", digest), "")
		put(t, filepath.Join(dir, "refs", name+".json"), `{"digest":"sha256:`+digest+`"}`)
		then := time.Now().Add(-time.Duration(3-i)*24*time.Hour - time.Minute)
		if err := errors.Join(os.Chtimes(filepath.Join(dir, "uses", digest), then, then), os.Chtimes(filepath.Join(dir, "sha256", digest), then, then)); err != nil {
			t.Fatal(err)
		}
	}
}

// images tells which are left, by their letters.
func images(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	left := ""
	for _, e := range entries {
		left += e.Name()[:1]
	}
	return left
}

func TestCollectImages(t *testing.T) {
	const day = 24 * time.Hour
	for name, tc := range map[string]struct {
		limits image.Limits
		gang   string // the image that a gang names
		want   string
	}{
		"no limits":              {image.Limits{}, "", "abc"},
		"young enough":           {image.Limits{Unused: 4 * day}, "", "abc"},
		"old":                    {image.Limits{Unused: 2 * day}, "", "c"},
		"old, but a gang has it": {image.Limits{Unused: 2 * day}, "a", "ac"},
		"small enough":           {image.Limits{Bytes: 3000}, "", "abc"},
		"too large":              {image.Limits{Bytes: 2500}, "", "bc"},
		"a gang has the oldest":  {image.Limits{Bytes: 2500}, "a", "ac"},
		"both":                   {image.Limits{Unused: 2 * day, Bytes: 500}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := staged(t, "k1")
			store := filepath.Join(dir, "images")
			stocked(t, store)
			if tc.gang != "" {
				put(t, filepath.Join(dir, "g", "k1", "images", "x.json"), `{"name":"n","digest":"sha256:`+strings.Repeat(tc.gang, 64)+`"}`)
			}
			for range 2 {
				if err := CollectImages(t.Context(), dir, "", tc.limits); err != nil {
					t.Fatal(err)
				}
			}
			if got := images(t, store); got != tc.want {
				t.Errorf("left: %q, want %q", got, tc.want)
			}
			refs, err := os.ReadDir(filepath.Join(store, "refs"))
			if err != nil || len(refs) != len(tc.want) {
				t.Errorf("%d names are left, %v", len(refs), err)
			}
		})
	}
}

// A store is looked at once an hour, and one that is elsewhere is found.
func TestCollectImagesSeldom(t *testing.T) {
	dir, store := staged(t, "k1"), filepath.Join(t.TempDir(), "elsewhere")
	all := image.Limits{Unused: time.Hour}
	if err := CollectImages(t.Context(), dir, store, all); err != nil {
		t.Fatalf("of no store: %v", err)
	}
	stocked(t, store)
	if err := CollectImages(t.Context(), dir, store, all); err != nil || images(t, store) != "" {
		t.Fatalf("left: %q, %v", images(t, store), err)
	}
	stocked(t, store)
	if err := CollectImages(t.Context(), dir, store, all); err != nil || images(t, store) != "abc" {
		t.Errorf("at once again: left %q, %v", images(t, store), err)
	}
	then := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(filepath.Join(store, ".collected"), then, then); err != nil {
		t.Fatal(err)
	}
	if err := CollectImages(t.Context(), dir, store, all); err != nil || images(t, store) != "" {
		t.Errorf("an hour later: left %q, %v", images(t, store), err)
	}
	if err := CollectImages(t.Context(), dir, "relative", all); Code(err) != ExitInvalid {
		t.Errorf("a relative path: %v", err)
	}
}

// What a gang needs must be known before anything is removed.
func TestCollectImagesUnreadable(t *testing.T) {
	dir := staged(t, "k1")
	store := filepath.Join(dir, "images")
	stocked(t, store)
	if err := os.MkdirAll(filepath.Join(dir, "g", "k1", "images", "x.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := CollectImages(t.Context(), dir, "", image.Limits{Unused: time.Hour}); err == nil || images(t, store) != "abc" {
		t.Errorf("left %q, %v", images(t, store), err)
	}
}
