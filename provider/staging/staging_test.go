package staging_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/staging"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// runner records what was run and answers from its fields.
type runner struct {
	got   []transport.Command
	stdin []byte
	out   transport.Result
	err   error
	wait  chan struct{} // unless nil, Run ends with it
}

func (r *runner) Run(_ context.Context, c transport.Command) (transport.Result, error) {
	r.got = append(r.got, c)
	if r.wait != nil {
		<-r.wait
	}
	if c.Stdin != nil {
		b, err := io.ReadAll(c.Stdin)
		if err != nil {
			return transport.Result{}, err
		}
		r.stdin = b
	}
	if c.Argv[2] == "stage" && r.out.Stdout == nil && r.err == nil {
		return r.staged(), nil
	}
	if c.Argv[2] == "stop" && r.out.Stdout == nil && r.err == nil {
		return r.stopped(), nil
	}
	if c.Stdout != nil {
		if _, err := c.Stdout.Write(r.out.Stdout); err != nil {
			return transport.Result{}, err
		}
	}
	return r.out, r.err
}

// staged answers that all gangs are in place.
func (r *runner) staged() transport.Result {
	res := r.out
	for in := r.stdin; len(in) > 0; {
		line, rest, _ := bytes.Cut(in, []byte("\n"))
		var h manifest.StageHeader
		if json.Unmarshal(line, &h) != nil || int64(len(rest)) < h.Bytes {
			return transport.Result{Exit: 3}
		}
		res.Stdout = fmt.Appendf(res.Stdout, "{\"key\":%q,\"code\":0}\n", h.Key)
		in = rest[h.Bytes:]
	}
	return res
}

// stopped answers that all orders are written, but that of gang "gone" is not,
// and says nothing of gang "mute".
func (r *runner) stopped() transport.Result {
	res := r.out
	for dec := json.NewDecoder(bytes.NewReader(r.stdin)); dec.More(); {
		var o manifest.StopOrder
		if dec.Decode(&o) != nil {
			return transport.Result{Exit: 3}
		}
		code := 0
		if o.Key == "gone" {
			code = 4
		}
		if o.Key != "mute" {
			res.Stdout = fmt.Appendf(res.Stdout, "{\"key\":%q,\"code\":%d}\n", o.Key, code)
		}
	}
	return res
}

func client() (*staging.Client, *runner) {
	r := &runner{}
	return &staging.Client{Runner: r, Podrun: "/opt/podrun", Directory: "/shared/{user}/k8s"}, r
}

func output() translate.Output {
	return translate.Output{
		Gang: manifest.Gang{Version: 1, Key: "iabc"},
		Pods: []manifest.Pod{
			{Version: 1, Rank: 0, Volumes: map[string]manifest.Volume{"cm": {Kind: "files"}, "empty": {Kind: "files"}, "tmp": {Kind: "emptyDir"}}},
			{Version: 1, Rank: 1},
		},
		Files: map[int]map[string]map[string]translate.File{0: {"cm": {"d/f": {Data: []byte("text"), Mode: 0o400}, "a": {Data: []byte{0}}}}},
	}
}

func TestRoot(t *testing.T) {
	tests := []struct{ directory, user, want string }{
		{"/shared", "alice", "/shared/alice"},
		{"/home/{user}/.k8s", "alice", "/home/alice/.k8s"},
		{"/home/{user}x", "alice", "/home/{user}x/alice"},
		{"/shared/", "_svc-1", "/shared/_svc-1"},
		{"shared", "alice", ""}, {"/a/../b", "alice", ""}, {"/shared", "root", ""}, {"/shared", "../x", ""},
		{"/shared", "", ""}, {"/shared", "alice\n", ""}, {"/sha\x00red", "alice", ""},
	}
	for _, tc := range tests {
		got, err := staging.Root(tc.directory, tc.user)
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("Root(%q, %q) = %q, %v; want %q", tc.directory, tc.user, got, err, tc.want)
		}
	}
	c, _ := client()
	if got := c.WorkDir("alice", "iabc"); got != "/shared/alice/k8s/g/iabc" {
		t.Errorf("work directory %q", got)
	}
	if got := c.WorkDir("alice", "../x"); got != "" {
		t.Errorf("work directory of a malformed key %q", got)
	}
}

