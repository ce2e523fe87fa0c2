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
	"testing"

	"go.uber.org/goleak"

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
