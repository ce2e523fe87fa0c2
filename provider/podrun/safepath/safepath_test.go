package safepath_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/isthmus-hpc/isthmus/provider/podrun/safepath"
)

// world has a directory that is allowed, and one beside it that is not.
func world(t *testing.T) (allowed, foreign string) {
	t.Helper()
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	allowed, foreign = filepath.Join(top, "allowed"), filepath.Join(top, "foreign")
	for _, d := range []string{allowed + "/sub", foreign + "/sub"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(d+"/file", []byte(d), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"out": foreign, "in": "sub", "up": "../foreign/sub", "abs": allowed + "/sub"} {
		if err := os.Symlink(to, filepath.Join(allowed, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(allowed, filepath.Join(top, "door")); err != nil {
		t.Fatal(err)
	}
	return allowed, foreign
}

func TestOpen(t *testing.T) {
	allowed, foreign := world(t)
	door := filepath.Join(filepath.Dir(allowed), "door")
	for _, tc := range []struct {
		name   string
		within []string
		ok     bool
	}{
		{allowed, []string{allowed}, true}, {allowed + "/sub/file", []string{allowed}, true}, {allowed + "/in/file", []string{allowed}, true},
		{allowed + "/abs", []string{allowed}, true}, {allowed + "/out", []string{allowed}, false}, {allowed + "/up/file", []string{allowed}, false},
		{allowed + "/out", []string{allowed, foreign}, true}, {door + "/sub", []string{door}, true}, {foreign, nil, true},
		{filepath.Dir(allowed), []string{allowed}, false}, {allowed + "x", []string{allowed}, false}, {"sub", []string{allowed}, false},
	} {
		f, err := safepath.Open(tc.name, tc.within)
		if (err == nil) != tc.ok {
			t.Errorf("%s within %v: %v", tc.name, tc.within, err)
		}
		if err == nil {
			_ = f.Close()
		}
	}
}

func TestBeneath(t *testing.T) {
	allowed, _ := world(t)
	dir, err := safepath.Open(allowed, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for sub, ok := range map[string]bool{"sub": true, "in/file": true, ".": true, "out": false, "up": false, "abs": false, "../foreign": false, "/etc": false} {
		f, err := safepath.Beneath(dir, sub)
		if (err == nil) != ok {
			t.Errorf("%s: %v", sub, err)
		}
		if err == nil {
			_ = f.Close()
		}
	}
}

// A second process swaps what a name means 10,000 times while it is opened: not
// once does the result lie outside.
func TestSwaps(t *testing.T) {
	allowed, foreign := world(t)
	name := filepath.Join(allowed, "victim")
	next := filepath.Join(allowed, "next")
	stop := make(chan struct{})
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			to := "sub"
			if i%2 == 0 {
				to = foreign + "/sub"
			}
			if os.Symlink(to, next) != nil || os.Rename(next, name) != nil {
				t.Error("the swapper cannot swap")
				return
			}
		}
	})
	dir, err := safepath.Open(allowed, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	opened, refused := 0, 0
	for i := range 10_000 {
		var f *os.File
		var err error
		if i%2 == 0 {
			f, err = safepath.Open(name+"/file", []string{allowed})
		} else {
			f, err = safepath.Beneath(dir, "victim/file")
		}
		switch {
		case err == nil:
			opened++
			data, rerr := os.ReadFile(safepath.Named(f))
			_ = f.Close()
			if rerr != nil || string(data) != allowed+"/sub" {
				t.Fatalf("try %d: read %q, %v", i, data, rerr)
			}
		case errors.Is(err, safepath.ErrOutside):
			refused++
		case !errors.Is(err, os.ErrNotExist):
			t.Fatalf("try %d: %v", i, err)
		}
	}
	close(stop)
	swapper.Wait()
	t.Logf("S9: 10000 paths opened while a link in them is swapped: %d beneath what is allowed, %d refused, 0 foreign", opened, refused)
	if opened == 0 || refused == 0 {
		t.Errorf("the race was not run: %d opened, %d refused", opened, refused)
	}
}
