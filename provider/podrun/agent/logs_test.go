package agent

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-hpc/isthmus/provider/podrun/crilog"
)

func TestLogsErrors(t *testing.T) {
	dir := staged(t, "k1")
	q := func(c string) LogQuery { return LogQuery{Container: c, Query: crilog.Query{Tail: -1, LimitBytes: -1}} }
	for name, tc := range map[string]struct {
		err  error
		want int
	}{
		"no gang":   {Logs(t.Context(), dir, "k9", 0, q("c"), os.Stdout), ExitNotFound},
		"no log":    {Logs(t.Context(), dir, "k1", 0, q("c"), os.Stdout), ExitNotFound},
		"container": {Logs(t.Context(), dir, "k1", 0, q("../../.."), os.Stdout), ExitInvalid},
		"rank":      {Logs(t.Context(), dir, "k1", -1, q("c"), os.Stdout), ExitInvalid},
	} {
		if Code(tc.err) != tc.want {
			t.Errorf("%s: %v, want code %d", name, tc.err, tc.want)
		}
	}
}

// A second process swaps the log for a link to a foreign file again and again:
// nothing foreign is ever read.
func TestLogsRace(t *testing.T) {
	dir := staged(t, "k1")
	secret := filepath.Join(t.TempDir(), "secret")
	put(t, secret, "2026-01-02T03:04:05Z stdout F foreign\n")
	logs := filepath.Join(dir, "g/k1/pods/0/logs/c")
	put(t, filepath.Join(logs, "0.log"), "2026-01-02T03:04:05Z stdout F mine\n")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			tmp := filepath.Join(logs, "tmp")
			_ = os.Remove(tmp)
			switch i % 3 {
			case 0:
				_ = os.Symlink(secret, tmp)
			case 1:
				_ = os.WriteFile(tmp, []byte("2026-01-02T03:04:05Z stdout F mine\n"), 0o600)
			default:
				_ = os.Rename(logs, logs+"-old")
				_ = os.Symlink(filepath.Dir(secret), logs)
				_ = os.Remove(logs)
				_ = os.Rename(logs+"-old", logs)
				continue
			}
			_ = os.Rename(tmp, filepath.Join(logs, "0.log"))
		}
	})
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	good, tries := 0, 10_000
	for range tries {
		if Logs(t.Context(), dir, "k1", 0, LogQuery{Container: "c", Query: crilog.Query{Tail: -1, LimitBytes: -1}}, out) == nil {
			good++
		}
	}
	close(stop)
	wg.Wait()
	text, err := os.ReadFile(out.Name())
	if err != nil || strings.Contains(string(text), "foreign") {
		t.Errorf("foreign text was read: %v", err)
	}
	t.Logf("S9: %d reads of a log while its file and folder are swapped, %d went through, 0 foreign", tries, good)
	if good == 0 {
		t.Error("no read succeeded at all")
	}
}
