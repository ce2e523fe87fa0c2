package agent

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/isthmus-hpc/isthmus/provider/podrun/crilog"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pack(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = 1
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// program stands for the pod runner.
func program(t *testing.T) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "exe")
	if err := os.WriteFile(exe, []byte("#!program"), 0o700); err != nil {
		t.Fatal(err)
	}
	return exe
}

// stage stages one gang and makes an error of its answer.
func stage(dir, key string, in io.Reader, exe, digest string) error {
	data, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	frame := append(fmt.Appendf(nil, "{\"key\":%q,\"bytes\":%d}\n", key, len(data)), data...)
	if err := Stage(dir, bytes.NewReader(frame), exe, digest, &out); err != nil {
		return err
	}
	var answer manifest.Answer
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil || answer.Key != key {
		return fmt.Errorf("answer %q: %w", out.Bytes(), err)
	}
	return failure(answer)
}

// failure makes an error of an answer.
func failure(answer manifest.Answer) error {
	switch answer.Code {
	case ExitDone:
		return nil
	case ExitInvalid:
		return fmt.Errorf("%s: %w", answer.Error, ErrInvalid)
	case ExitNotFound:
		return fmt.Errorf("%s: %w", answer.Error, fs.ErrNotExist)
	case ExitAccess:
		return fmt.Errorf("%s: %w", answer.Error, fs.ErrPermission)
	}
	return fmt.Errorf("code %d: %s", answer.Code, answer.Error)
}

func TestStageMany(t *testing.T) {
	dir, exe := filepath.Join(t.TempDir(), "alice"), program(t)
	good, bad := pack(t, &tar.Header{Name: "gang.json"}), pack(t, &tar.Header{Name: "../x"})
	frame := func(key string, data []byte) []byte {
		return append(fmt.Appendf(nil, "{\"key\":%q,\"bytes\":%d}\n", key, len(data)), data...)
	}
	var in []byte
	var want []string
	for i := range 20 { // enough to be synced as a whole
		key := "k" + strconv.Itoa(i)
		in, want = append(in, frame(key, good)...), append(want, key+" 0")
		if i == 7 {
			in, want = append(in, frame("bad", bad)...), append(want, "bad 3")
			in, want = append(in, frame("../k", good)...), append(want, "../k 3")
			in, want = append(in, frame("k3", good)...), append(want, "k3 0") // once more
		}
	}
	check := func(in []byte, want []string) error {
		t.Helper()
		var out bytes.Buffer
		err := Stage(dir, bytes.NewReader(in), exe, "", &out)
		var got []string
		for dec := json.NewDecoder(&out); dec.More(); {
			var a manifest.Answer
			if err := dec.Decode(&a); err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(a.Key, " ", a.Code))
		}
		if !slices.Equal(got, want) {
			t.Errorf("answers %q, want %q", got, want)
		}
		return err
	}
	if err := check(in, want); err != nil {
		t.Error(err)
	}
	for i := range 20 {
		if _, err := os.Stat(filepath.Join(dir, "g", "k"+strconv.Itoa(i), "gang.json")); err != nil {
			t.Error(err)
		}
	}
	// What was whole before the input broke is in its place.
	whole := append(frame("l1", good), frame("l2", good)...)
	if err := check(whole[:len(whole)-600], []string{"l1 0", "l2 3"}); err != nil {
		t.Error(err)
	}
	if err := check(append(frame("m1", good), "nonsense\n"...), []string{"m1 0"}); Code(err) != ExitInvalid {
		t.Errorf("a broken header: %v", err)
	}
	if err := check([]byte(strings.Repeat("x", 10_000)), nil); Code(err) != ExitInvalid {
		t.Errorf("an endless header: %v", err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "g"))
	if err != nil || len(left) != 22 {
		t.Errorf("%d directories, want 22, %v", len(left), err)
	}
}

