package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

func TestHello(t *testing.T) {
	b := newBench(t)
	b.stage(one(sh("main", "echo hello; echo oops >&2; pwd; id -u; umask; grep Cap /proc/self/status; exit 0"), sh("other", "exit 3")))
	if code := b.launch(); code != 1 {
		t.Errorf("launch exited %d, want 1", code)
	}
	s := b.final(0, manifest.PhaseFailed)
	if exitCode(s, 0) != 0 || exitCode(s, 1) != 3 {
		t.Errorf("containers: %+v", s.Containers)
	}
	if c := s.Containers[0]; c.State.Terminated.Reason != "Completed" || c.ContainerID != "host://uid-0/main/0" {
		t.Errorf("container: %+v", c)
	}
	log := b.logs(0, "main")
	if !strings.Contains(log, "hello\n") || !strings.Contains(log, "oops\n") {
		t.Errorf("log: %q", log)
	}
	for line := range strings.Lines(log) {
		if set, mask, ok := strings.Cut(strings.TrimSpace(line), ":\t"); ok && strings.HasPrefix(set, "Cap") && set != "CapBnd" && strings.Trim(mask, "0") != "" {
			t.Errorf("a container has capabilities: %s", line)
		}
	}
	t.Log(log)
}

// Three members, each of which resolves the names of all.
func TestNamesResolve(t *testing.T) {
	b := newBench(t)
	script := "for n in 0 1 2; do getent hosts m-$n-host || exit 1; getent hosts m-$n-host.sub.ns.svc.cluster.local || exit 1; done"
	m := one(sh("main", script))
	b.stage(m, m, m)
	b.env = append(b.env, `ISTHMUS_LOCAL_TASKS=[{"rank":0,"host":"a","gpus":[0,1]},{"rank":1,"host":"b","gpus":[],"addr":"127.0.0.2"},{"rank":2,"host":"a","gpus":[2]}]`)
	if code := b.launch(); code != 0 {
		t.Errorf("launch exited %d, want 0", code)
	}
	for rank := range 3 {
		b.final(rank, manifest.PhaseSucceeded)
		log := b.logs(rank, "main")
		if strings.Count(log, "127.0.0.1") != 4 || strings.Count(log, "127.0.0.2") != 2 {
			t.Errorf("rank %d resolved\n%s", rank, log)
		}
	}
	if data, err := os.ReadFile(filepath.Join(b.dir(), "end.json")); err != nil || !strings.Contains(string(data), `"exitCode":0`) {
		t.Errorf("end.json: %s, %v", data, err)
	}
}

func TestVolumes(t *testing.T) {
	b := newBench(t)
	hostDir := filepath.Join(filepath.Dir(b.root), "home")
	c := sh("main", `
set -e
cat /etc/config-map/a /etc/config-map/dir/b /brand/new/place/a /opt/deep/er/a; echo
stat -L -c %a /etc/config-map/a /etc/config-map/dir/b
test "$(cat /etc/config-map/ip)" = "$IP"
# Output and errors reach the log in no fixed order.
if (echo x > /etc/config-map/a) 2>/dev/null; then echo writable; exit 1; fi
echo data > /scratch/f; cat /scratch/f
echo mem > /mem/f
test -f /etc/passwd && test -d /usr/bin && test -c /dev/null && echo > /dev/null
echo from-host > /host/file
cat /one/file
echo sub > /sub/x; test -f /scratch/inner/x
echo last words > /dev/termination-log
`)
	c.VolumeMounts = []corev1.VolumeMount{
		{Name: "cm", MountPath: "/etc/config-map"},
		{Name: "cm", MountPath: "/brand/new/place"},
		{Name: "cm", MountPath: "/opt/deep/er"},
		{Name: "cm", MountPath: "/one/file", SubPath: "a"},
		{Name: "tmp", MountPath: "/scratch"},
		{Name: "tmp", MountPath: "/sub", SubPath: "inner"},
		{Name: "mem", MountPath: "/mem"},
		{Name: "host", MountPath: "/host"},
	}
	second := sh("second", "i=0; while ! test -s /elsewhere/f; do i=$((i+1)); test $i -lt 500 || exit 9; sleep 0.02; done; cat /elsewhere/f; test ! -e /scratch/f")
	second.VolumeMounts = []corev1.VolumeMount{{Name: "tmp", MountPath: "/elsewhere", ReadOnly: true}}
	m := one(c, second)
	m.env = map[string][]manifest.EnvVar{"main": {{Name: "IP", Field: "status.podIP"}}}
	m.volumes = map[string]manifest.Volume{
		"cm":   {Kind: "files", Modes: map[string]uint32{"dir/b": 0o400}, NodeFields: map[string]string{"ip": "status.podIP"}},
		"tmp":  {Kind: "emptyDir"},
		"mem":  {Kind: "memory"},
		"host": {Kind: "hostPath", Path: hostDir},
	}
	m.files = map[string]string{"cm/a": "A", "cm/dir/b": "B"}
	b.stage(m)
	if code := b.pod(); code != 0 {
		t.Errorf("pod exited %d; log:\n%s", code, b.logs(0, "main"))
	}
	s := b.final(0, manifest.PhaseSucceeded)
	if got := s.Containers[0].State.Terminated.Message; got != "last words\n" {
		t.Errorf("termination message %q", got)
	}
	if got, want := b.logs(0, "main"), "ABAA\n644\n400\n"; !strings.HasPrefix(got, want) {
		t.Errorf("log %q, want it to start with %q", got, want)
	}
	if data, err := os.ReadFile(filepath.Join(hostDir, "file")); err != nil || string(data) != "from-host\n" {
		t.Errorf("host path: %q, %v", data, err)
	}
	if got := b.logs(0, "second"); got != "data\n" {
		t.Errorf("shared volume: %q", got)
	}
}
