package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/staging"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// refresh hands newer contents of volume "cm" of rank 0 over.
func (b *bench) refresh(digest string, files map[string]translate.File) {
	b.t.Helper()
	v := manifest.Volume{Kind: "files", Modes: map[string]uint32{}}
	for name, f := range files {
		v.Modes[name] = f.Mode
	}
	archive, err := staging.UpdateArchive(map[int]translate.Refresh{0: {
		Update: manifest.Update{Version: manifest.Version, Contents: manifest.Contents{Digest: digest}, Volumes: map[string]manifest.Volume{"cm": v}},
		Files:  map[string]map[string]translate.File{"cm": files},
	}})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, stderr, code := b.agent(archive, "refresh", "--key", "g1"); code != 0 {
		b.t.Fatalf("refresh: exit %d: %s", code, stderr)
	}
}

func file(text string, mode uint32) translate.File {
	return translate.File{Data: []byte(text), Mode: mode}
}

// The files of a volume change under a running container, all at once: a reader
// never sees some of the old and some of the new. A subPath mount stays.
func TestContentsAreUpdated(t *testing.T) {
	b := newBench(t)
	c := sh("main", `
set -e
torn=0; seen=
while test "$(cat /cm/a)" != end; do
  d=$(readlink /cm/..data); x=$(cat /cm/$d/a 2>/dev/null) && y=$(cat /cm/$d/dir/b 2>/dev/null) && { test "$x" = "$y" || torn=1; seen="$x"; }
  echo "$seen" > $HOME/seen
done
until test -e /cm/later; do :; done # names that are new come after the contents, as with a kubelet
stat -L -c %a /cm/a /cm/later
echo "torn=$torn sub=$(cat /sub/a) later=$(cat /cm/later) dir=$(ls /cm/dir 2>/dev/null)"
if (echo x > /cm/a) 2>/dev/null; then echo writable; fi
ls -A /cm | grep -c '^\.\.v-'
`)
	c.VolumeMounts = []corev1.VolumeMount{{Name: "cm", MountPath: "/cm"}, {Name: "cm", MountPath: "/sub/a", SubPath: "a"}}
	m := one(c)
	m.volumes = map[string]manifest.Volume{"cm": {Kind: "files"}}
	m.files = map[string]string{"cm/a": "one", "cm/dir/b": "one"}
	b.stage(m)
	p := b.startPod()
	seen := func(want string) {
		t.Helper()
		until(t, "the container sees "+want, func() bool {
			data, _ := os.ReadFile(b.file("seen"))
			return strings.TrimSpace(string(data)) == want
		})
	}
	seen("one")
	for _, text := range []string{"two", "three", "four"} {
		b.refresh(text, map[string]translate.File{"a": file(text, 0o644), "dir/b": file(text, 0o644)})
		seen(text)
	}
	until(t, "the status tells", func() bool { s, _ := b.status(0); return s.Contents.Digest == "four" })
	if left := globbed(t, filepath.Join(b.dir(), "pods", "0", "updates", "*")); len(left) > 2 {
		t.Errorf("old updates are left: %v", left)
	}
	b.refresh("end", map[string]translate.File{"a": file("end", 0o600), "later": file("here", 0o440)})
	if code := p.wait(); code != 0 {
		t.Errorf("pod exited %d", code)
	}
	if got, want := b.logs(0, "main"), "600\n440\ntorn=0 sub=one later=here dir=\n1\n"; got != want {
		t.Errorf("log %q, want %q", got, want)
	}
}