func TestStage(t *testing.T) {
	dir, exe := filepath.Join(t.TempDir(), "alice"), program(t)
	data := pack(t, &tar.Header{Name: "pods/", Typeflag: tar.TypeDir, Mode: 0o777}, &tar.Header{Name: "gang.json", Mode: 0o777}, &tar.Header{Name: "pods/0/pod.json"})
	for range 2 {
		if err := stage(dir, "k1", bytes.NewReader(data), exe, ""); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]fs.FileMode{
		".": fs.ModeDir | 0o700, "bin": fs.ModeDir | 0o700, "g": fs.ModeDir | 0o700, "g/k1": fs.ModeDir | 0o700, "g/k1/gang.json": 0o600,
		"g/k1/pods": fs.ModeDir | 0o700, "g/k1/pods/0": fs.ModeDir | 0o700, "g/k1/pods/0/pod.json": 0o600, "g/k1/podrun": fs.ModeSymlink | 0o777,
	}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		st, err := d.Info()
		if err != nil {
			return err
		}
		if strings.HasPrefix(rel, "bin/podrun-") && len(rel) == len("bin/podrun-")+12 {
			if st.Mode() != 0o700 {
				t.Errorf("%s has mode %v", rel, st.Mode())
			}
			return nil
		}
		if mode, ok := want[rel]; !ok || mode != st.Mode() {
			t.Errorf("%s has mode %v, want %v", rel, st.Mode(), mode)
		}
		delete(want, rel)
		return nil
	})
	if err != nil || len(want) > 0 {
		t.Errorf("missing: %v, %v", want, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "g/k1/podrun")); err != nil || string(got) != "#!program" {
		t.Errorf("podrun: %q, %v", got, err)
	}
}

func TestStageRefusesArchives(t *testing.T) {
	exe := program(t)
	cut := pack(t, &tar.Header{Name: "a"})
	many := make([]*tar.Header, maxFiles+1)
	for i := range many {
		many[i] = &tar.Header{Name: "d/", Typeflag: tar.TypeDir}
	}
	for name, data := range map[string][]byte{
		"parent":         pack(t, &tar.Header{Name: "../x"}),
		"hidden parent":  pack(t, &tar.Header{Name: "a/../../x"}),
		"unclean":        pack(t, &tar.Header{Name: "a//b"}),
		"dot":            pack(t, &tar.Header{Name: "./a"}),
		"absolute":       pack(t, &tar.Header{Name: "/etc/x"}),
		"symbolic link":  pack(t, &tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}),
		"hard link":      pack(t, &tar.Header{Name: "a"}, &tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "a"}),
		"device":         pack(t, &tar.Header{Name: "d", Typeflag: tar.TypeChar}),
		"pipe":           pack(t, &tar.Header{Name: "p", Typeflag: tar.TypeFifo}),
		"through a link": pack(t, &tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "."}, &tar.Header{Name: "l/x"}),
		"the runner":     pack(t, &tar.Header{Name: "podrun"}),
		"twice":          pack(t, &tar.Header{Name: "a"}, &tar.Header{Name: "a"}),
		"long name":      pack(t, &tar.Header{Name: strings.Repeat("x", 256)}),
		"deep":           pack(t, &tar.Header{Name: strings.Repeat("d/", 40) + "x"}),
		"too many":       pack(t, many...),
		"cut short":      cut[:520],
		"cut between entries": func() []byte {
			two := pack(t, &tar.Header{Name: "a"}, &tar.Header{Name: "b"})
			return two[:1024]
		}(),
		"cut in the end": cut[:1536],
		"nothing":        {},
		"not a tar":      bytes.Repeat([]byte("nonsense"), 100),
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "alice")
			err := stage(dir, "k1", bytes.NewReader(data), exe, "")
			if Code(err) != ExitInvalid {
				t.Errorf("err = %v, want invalid", err)
			}
			left, err := os.ReadDir(filepath.Join(dir, "g"))
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// endless is an archive with one file that does not end.
type endless struct{ head []byte }

func (e *endless) Read(p []byte) (int, error) {
	if len(e.head) > 0 {
		n := copy(p, e.head)
		e.head = e.head[n:]
		return n, nil
	}
	clear(p)
	return len(p), nil
}

