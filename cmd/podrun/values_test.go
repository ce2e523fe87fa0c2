package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// hostile values reach a program byte for byte or not at all.
var hostile = []string{
	"", " ", "-", "--", "-rf", "--help", "'", `"`, "`id`", "$(id)", "${HOME}", "$HOME", ";id", "|id", "&&id", "#x", "*", "~", "!!",
	"a\nb", "\n", "\r\n", "\t", "a\\nb", `\`, "%s%n", "=x", "A=B", "ünïcode", "\xff\xfe not utf-8 \x80", "\x01\x1b[31m\x7f", "{}[]()<>",
	"x; touch /tmp/owned-by-podrun-test", strings.Repeat("long ", 5000),
}

func TestEnvironmentByteForByte(t *testing.T) {
	b := newBench(t)
	dir := filepath.Join(filepath.Dir(b.root), "home")
	c := corev1.Container{Name: "main", Command: []string{"/bin/cp", "/proc/self/environ", dir + "/environ"}}
	m := one(c)
	var vars []manifest.EnvVar
	for i, v := range hostile {
		vars = append(vars, manifest.EnvVar{Name: fmt.Sprintf("V%02d", i), Value: []byte(v)})
	}
	vars = append(vars,
		manifest.EnvVar{Name: "E1", Value: []byte("a-$(V05)-$$(V05)-$(NOPE)"), Expand: true},
		manifest.EnvVar{Name: "E2", Value: []byte("$(V05)")},
		manifest.EnvVar{Name: "TWICE", Value: []byte("1")}, manifest.EnvVar{Name: "TWICE", Value: []byte("2")},
		manifest.EnvVar{Name: "LATER", Value: []byte("$(TWICE)$(AFTER)"), Expand: true}, manifest.EnvVar{Name: "AFTER", Value: []byte("x")},
		manifest.EnvVar{Name: "CUDA_VISIBLE_DEVICES", Value: []byte("7")}, manifest.EnvVar{Name: "HOSTNAME", Value: []byte("mine")})
	m.env = map[string][]manifest.EnvVar{"main": vars}
	b.stage(m)
	b.env = append(b.env, "CUDA_VISIBLE_DEVICES=0,1", "KUBERNETES_SERVICE_HOST=10.0.0.1", "LD_PRELOAD=", "ISTHMUS_RESTART_COUNT=0")
	if code := b.pod(); code != 0 {
		t.Fatalf("pod exited %d", code)
	}
	data, err := os.ReadFile(filepath.Join(dir, "environ"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for kv := range bytes.SplitSeq(bytes.TrimSuffix(data, []byte{0}), []byte{0}) {
		name, value, _ := strings.Cut(string(kv), "=")
		if _, twice := got[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		got[name] = value
	}
	for i, v := range hostile {
		if name := fmt.Sprintf("V%02d", i); got[name] != v {
			t.Errorf("%s = %.100q, want %.100q", name, got[name], v)
		}
		delete(got, fmt.Sprintf("V%02d", i))
	}
	for name, want := range map[string]string{
		"E1": "a-" + hostile[5] + "-$(V05)-$(NOPE)", "E2": "$(V05)", "TWICE": "2", "LATER": "2$(AFTER)", "AFTER": "x",
		"CUDA_VISIBLE_DEVICES": "0,1", "HOSTNAME": "mine", "SLURM_JOB_ID": "7", "HOME": dir, "USER": "tester",
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "ISTHMUS_CONTAINER_ID": "host://uid-0/main/0",
	} {
		if got[name] != want {
			t.Errorf("%s = %q, want %q", name, got[name], want)
		}
		delete(got, name)
	}
	delete(got, "TMPDIR")
	if len(got) > 0 {
		t.Errorf("inherited beyond the allow list: %v", got)
	}
}

func TestArgumentsByteForByte(t *testing.T) {
	b := newBench(t)
	dir := filepath.Join(filepath.Dir(b.root), "home")
	args := slices.DeleteFunc(slices.Clone(hostile), func(s string) bool { return strings.Contains(s, "\xff") || strings.Contains(s, "$(") })
	c := corev1.Container{Name: "main", Command: []string{"/bin/sh", "-c", `cp /proc/$$$$/cmdline "$0"`, dir + "/cmdline"}, Args: append(args, "$(BYTES)", "$$(BYTES)", "$(NOPE)", "$(V)x")}
	m := one(c)
	m.env = map[string][]manifest.EnvVar{"main": {{Name: "BYTES", Value: []byte("\xff\xfe\n")}, {Name: "V", Value: []byte("")}}}
	b.stage(m)
	if code := b.pod(); code != 0 {
		t.Fatalf("pod exited %d: %s", code, b.logs(0, "main"))
	}
	data, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")[4:]
	want := slices.Concat(args, []string{"\xff\xfe\n", "$(BYTES)", "$(NOPE)", "x"})
	if !slices.Equal(got, want) {
		t.Errorf("got %.300q\nwant %.300q", got, want)
	}
}

func TestLargeEnvironment(t *testing.T) {
	for name, tc := range map[string]struct {
		vars, size int
		phase      manifest.Phase
		message    string
	}{
		"1 MiB in all":         {16, 64 << 10, manifest.PhaseSucceeded, ""},
		"4 MiB in all":         {40, 100 << 10, manifest.PhaseSucceeded, ""},
		"one longest variable": {1, 128<<10 - len("V00=") - 1, manifest.PhaseSucceeded, ""},
		"one too long":         {1, 128<<10 - len("V00="), manifest.PhaseFailed, "environment variable V00: 131073 bytes"},
		"too much in all":      {100, 100 << 10, manifest.PhaseFailed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			m := one(corev1.Container{Name: "main", Command: []string{"/bin/true"}})
			for i := range tc.vars {
				m.env = map[string][]manifest.EnvVar{"main": append(m.env["main"], manifest.EnvVar{Name: fmt.Sprintf("V%02d", i), Value: bytes.Repeat([]byte{'x'}, tc.size)})}
			}
			b.stage(m)
			b.pod()
			s := b.final(0, tc.phase)
			if tc.message != "" && (s.Reason != "CreateContainerError" || !strings.Contains(s.Message, tc.message)) {
				t.Errorf("reason %q, message %q", s.Reason, s.Message)
			}
			if tc.phase == manifest.PhaseFailed && tc.message == "" && !strings.Contains(s.Containers[0].State.Terminated.Message, "more than this node allows") {
				t.Errorf("container: %+v", s.Containers[0].State.Terminated)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	empty := &corev1.Probe{}
	for name, tc := range map[string]struct {
		member          member
		reason, message string
	}{
		"no command":         {one(corev1.Container{Name: "main", Image: "busybox", Args: []string{"x"}}), "InvalidSpec", `spec.containers[0].command: it is required, since runtime "host" uses no image`},
		"empty probe":        {one(corev1.Container{Name: "main", Command: []string{"true"}, LivenessProbe: empty}), "InvalidSpec", "spec.containers[0].livenessProbe"},
		"bad name":           {one(corev1.Container{Name: "../x", Command: []string{"true"}}), "InvalidSpec", "spec.containers[0].name"},
		"unknown volume":     {one(corev1.Container{Name: "main", Command: []string{"true"}, VolumeMounts: []corev1.VolumeMount{{Name: "nope", MountPath: "/x"}}}), "CreateContainerError", `spec.containers[0].volumeMounts[0].name: there is no volume "nope"`},
		"NUL in environment": {member{spec: one(corev1.Container{Name: "main", Command: []string{"true"}}).spec, env: map[string][]manifest.EnvVar{"main": {{Name: "X", Value: []byte("a\x00b")}}}}, "CreateContainerError", "environment variable X: the value has a NUL byte"},
		"bad variable name":  {member{spec: one(corev1.Container{Name: "main", Command: []string{"true"}}).spec, env: map[string][]manifest.EnvVar{"main": {{Name: "A=B"}}}}, "CreateContainerError", `environment variable "A=B"`},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.stage(tc.member)
			if code := b.pod(); code != 1 {
				t.Errorf("pod exited %d, want 1", code)
			}
			if s := b.final(0, manifest.PhaseFailed); s.Reason != tc.reason || !strings.Contains(s.Message, tc.message) {
				t.Errorf("reason %q, message %q; want %q, %q", s.Reason, s.Message, tc.reason, tc.message)
			}
		})
	}
}

func TestNotStarted(t *testing.T) {
	for name, tc := range map[string]struct {
		c       corev1.Container
		message string
	}{
		"no such program":       {corev1.Container{Name: "main", Command: []string{"no-such-program"}}, `execute "no-such-program": not found in PATH`},
		"no such file":          {corev1.Container{Name: "main", Command: []string{"/no/such"}}, `execute "/no/such": no such file`},
		"not executable":        {corev1.Container{Name: "main", Command: []string{"/etc/passwd"}}, "permission denied"},
		"no working directory":  {corev1.Container{Name: "main", Command: []string{"true"}, WorkingDir: "/no/such/dir"}, "workingDir: chdir /no/such/dir: no such file or directory"},
		"program with a script": {corev1.Container{Name: "main", Command: []string{"$(id)"}}, "not found in PATH"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.stage(one(tc.c))
			b.pod()
			s := b.final(0, manifest.PhaseFailed)
			if e := s.Containers[0].State.Terminated; e == nil || e.ExitCode != 128 || e.Reason != "StartError" || !strings.Contains(e.Message, tc.message) {
				t.Errorf("container: %+v, want %q", e, tc.message)
			}
		})
	}
}

// A directory that subPath makes has the mode of its volume, whatever the umask;
// names of variables may be all that keys of ConfigMaps may be.
func TestSubPathModeAndOddNames(t *testing.T) {
	b := newBench(t)
	c := sh("main", "stat -c %a /whole/a /whole/a/b; tr '\\0' '\\n' </proc/$$/environ | grep -c '^1-odd[.]name=v$'")
	c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/whole"}, {Name: "v", MountPath: "/part", SubPath: "a/b"}}
	m := one(c)
	m.volumes = map[string]manifest.Volume{"v": {Kind: "emptyDir"}}
	m.env = map[string][]manifest.EnvVar{"main": {{Name: "1-odd.name", Value: []byte("v")}}}
	b.stage(m)
	if code := b.pod(); code != 0 {
		t.Fatalf("exit %d", code)
	}
	if got, want := b.logs(0, "main"), "777\n777\n1\n"; got != want {
		t.Errorf("log %q, want %q", got, want)
	}
}