func TestArguments(t *testing.T) {
	ctx := t.Context()
	c, r := client()
	tail, limit := int64(0), int64(7)
	since := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	calls := []struct {
		do   func() error
		want string
	}{
		{func() error { return c.Stage(ctx, "alice", "iabc", output()) }, "stage --root /shared/alice/k8s"},
		{func() error { _, err := c.Collect(ctx, "alice"); return err }, "collect --root /shared/alice/k8s"},
		{func() error { return c.Remove(ctx, "alice", "iabc") }, "remove --root /shared/alice/k8s --key iabc"},
		{func() error { return c.Stop(ctx, "alice", "iabc", map[int]manifest.Stop{3: {GraceSeconds: 2}}) }, "stop --root /shared/alice/k8s"},
		{func() error { return c.Logs(ctx, "alice", "iabc", 0, "main", staging.LogOptions{}, io.Discard) }, "logs --root /shared/alice/k8s --key iabc --rank 0 --container main"},
		{func() error {
			return c.Logs(ctx, "alice", "iabc", 0, "main", staging.LogOptions{Tail: &tail, LimitBytes: &limit, SinceTime: since, Timestamps: true, Previous: true, Follow: true}, io.Discard)
		}, "logs --root /shared/alice/k8s --key iabc --rank 0 --container main --previous --follow --timestamps --tail 0 --limit-bytes 7 --since-time 2026-01-02T03:04:05.000006Z"},
	}
	for _, call := range calls {
		r.got = nil
		if err := call.do(); err != nil {
			t.Errorf("%s: %v", call.want, err)
			continue
		}
		if got := strings.Join(r.got[0].Argv, " "); got != "/opt/podrun agent "+call.want || r.got[0].User != "alice" {
			t.Errorf("ran %q as %q\nwant %q", got, r.got[0].User, call.want)
		}
	}
}

func TestStageTellsEachGang(t *testing.T) {
	tests := map[string]struct {
		out  transport.Result
		err  error
		want backends.Kind
	}{
		"done":              {out: transport.Result{Stdout: []byte(`{"key":"iabc","code":0}` + "\n")}},
		"done, then broken": {out: transport.Result{Exit: 3, Stdout: []byte(`{"key":"iabc","code":0}` + "\n")}},
		"refused":           {out: transport.Result{Stdout: []byte(`{"key":"iabc","code":3,"error":"why"}`)}, want: backends.KindInvalid},
		"no access":         {out: transport.Result{Stdout: []byte(`{"key":"iabc","code":5}`)}, want: backends.KindDenied},
		"disk full":         {out: transport.Result{Stdout: []byte(`{"key":"iabc","code":1}`)}, want: backends.KindTransient},
		"another's answer":  {out: transport.Result{Stdout: []byte(`{"key":"iabd","code":0}`)}, want: backends.KindTransient},
		"half an answer":    {out: transport.Result{Stdout: []byte(`{"key":"iabc","co`)}, want: backends.KindTransient},
		"no base":           {out: transport.Result{Exit: 5, Stdout: []byte{}}, want: backends.KindDenied},
		"cut":               {err: context.DeadlineExceeded, want: backends.KindTransient},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c, r := client()
			r.out, r.err = tc.out, tc.err
			if err := c.Stage(t.Context(), "alice", "iabc", output()); backends.KindOf(err) != tc.want {
				t.Errorf("error %v, want kind %q", err, tc.want)
			}
		})
	}
}

// Directories of one user that are removed at the same time share a command,
// and the failure of one is its own.
func TestRemoveTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := client()
		r.wait = make(chan struct{})
		errs := make([]error, 4)
		var group sync.WaitGroup
		for i := range errs {
			group.Go(func() { errs[i] = c.Remove(t.Context(), "alice", backends.Key(fmt.Sprint("k", i))) })
			synctest.Wait()
		}
		r.out.Stdout = []byte(`{"key":"k1","code":0}` + "\n" + `{"key":"k2","code":5,"error":"why"}` + "\n")
		close(r.wait)
		group.Wait()
		if len(r.got) != 2 || strings.Join(r.got[1].Argv, " ") != "/opt/podrun agent remove --root /shared/alice/k8s" ||
			string(r.stdin) != `{"key":"k1"}`+"\n"+`{"key":"k2"}`+"\n"+`{"key":"k3"}`+"\n" {
			t.Errorf("ran %v with input %q", r.got, r.stdin)
		}
		<-time.After(time.Minute) // of the bubble: what waits for more gives up
		want := []backends.Kind{"", "", backends.KindDenied, backends.KindTransient}
		for i, err := range errs {
			if backends.KindOf(err) != want[i] {
				t.Errorf("remove k%d: %v, want kind %q", i, err, want[i])
			}
		}
	})
}

