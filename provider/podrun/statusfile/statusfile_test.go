package statusfile

import (
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestUpdateAndClose(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := root.Mkdir("p", 0o700); err != nil {
		t.Fatal(err)
	}
	f := New(root, "p", manifest.Status{Seq: 41}, func(err error) { t.Errorf("warned: %v", err) })
	for range 100 {
		f.Update(func(s *manifest.Status) { s.Phase = manifest.PhaseRunning })
	}
	if err := f.Close(time.Minute); err != nil {
		t.Fatal(err)
	}
	got, err := Read(root, "p")
	if err != nil || got.Seq != 141 || got.Phase != manifest.PhaseRunning {
		t.Errorf("on disk: %+v, %v", got, err)
	}
	d, err := root.Open("p")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

// A directory that comes back stands for a disk that was full for a while.
func TestWriteIsRetried(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	warned := make(chan error, 10)
	f := New(root, "p", manifest.Status{}, func(err error) { warned <- err })
	f.Update(func(s *manifest.Status) { s.Reason = "x" })
	<-warned
	if err := root.Mkdir("p", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(time.Minute); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(root, "p"); err != nil || got.Reason != "x" {
		t.Errorf("on disk: %+v, %v", got, err)
	}
	if len(warned) != 0 {
		t.Error("warned more than once in a row of failures")
	}
}

func TestCloseGivesUp(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	f := New(root, "missing", manifest.Status{}, func(error) {})
	f.Update(func(s *manifest.Status) { s.Reason = "x" })
	if err := f.Close(50 * time.Millisecond); err == nil {
		t.Error("no error although nothing was written")
	}
}