// What was handed over before a start, and what an earlier run of the batch job
// had, is what the containers see.
func TestNewestContentsAtTheStart(t *testing.T) {
	b := newBench(t)
	c := sh("main", "cat /cm/a >> $HOME/runs; test -e $HOME/again || exec sleep 1000")
	c.VolumeMounts = []corev1.VolumeMount{{Name: "cm", MountPath: "/cm"}}
	m := one(c)
	m.volumes = map[string]manifest.Volume{"cm": {Kind: "files"}}
	m.files = map[string]string{"cm/a": "staged "}
	b.stage(m)
	b.refresh("queued", map[string]translate.File{"a": file("queued ", 0o644)})
	p := b.startPod()
	until(t, "it has read", func() bool { data, _ := os.ReadFile(b.file("runs")); return string(data) == "queued " })
	b.refresh("live", map[string]translate.File{"a": file("live ", 0o644)})
	until(t, "it was taken", func() bool { s, _ := b.status(0); return s.Contents.Digest == "live" })
	// An update that cannot be read is passed over.
	bad := filepath.Join(b.dir(), "pods", "0", "updates", "99")
	if err := os.Mkdir(bad, 0o755); err != nil {
		t.Fatal(err)
	}
	until(t, "the user is told", func() bool {
		s, _ := b.status(0)
		return len(s.Events) > 0 && s.Events[len(s.Events)-1].Reason == "FailedMount"
	})
	b.requeue(p)
	if code := b.pod(); code != 0 {
		t.Errorf("pod exited %d", code)
	}
	if data, _ := os.ReadFile(b.file("runs")); string(data) != "queued live " {
		t.Errorf("the runs read %q", data)
	}
}

// A requeue runs nothing again that had come to its own end.
func TestRequeueSparesWhatEnded(t *testing.T) {
	b := newBench(t)
	done := one(sh("main", "echo done >> $HOME/runs"))
	failed := one(sh("main", "echo failed >> $HOME/runs; exit 3"))
	half := one(sh("main", "echo main >> $HOME/runs; test -e $HOME/again || exec sleep 1000"), sh("side", "echo side >> $HOME/runs"),
		sh("polite", "trap 'exit 0' TERM; echo polite >> $HOME/runs; test -e $HOME/again || while :; do sleep 0.02; done"))
	b.stage(done, failed, half)
	p := b.start("launch", ".")
	until(t, "two have ended and one is left", func() bool {
		x, _ := b.status(0)
		y, _ := b.status(1)
		z, _ := b.status(2)
		return x.Phase == manifest.PhaseSucceeded && y.Phase == manifest.PhaseFailed && len(z.Containers) == 3 &&
			z.Containers[0].State.Running != nil && z.Containers[1].State.Terminated != nil && strings.Contains(readFile(b.file("runs")), "polite")
	})
	// The side container must have ended in an earlier second than the stop.
	side, _ := b.status(2)
	until(t, "the clock has moved on", func() bool {
		return time.Since(side.Containers[1].State.Terminated.FinishedAt.Time) > 1100*time.Millisecond
	})
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.wait()
	if err := os.WriteFile(b.file("again"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	b.env = append(b.env, "SLURM_RESTART_COUNT=1")
	if code := b.launch(); code != 1 { // the one that failed is still a failure
		t.Errorf("launch exited %d, want 1", code)
	}
	runs := strings.Fields(readFile(b.file("runs")))
	count := map[string]int{}
	for _, r := range runs {
		count[r]++
	}
	if count["done"] != 1 || count["failed"] != 1 || count["side"] != 1 || count["main"] != 2 || count["polite"] != 2 {
		t.Errorf("runs %v", count)
	}
	for rank, phase := range []manifest.Phase{manifest.PhaseSucceeded, manifest.PhaseFailed, manifest.PhaseSucceeded} {
		if s := b.final(rank, phase); s.Restart != 1 {
			t.Errorf("rank %d: restart %d", rank, s.Restart)
		}
	}
	if s := b.final(2, manifest.PhaseSucceeded); s.Containers[0].RestartCount != 1 || s.Containers[1].RestartCount != 0 {
		t.Errorf("restart counts %+v", s.Containers)
	}
}

func readFile(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return string(data)
}

// Variables of a file that an init container wrote.
func TestEnvFile(t *testing.T) {
	b := newBench(t)
	m := one(sh("main", `echo "$A|$B|$C"`))
	prep := sh("prep", `printf "# made\nA='x y'\nB='two\nlines'\n" > /out/env`)
	prep.VolumeMounts = []corev1.VolumeMount{{Name: "out", MountPath: "/out"}}
	m.spec.InitContainers = []corev1.Container{prep}
	m.volumes = map[string]manifest.Volume{"out": {Kind: "emptyDir"}}
	ref := func(key string, optional bool) *manifest.EnvFile {
		return &manifest.EnvFile{Volume: "out", Path: "env", Key: key, Optional: optional}
	}
	m.env = map[string][]manifest.EnvVar{"main": {{Name: "A", File: ref("A", false)}, {Name: "B", File: ref("B", false)}, {Name: "C", File: ref("C", true)}}}
	b.stage(m)
	if code := b.pod(); code != 0 {
		t.Errorf("pod exited %d", code)
	}
	if got := b.logs(0, "main"); got != "x y|two\nlines|\n" {
		t.Errorf("log %q", got)
	}
}

// readOnlyRootFilesystem leaves the volumes, /dev and nothing else to write.
func TestReadOnlyRoot(t *testing.T) {
	b := newBench(t)
	home := filepath.Join(filepath.Dir(b.root), "home")
	c := sh("main", `for f in $HOME/x /tmp/x-$$ /var/tmp/x-$$ /new/x; do if (echo > $f) 2>/dev/null; then echo "wrote $f"; fi; done
echo v > /v/x && echo h > /host/x && echo > /dev/null && echo m > /dev/termination-log && echo ok`)
	yes := true
	c.SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: &yes}
	c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}, {Name: "cm", MountPath: "/new"}, {Name: "host", MountPath: "/host"}}
	m := one(c)
	m.volumes = map[string]manifest.Volume{"v": {Kind: "emptyDir"}, "cm": {Kind: "files"}, "host": {Kind: "hostPath", Path: home}}
	b.stage(m)
	b.pod()
	if got := b.logs(0, "main"); got != "ok\n" {
		t.Errorf("log %q", got)
	}
	b.final(0, manifest.PhaseSucceeded)
}