func TestStageBoundsSize(t *testing.T) {
	dir, exe := filepath.Join(t.TempDir(), "alice"), program(t)
	head := fmt.Appendf(nil, "{\"key\":\"k1\",\"bytes\":%d}\n", int64(1)<<40)
	if err := Stage(dir, &endless{head: head}, exe, "", io.Discard); Code(err) != ExitInvalid {
		t.Errorf("an archive without end: %v, want invalid", err)
	}
	var buf bytes.Buffer // says that it is larger than it is
	if err := tar.NewWriter(&buf).WriteHeader(&tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	if err := stage(dir, "k1", &buf, exe, ""); Code(err) != ExitInvalid {
		t.Errorf("a file that is cut short: %v, want invalid", err)
	}
}

func TestBaseMustBeOnesOwn(t *testing.T) {
	top := t.TempDir()
	open := filepath.Join(top, "open")
	link := filepath.Join(top, "link")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777), os.Symlink(open, link)); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		dir  string
		want int
	}{
		"writable for all": {open, ExitAccess},
		"link":             {link, ExitOther},
		"relative":         {"alice", ExitInvalid},
		"unclean":          {top + "/../x", ExitInvalid},
		"empty":            {"", ExitInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			if err := stage(tc.dir, "k1", bytes.NewReader(nil), program(t), ""); Code(err) != tc.want {
				t.Errorf("err = %v, code %d, want %d", err, Code(err), tc.want)
			}
			if err := Collect(tc.dir, io.Discard); Code(err) != tc.want {
				t.Errorf("collect: err = %v, code %d, want %d", err, Code(err), tc.want)
			}
		})
	}
	if os.Getuid() == 0 {
		foreign := filepath.Join(top, "foreign")
		if err := errors.Join(os.Mkdir(foreign, 0o700), os.Chown(foreign, 12345, 12345)); err != nil {
			t.Fatal(err)
		}
		if err := Collect(foreign, io.Discard); Code(err) != ExitAccess {
			t.Errorf("another's directory: %v", err)
		}
	}
}

func TestKeys(t *testing.T) {
	exe := program(t)
	for _, key := range []string{"", "..", "a/b", "A", "1a", "-x", "a\n", strings.Repeat("a", 16), ".stage-1"} {
		for verb, err := range map[string]error{
			"stage": stage(t.TempDir(), key, strings.NewReader(""), exe, ""), "remove": Remove(t.TempDir(), key), "stop": stop(t, t.TempDir(), manifest.StopOrder{Key: key}),
			"logs": Logs(t.Context(), t.TempDir(), key, 0, LogQuery{Container: "c"}, os.Stdout),
		} {
			if Code(err) != ExitInvalid {
				t.Errorf("%s of key %q: %v, want invalid", verb, key, err)
			}
		}
	}
}

