package crilog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock gives times one second apart.
func clock() func() time.Time {
	var n atomic.Int64
	start := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	return func() time.Time { return start.Add(time.Duration(n.Add(1)-1) * time.Second) }
}

func openRoot(t *testing.T) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root
}

func writeLog(t *testing.T, root *os.Root, limits Limits, stream string, chunks ...string) {
	t.Helper()
	w := NewWriter(root, "c", 0, limits, clock())
	var readers []io.Reader
	for _, c := range chunks {
		readers = append(readers, strings.NewReader(c))
	}
	w.Copy(stream, io.MultiReader(readers...))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func show(t *testing.T, root *os.Root, q Query) string {
	t.Helper()
	var out bytes.Buffer
	if err := Print(context.Background(), &out, root, "c", 0, q); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestWriterFormat(t *testing.T) {
	long := strings.Repeat("x", MaxText)
	for name, tc := range map[string]struct {
		chunks []string
		want   []string // text after the time
	}{
		"lines":            {[]string{"a\nb\n"}, []string{"F a", "F b"}},
		"no newline":       {[]string{"a\nb"}, []string{"F a", "P b"}},
		"empty line":       {[]string{"\n\n"}, []string{"F ", "F "}},
		"nothing":          {[]string{""}, nil},
		"torn":             {[]string{"ab", "c\nd", "e\n"}, []string{"F abc", "F de"}},
		"exactly the max":  {[]string{long + "\n"}, []string{"F " + long}},
		"longer":           {[]string{long + "yz\nq\n"}, []string{"P " + long, "F yz", "F q"}},
		"longer, in bits":  {[]string{long[:10000], long[:10000] + "\n"}, []string{"P " + long, "F " + long[:20000-MaxText]}},
		"carriage return":  {[]string{"a\r\nb\x00\xff\n"}, []string{"F a\r", "F b\x00\xff"}},
		"looks like entry": {[]string{"2026-01-02T03:04:05Z stdout F hi\n"}, []string{"F 2026-01-02T03:04:05Z stdout F hi"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := openRoot(t)
			writeLog(t, root, KubeletLimits(), "stdout", tc.chunks...)
			data, err := root.ReadFile("c/0.log")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for line := range strings.Lines(string(data)) {
				stamp, rest, _ := strings.Cut(line, " stdout ")
				if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil || len(stamp) != 30 {
					t.Errorf("time %q: %v", stamp, err)
				}
				got = append(got, strings.TrimSuffix(rest, "\n"))
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("got %.200q, want %.200q", got, tc.want)
			}
		})
	}
}

func TestPrint(t *testing.T) {
	long := strings.Repeat("x", MaxText+5)
	root := openRoot(t)
	// Times are 2026-01-02T03:04:06.000000006Z and on: the writer's first look is at :05.
	writeLog(t, root, KubeletLimits(), "stdout", "one\ntwo\n", long+"\nfour\n")
	at := func(s int) time.Time { return time.Date(2026, 1, 2, 3, 4, 5+s, 6, time.UTC) }
	all := "one\ntwo\n" + long + "\nfour\n"
	for name, tc := range map[string]struct {
		q    Query
		want string
	}{
		"all":               {Query{Tail: -1, LimitBytes: -1}, all},
		"tail 0":            {Query{Tail: 0, LimitBytes: -1}, ""},
		"tail 1":            {Query{Tail: 1, LimitBytes: -1}, "four\n"},
		"tail of partials":  {Query{Tail: 2, LimitBytes: -1}, long + "\nfour\n"},
		"tail 3":            {Query{Tail: 3, LimitBytes: -1}, "two\n" + long + "\nfour\n"},
		"tail above":        {Query{Tail: 99999999, LimitBytes: -1}, all},
		"limit":             {Query{Tail: -1, LimitBytes: 5}, "one\nt"},
		"limit 0":           {Query{Tail: -1, LimitBytes: 0}, ""},
		"limit above":       {Query{Tail: -1, LimitBytes: 1 << 40}, all},
		"since":             {Query{Tail: 4, LimitBytes: -1, Since: at(6)}, "four\n"},
		"since after all":   {Query{Tail: -1, LimitBytes: -1, Since: at(100)}, ""},
		"timestamps":        {Query{Tail: 1, LimitBytes: -1, Timestamps: true}, "2026-01-02T03:04:11.000000006Z four\n"},
		"timestamps, limit": {Query{Tail: 1, LimitBytes: 4, Timestamps: true}, "2026"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := show(t, root, tc.q); got != tc.want {
				t.Errorf("got %.120q, want %.120q", got, tc.want)
			}
		})
	}
}

func TestPrintSkipsForeignText(t *testing.T) {
	root := openRoot(t)
	writeLog(t, root, KubeletLimits(), "stderr", "good\n")
	f, err := root.OpenFile("c/0.log", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, "garbage\n%s\n2026-01-02T03:04:05Z stdin F no\n2026-01-02T03:04:05Z stdout Q no\n\n", strings.Repeat("long ", 100000))
	fmt.Fprintf(f, "2026-01-02T03:04:05Z stdout F:x good too\n2026-01-02T03:04:05Z stdout F torn")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := show(t, root, Query{Tail: -1, LimitBytes: -1}), "good\ngood too\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := show(t, root, Query{Tail: 1, LimitBytes: -1}), "good too\n"; got != want {
		t.Errorf("tail 1 = %q, want %q", got, want)
	}
}