func TestNothingMalformedIsRun(t *testing.T) {
	ctx := t.Context()
	c, r := client()
	other := output()
	other.Gang.Key = "iother"
	for name, err := range map[string]error{
		"root":      c.Remove(ctx, "root", "iabc"),
		"user":      c.Remove(ctx, "-o", "iabc"),
		"key":       c.Remove(ctx, "alice", "../x"),
		"long key":  c.Remove(ctx, "alice", "i234567890123456"),
		"rank":      c.Stop(ctx, "alice", "iabc", map[int]manifest.Stop{-1: {}}),
		"container": c.Logs(ctx, "alice", "iabc", 0, "--root", staging.LogOptions{}, io.Discard),
		"other key": c.Stage(ctx, "alice", "iabc", other),
	} {
		if backends.KindOf(err) != backends.KindInvalid {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if len(r.got) != 0 {
		t.Errorf("%d commands were run", len(r.got))
	}
}

func TestErrors(t *testing.T) {
	tests := map[string]struct {
		exit     int
		err      error
		kind     backends.Kind
		notFound bool
	}{
		"invalid":     {exit: 3, kind: backends.KindInvalid},
		"not found":   {exit: 4, kind: backends.KindInvalid, notFound: true},
		"denied":      {exit: 5, kind: backends.KindDenied},
		"other":       {exit: 1, kind: backends.KindTransient},
		"killed":      {exit: 137, kind: backends.KindTransient},
		"not started": {err: fmt.Errorf("run: %w", transport.ErrNotStarted), kind: backends.KindTransient},
		"time-out":    {err: context.DeadlineExceeded, kind: backends.KindTransient},
		"too much":    {err: fmt.Errorf("run: %w", transport.ErrOutputLimit), kind: backends.KindInvalid},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c, r := client()
			r.out, r.err = transport.Result{Exit: tc.exit, Stderr: []byte("first line\nthe cause\x1b[31m\n")}, tc.err
			err := c.Remove(t.Context(), "alice", "iabc")
			if backends.KindOf(err) != tc.kind || errors.Is(err, staging.ErrNotFound) != tc.notFound {
				t.Errorf("error %v is %s, want %s", err, backends.KindOf(err), tc.kind)
			}
			if tc.err != nil && !errors.Is(err, tc.err) {
				t.Errorf("error %v hides its cause", err)
			}
			if tc.exit != 0 && (!strings.Contains(err.Error(), "the cause") || strings.ContainsAny(err.Error(), "\x1b\n")) {
				t.Errorf("error %q", err)
			}
			var own *staging.Error
			if !errors.As(err, &own) || own.Verb != "remove" || own.User != "alice" || own.Key != "iabc" {
				t.Errorf("error %+v", own)
			}
		})
	}
}

func TestCollect(t *testing.T) {
	c, r := client()
	r.out.Stdout = []byte(`{"gangs":{"iabc":{"pods":{"0":{"uid":"u","phase":"Running"}},"ranks":{"u":0}},"../evil":{},"":{}}}`)
	got, err := c.Collect(t.Context(), "alice")
	if err != nil || len(got.Gangs) != 1 || got.Gangs["iabc"].Pods[0].Phase != manifest.PhaseRunning || got.Gangs["iabc"].Ranks["u"] != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	r.out.Stdout = nil
	if got, err = c.Collect(t.Context(), "alice"); err != nil || len(got.Gangs) != 0 {
		t.Errorf("an empty answer: %+v, %v", got, err)
	}
	r.out.Stdout = []byte(`{"gangs":`)
	if _, err = c.Collect(t.Context(), "alice"); backends.KindOf(err) != backends.KindTransient {
		t.Errorf("half an answer: %v", err)
	}
}

func TestArchive(t *testing.T) {
	first, err := staging.Archive(output())
	if err != nil {
		t.Fatal(err)
	}
	second, err := staging.Archive(output())
	if err != nil || !bytes.Equal(first, second) {
		t.Error("two archives of one output differ")
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(first)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		mode := int64(0o600)
		if h.Typeflag == tar.TypeDir {
			mode = 0o700
		}
		if h.Mode != mode || h.Uid != 0 || !h.ModTime.IsZero() && h.ModTime.Unix() != 0 {
			t.Errorf("%s: mode %o, %v", h.Name, h.Mode, h.ModTime)
		}
		names = append(names, h.Name)
	}
	want := []string{"gang.json", "pods/", "pods/0/", "pods/0/pod.json", "pods/0/volumes/", "pods/0/volumes/cm/", "pods/0/volumes/cm/a",
		"pods/0/volumes/cm/d/", "pods/0/volumes/cm/d/f", "pods/0/volumes/empty/", "pods/1/", "pods/1/pod.json"}
	if !slices.Equal(names, want) {
		t.Errorf("entries %v\nwant %v", names, want)
	}
}

func TestArchiveRefuses(t *testing.T) {
	for _, name := range []string{"../x", "/etc/passwd", "a/../../b", "a//b", "", "a\x00b", "a/", strings.Repeat("x", 5000)} {
		out := output()
		out.Files[0]["cm"] = map[string]translate.File{name: {}}
		if b, err := staging.Archive(out); err == nil {
			t.Errorf("%q was packed in %d bytes", name, len(b))
		}
	}
	out := output()
	out.Files[0]["cm"] = map[string]translate.File{"a": {}, "a/b": {}}
	if _, err := staging.Archive(out); err == nil {
		t.Error("a file that is a directory was packed")
	}
}