func staged(t *testing.T, keys ...string) string {
	t.Helper()
	dir, exe := filepath.Join(t.TempDir(), "alice"), program(t)
	for _, key := range keys {
		if err := stage(dir, key, bytes.NewReader(pack(t, &tar.Header{Name: "gang.json"}, &tar.Header{Name: "pods/0/pod.json"})), exe, ""); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func put(t *testing.T, file, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func collected(t *testing.T, dir string) manifest.Collected {
	t.Helper()
	var buf bytes.Buffer
	if err := Collect(dir, &buf); err != nil {
		t.Fatal(err)
	}
	var c manifest.Collected
	if err := json.Unmarshal(buf.Bytes(), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCollect(t *testing.T) {
	if c := collected(t, filepath.Join(t.TempDir(), "missing")); len(c.Gangs) != 0 {
		t.Errorf("of nothing: %+v", c)
	}
	dir := staged(t, "k1", "k2", "k3")
	g := func(name string) string { return filepath.Join(dir, "g", name) }
	put(t, g("k1/pods/0/status.json"), `{"rank":0,"seq":7,"phase":"Running"}`)
	put(t, g("k1/pods/1/status.json"), `{"rank":1,"ph`)            // torn
	put(t, g("k1/pods/2/status.json"), `{"rank":0,"phase":"X"}`)   // another's
	put(t, g("k1/pods/03/status.json"), `{"rank":3,"phase":"X"}`)  // no rank
	put(t, g("k1/batch.log"), "not wanted while pods have status") //
	put(t, g("k2/end.json"), `{"restart":1,"exitCode":2}`)
	put(t, g("k2/batch.log"), strings.Repeat("0123456789", 1000)+"the end\xff")
	put(t, g(".stage-abc/pods/0/status.json"), `{"rank":0}`)
	put(t, g(".stage-old-1/f"), "x")
	if err := os.Chtimes(g(".stage-old-1"), time.Time{}, time.Now().Add(-2*litterAge)); err != nil {
		t.Fatal(err)
	}
	put(t, g("stray"), "a file")
	if err := os.Symlink("/etc/passwd", g("k3/batch.log")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(g("k3/pods/0/status.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := collected(t, dir)
	if _, err := os.Lstat(g(".stage-old-1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a killed verb left long ago is still there: %v", err)
	}
	if _, err := os.Lstat(g(".stage-abc")); err != nil {
		t.Errorf("what a verb may be at work on: %v", err)
	}
	if len(c.Gangs) != 4 { // "stray" is a valid key of something that is no gang
		t.Logf("gangs: %v", c.Gangs)
	}
	k1, k2, k3 := c.Gangs["k1"], c.Gangs["k2"], c.Gangs["k3"]
	if len(k1.Pods) != 1 || k1.Pods[0].Seq != 7 || k1.End != nil || k1.BatchLogTail != "" {
		t.Errorf("k1: %+v", k1)
	}
	if k2.End == nil || k2.End.ExitCode != 2 || !strings.HasSuffix(k2.BatchLogTail, "the end?") || len(k2.BatchLogTail) != batchLogTail {
		t.Errorf("k2: %+v", k2)
	}
	if len(k3.Pods) != 0 || k3.BatchLogTail != "" {
		t.Errorf("k3: %+v", k3)
	}
	if _, ok := c.Gangs["stray"]; ok {
		t.Error("a stray file is a gang")
	}
}

// 2,000 pods are read whole.
func TestCollectMany(t *testing.T) {
	dir := staged(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	status := func(rank int) string {
		data, err := json.Marshal(manifest.Status{Rank: rank, Phase: manifest.PhaseRunning, Message: strings.Repeat("x", 500)})
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for g := range 20 {
		for rank := range 100 {
			put(t, filepath.Join(dir, "g", "k"+strconv.Itoa(g), "pods", strconv.Itoa(rank), "status.json"), status(rank))
		}
	}
	began := time.Now()
	c := collected(t, dir)
	took := time.Since(began)
	n := 0
	for _, g := range c.Gangs {
		n += len(g.Pods)
	}
	if n != 2000 {
		t.Errorf("%d pods, want 2000", n)
	}
	t.Logf("2,000 pods in %v", took) // a figure for people: how busy the machine is cannot be known
}

// stop gives one order and makes an error of its answer.
func stop(t *testing.T, dir string, o manifest.StopOrder) error {
	t.Helper()
	in, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Stop(dir, bytes.NewReader(in), &out); err != nil {
		return err
	}
	var answer manifest.Answer
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil || answer.Key != o.Key {
		t.Fatalf("answer %q: %v", out.Bytes(), err)
	}
	return failure(answer)
}

func order(key string, rank int, s manifest.Stop) manifest.StopOrder {
	return manifest.StopOrder{Key: key, Stops: map[int]manifest.Stop{rank: s}}
}

func TestStop(t *testing.T) {
	dir := staged(t, "k1")
	for _, grace := range []int64{30, 5} {
		if err := stop(t, dir, order("k1", 0, manifest.Stop{GraceSeconds: grace, Reason: "why"})); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, "g/k1/pods/0/ctl/stop"))
		if want := fmt.Sprintf(`{"graceSeconds":%d,"reason":"why"}`, grace); err != nil || string(data) != want {
			t.Errorf("stop: %s, %v", data, err)
		}
	}
	for name, tc := range map[string]struct {
		err  error
		want int
	}{
		"no gang":     {stop(t, dir, order("k9", 0, manifest.Stop{})), ExitNotFound},
		"no pod":      {stop(t, dir, order("k1", 4, manifest.Stop{})), ExitNotFound},
		"bad rank":    {stop(t, dir, order("k1", -1, manifest.Stop{})), ExitInvalid},
		"bad grace":   {stop(t, dir, order("k1", 0, manifest.Stop{GraceSeconds: -1})), ExitInvalid},
		"long reason": {stop(t, dir, order("k1", 0, manifest.Stop{Reason: strings.Repeat("x", 2000)})), ExitInvalid},
		"no order":    {Stop(dir, strings.NewReader("{\"key\":\"k1\"}\nwhat\n"), io.Discard), ExitInvalid},
		"no root":     {Stop(dir+"x", strings.NewReader("{}"), io.Discard), ExitNotFound},
	} {
		if Code(tc.err) != tc.want {
			t.Errorf("%s: %v, want code %d", name, tc.err, tc.want)
		}
	}
}

// Many members and many gangs have their order in one call, and what fails of
// one gang is its own.
func TestStopMany(t *testing.T) {
	dir := staged(t, "k1", "k2", "k3")
	const members = 100
	big := manifest.StopOrder{Key: "k2", Stops: map[int]manifest.Stop{}}
	for rank := range members {
		if err := os.MkdirAll(filepath.Join(dir, "g/k2/pods", strconv.Itoa(rank)), 0o700); err != nil {
			t.Fatal(err)
		}
		big.Stops[rank] = manifest.Stop{GraceSeconds: int64(rank)}
	}
	bad := order("k1", 0, manifest.Stop{GraceSeconds: 1})
	bad.Stops[9] = manifest.Stop{}
	var in, out bytes.Buffer
	for _, o := range []manifest.StopOrder{bad, big, order("gone", 0, manifest.Stop{}), order("k3", 0, manifest.Stop{})} {
		if err := json.NewEncoder(&in).Encode(o); err != nil {
			t.Fatal(err)
		}
	}
	if err := Stop(dir, &in, &out); err != nil {
		t.Fatal(err)
	}
	var got []string
	for dec := json.NewDecoder(&out); dec.More(); {
		var a manifest.Answer
		if err := dec.Decode(&a); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(a.Key, " ", a.Code))
	}
	if want := []string{"k1 4", "k2 0", "gone 4", "k3 0"}; !slices.Equal(got, want) {
		t.Errorf("answers %q, want %q", got, want)
	}
	for rank := range members {
		data, err := os.ReadFile(filepath.Join(dir, "g/k2/pods", strconv.Itoa(rank), "ctl/stop"))
		if want := fmt.Sprintf(`{"graceSeconds":%d}`, rank); err != nil || string(data) != want {
			t.Errorf("rank %d: %s, %v", rank, data, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "g/k1/pods/0/ctl/stop")); err != nil {
		t.Errorf("the member beside the missing one has no order: %v", err)
	}
}

func TestRemove(t *testing.T) {
	dir := staged(t, "k1", "k2")
	locked := filepath.Join(dir, "g/k1/pods/0/volumes/v")
	put(t, filepath.Join(locked, "f"), "x")
	outside := filepath.Join(t.TempDir(), "precious")
	put(t, outside, "x")
	if err := errors.Join(os.Symlink(filepath.Dir(outside), filepath.Join(dir, "g/k1/link")), os.Chmod(locked, 0o500)); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(dir, "g", ".trash-old")
	put(t, filepath.Join(old, "f"), "x")
	put(t, filepath.Join(dir, "g", ".stage-k2-new", "f"), "x")
	put(t, filepath.Join(dir, "g", ".stage-k1-killed", "f"), "x") // whoever staged it again, or gave up, is done with it
	put(t, filepath.Join(dir, "g", ".trash-k1-killed", "f"), "x")
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-2*litterAge)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Remove(dir, "k1"); err != nil {
			t.Fatal(err)
		}
	}
	names, err := os.ReadDir(filepath.Join(dir, "g"))
	if err != nil || len(names) != 2 || names[0].Name() != ".stage-k2-new" || names[1].Name() != "k2" {
		t.Errorf("left: %v, %v", names, err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("a file outside: %v", err)
	}
	if err := Remove(filepath.Join(t.TempDir(), "missing"), "k1"); err != nil {
		t.Errorf("of nothing: %v", err)
	}
}

func TestRemoveMany(t *testing.T) {
	dir := staged(t, "k1", "k2", "k3")
	remove := func(dir, in string) (string, error) {
		var out strings.Builder
		err := RemoveMany(dir, strings.NewReader(in), &out)
		return out.String(), err
	}
	got, err := remove(dir, `{"key":"k1"}`+"\n"+`{"key":"../k2"}`+"\n"+`{"key":"k3"}`+"\n"+`{"key":"k9"}`+"\n")
	want := `{"key":"k1","code":0}` + "\n" + `{"key":"../k2","code":3,"error":"key \"../k2\": invalid input"}` + "\n" +
		`{"key":"k3","code":0}` + "\n" + `{"key":"k9","code":0}` + "\n"
	if err != nil || got != want {
		t.Errorf("answers %v:\n%swant:\n%s", err, got, want)
	}
	names, err := os.ReadDir(filepath.Join(dir, "g"))
	if err != nil || len(names) != 1 || names[0].Name() != "k2" {
		t.Errorf("left: %v, %v", names, err)
	}
	if got, err := remove(dir, `{"key":"k2"}`+"\n{"); Code(err) != ExitInvalid || got != `{"key":"k2","code":0}`+"\n" {
		t.Errorf("broken input: %v, answers %q", err, got)
	}
	if got, err := remove(filepath.Join(t.TempDir(), "missing"), `{"key":"k1"}`); err != nil || got != `{"key":"k1","code":0}`+"\n" {
		t.Errorf("of nothing: %v, answers %q", err, got)
	}
	if _, err := remove(dir, strings.Repeat(`{"key":"k1"}`+"\n", maxGangs+1)); Code(err) != ExitInvalid {
		t.Errorf("too many keys: %v", err)
	}
}

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