func TestPrintRefusesLinksAndPipes(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := os.Mkdir(filepath.Join(dir, "c"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "c", "0.log")); err != nil {
		t.Fatal(err)
	}
	if err := Print(context.Background(), io.Discard, root, "c", 0, Query{Tail: -1, LimitBytes: -1}); err == nil {
		t.Error("a symbolic link was read")
	}
	if err := Print(context.Background(), io.Discard, root, "c", 1, Query{Tail: -1, LimitBytes: -1}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing log: %v, want fs.ErrNotExist", err)
	}
}

func TestRotation(t *testing.T) {
	root := openRoot(t)
	var in strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&in, "line %04d\n", i)
	}
	w := NewWriter(root, "c", 0, Limits{FileBytes: 4000, Files: 5}, clock())
	w.Copy("stdout", &slowReader{rest: in.String()})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := atomicfile.Names(root, "c")
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 5 {
		t.Errorf("files %v, want 5", names)
	}
	if runs, err := Runs(root, "c"); err != nil || fmt.Sprint(runs) != "[0]" {
		t.Errorf("Runs = %v, %v", runs, err)
	}
	got := show(t, root, Query{Tail: -1, LimitBytes: -1})
	if !strings.HasSuffix(in.String(), got) || len(got) < 2000 {
		t.Errorf("what is left is not the end of the output: %d bytes", len(got))
	}
	if got := show(t, root, Query{Tail: 100, LimitBytes: -1}); got != in.String()[len(in.String())-1000:] {
		t.Errorf("tail across parts is wrong: %q", got)
	}
}

// slowReader gives a few lines at a time.
type slowReader struct{ rest string }

func (s *slowReader) Read(p []byte) (int, error) {
	if s.rest == "" {
		return 0, io.EOF
	}
	n := copy(p, s.rest[:min(70, len(s.rest))])
	s.rest = s.rest[n:]
	return n, nil
}

func TestFollowThroughRotation(t *testing.T) {
	root := openRoot(t)
	w := NewWriter(root, "c", 0, Limits{FileBytes: 3000, Files: 1000}, time.Now)
	var want strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	var ended atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		w.Copy("stdout", &slowReader{rest: want.String()})
		_ = w.Close()
		ended.Store(true)
	})
	var out bytes.Buffer
	err := Print(t.Context(), &out, root, "c", 0, Query{Tail: -1, LimitBytes: -1, Follow: true, Ended: ended.Load, Poll: time.Millisecond})
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != want.String() {
		t.Errorf("followed %d bytes, want %d", out.Len(), want.Len())
	}
}

func TestFollowEndsWithContext(t *testing.T) {
	root := openRoot(t)
	writeLog(t, root, KubeletLimits(), "stdout", "a\n")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Print(ctx, io.Discard, root, "c", 0, Query{Tail: -1, LimitBytes: -1, Follow: true, Ended: func() bool { return false }, Poll: time.Millisecond})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want Canceled", err)
	}
}

// The last lines of a container that falls silent reach the disk without another
// line and without its end.
func TestSilentLogIsSynced(t *testing.T) {
	at := time.Unix(1000, 0)
	w := NewWriter(openRoot(t), "c", 0, KubeletLimits(), func() time.Time { return at })
	defer func() { _ = w.Close() }()
	dirty := func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.dirty
	}
	for round := range 2 {
		w.Copy("stdout", strings.NewReader("last words\n"))
		if !dirty() {
			t.Fatalf("round %d: synced with the line, which a busy container could not afford", round)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		tick := time.NewTicker(10 * time.Millisecond)
		for dirty() {
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("round %d: nothing syncs what was written", round)
			}
		}
		tick.Stop()
		cancel()
	}
}