func TestHostPathTypes(t *testing.T) {
	for name, tc := range map[string]struct {
		kind, path, message string
	}{
		"made":           {"DirectoryOrCreate", "new/dir", ""},
		"file made":      {"FileOrCreate", "new-file", ""},
		"is a file":      {"Directory", "file", "is not of type Directory"},
		"is a directory": {"File", "", "is not of type File"},
		"missing":        {"Directory", "nothing", "no such file or directory"},
		"no socket":      {"Socket", "file", "is not of type Socket"},
		"link out":       {"", "out", "leads out of what is allowed"},
		"made by a link": {"DirectoryOrCreate", "up/made-outside", "path escapes from parent"},
		"link inside":    {"File", "inner", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			home := filepath.Join(filepath.Dir(b.root), "home")
			for link, to := range map[string]string{"out": "/etc", "up": filepath.Dir(b.root), "inner": home + "/file"} {
				if err := os.Symlink(to, filepath.Join(home, link)); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(home, "file"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			c := sh("main", "test -e /h")
			c.VolumeMounts = []corev1.VolumeMount{{Name: "h", MountPath: "/h"}}
			m := one(c)
			m.volumes = map[string]manifest.Volume{"h": {Kind: "hostPath", Path: filepath.Join(home, tc.path), Type: tc.kind, Beneath: []string{home}}}
			b.stage(m)
			b.pod()
			if tc.message == "" {
				b.final(0, manifest.PhaseSucceeded)
				return
			}
			if s := b.final(0, manifest.PhaseFailed); !strings.Contains(s.Message, tc.message) {
				t.Errorf("message %q, want %q", s.Message, tc.message)
			}
			if _, err := os.Lstat(filepath.Join(filepath.Dir(b.root), "made-outside")); err == nil {
				t.Error("something was made outside")
			}
		})
	}
}
