package pod

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// Whatever comes is noticed with the next look, and while nothing comes, nothing is
// read but now and then.
func TestOrders(t *testing.T) {
	dir := t.TempDir()
	pod := filepath.Join(dir, "pods/0")
	if err := os.MkdirAll(pod, 0o700); err != nil {
		t.Fatal(err)
	}
	gang, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer gang.Close()
	o := newOrders(gang, "pods/0", controlName, manifest.UpdatesDir)
	defer o.close()
	settle := func(when string) {
		t.Helper()
		eager := 0
		for o.due() { // of what came before
			if eager++; eager > lookTwice {
				t.Fatalf("%s: everything is read with each look, though nothing has come", when)
			}
		}
		for look := 2; look < lookAnyway; look++ {
			if o.due() {
				t.Fatalf("%s: everything is read with look %d, though nothing has come", when, look)
			}
		}
		if !o.due() {
			t.Fatalf("%s: nothing is read after %d looks", when, lookAnyway)
		}
	}
	write := func(name string) func() error {
		return func() error { return atomicfile.Write(gang, name, []byte("{}")) }
	}
	if !o.due() {
		t.Fatal("what was there before the first look is not read")
	}
	settle("at the start")
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"a stop", write("pods/0/ctl/stop")},
		{"a stop in place of it", write("pods/0/ctl/stop")},
		{"added containers", write("pods/0/" + manifest.EphemeralFile)},
		{"the launcher's word", write(TerminateFile)},
		{"new contents", func() error {
			from := filepath.Join(dir, "staged")
			if err := os.Mkdir(from, 0o700); err != nil {
				return err
			}
			return os.Rename(from, filepath.Join(pod, manifest.UpdatesDir, "1"))
		}},
		{"a directory in place of the one before", func() error {
			if err := os.RemoveAll(filepath.Join(pod, controlName)); err != nil {
				return err
			}
			return os.Mkdir(filepath.Join(pod, controlName), 0o700)
		}},
	} {
		// What comes within one step of the file system's clock leaves no trace.
		for deadline := time.Now().Add(time.Minute); ; {
			if err := c.do(); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if o.differs() {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: done over and over for a minute, and the directories look as before: %+v", c.name, o.seen)
			}
			<-time.After(time.Millisecond)
		}
		for look := range lookTwice {
			if !o.due() {
				t.Errorf("%s: not read with look %d after it", c.name, look)
			}
		}
		settle(c.name)
	}
	// What cannot be looked at is read each time.
	if err := os.RemoveAll(filepath.Join(pod, controlName)); err != nil {
		t.Fatal(err)
	}
	for range 2 * lookTwice {
		if !o.due() {
			t.Fatal("without the directory nothing is read")
		}
	}
	none := newOrders(gang, "pods/1", controlName)
	for range 2 {
		if !none.due() {
			t.Error("without the pod's directory nothing is read")
		}
	}
}

// differs reports whether a directory does not look as it did at the last look.
func (o *orders) differs() bool {
	for i := range o.seen {
		if now, ok := o.stamp(i); !ok || now != o.seen[i] {
			return true
		}
	}
	return false
}

func TestOrderDirs(t *testing.T) {
	p := &manifest.Pod{Pod: corev1.Pod{}, Volumes: map[string]manifest.Volume{"a": {Kind: "emptyDir"}}}
	if got := orderDirs(p); len(got) != 1 || got[0] != controlName {
		t.Errorf("of a pod without contents: %v", got)
	}
	p.Volumes["b"] = manifest.Volume{Kind: "files"}
	if got := orderDirs(p); len(got) != 2 || got[1] != manifest.UpdatesDir {
		t.Errorf("of a pod with contents: %v", got)
	}
}

func TestBell(t *testing.T) {
	b, quit := newBell(), make(chan struct{})
	b.ring()
	b.ring() // nobody has looked yet: once is enough
	if !b.wait(0, quit) {
		t.Fatal("what was told before the wait is forgotten")
	}
	if !b.wait(time.Millisecond, quit) {
		t.Fatal("it does not come back after its limit")
	}
	close(quit)
	if b.wait(time.Hour, quit) {
		t.Fatal("it goes on after the end")
	}
}
