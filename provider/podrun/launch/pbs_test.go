package launch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// file writes lines into a file of its own.
func file(t *testing.T, lines ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestPBSTasks(t *testing.T) {
	gang := func(launcher string, components ...manifest.Component) *manifest.Gang {
		g := &manifest.Gang{Launcher: launcher, Components: components}
		for _, c := range components {
			for range c.Tasks {
				g.Members = append(g.Members, manifest.Member{Rank: len(g.Members)})
			}
		}
		return g
	}
	gpus := func(n int64) map[string]int64 { return map[string]int64{"a100": n} }
	for name, c := range map[string]struct {
		gang         *manifest.Gang
		nodes, cards []string
		want         string
	}{
		"a line a chunk": {gang("pbs", manifest.Component{Tasks: 1, CPUs: 8}, manifest.Component{Tasks: 3, CPUs: 1, GPUs: gpus(4)}),
			[]string{"c1", "g1", "g1", "g2"}, nil, "c1 0:0, g1 0:4, g1 4:4, g2 0:4"},
		"too few lines": {gang("pbs", manifest.Component{Tasks: 3, CPUs: 1}), []string{"n1", "n2"}, nil, "2 lines for 3 members"},
		"a line a CPU": {gang("torque", manifest.Component{Tasks: 2, CPUs: 2, GPUs: gpus(1)}, manifest.Component{Tasks: 1, CPUs: 3}),
			[]string{"n1", "n1", "n2", "n2", "n2", "n1", "n1"}, []string{"n1-gpu3", "n1-gpu5"}, "n1 0:1:3, n1 1:1:5, n2 0:0"},
		"no room":      {gang("torque", manifest.Component{Tasks: 2, CPUs: 2}), []string{"n1", "n1", "n1"}, nil, "no room for task 1"},
		"no node file": {gang("pbs", manifest.Component{Tasks: 1, CPUs: 1}), nil, nil, "PBS_NODEFILE is not set"},
	} {
		t.Run(name, func(t *testing.T) {
			var env []string
			if c.nodes != nil {
				env = append(env, "PBS_NODEFILE="+file(t, c.nodes...))
			}
			if c.cards != nil {
				env = append(env, "PBS_GPUFILE="+file(t, c.cards...))
			}
			tasks, err := pbsTasks(c.gang, env)
			var got []string
			for _, task := range tasks {
				got = append(got, task.host+" "+strings.TrimPrefix(task.gpus.args()[0], "--gpus="))
			}
			if text := strings.Join(got, ", "); err == nil && text != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %s, %v; want %s", text, err, c.want)
			}
		})
	}
}

func TestDevices(t *testing.T) {
	for _, c := range []struct{ flag, hook, want string }{
		{"0:0", "", "CUDA_VISIBLE_DEVICES="},
		{"0:0", "0,1", "CUDA_VISIBLE_DEVICES="},
		{"2:2", "", "CUDA_VISIBLE_DEVICES=2,3"},
		{"1:2", "GPU-a,GPU-b,GPU-c", "CUDA_VISIBLE_DEVICES=GPU-b,GPU-c"},
		{"2:2", "0,1", "CUDA_VISIBLE_DEVICES=0,1"},
		{"4:2:3,5", "", "CUDA_VISIBLE_DEVICES=3,5"},
	} {
		d, err := ParseDevices(c.flag)
		if err != nil {
			t.Fatal(err)
		}
		env := []string{"A=1"}
		if c.hook != "" {
			env = append(env, "CUDA_VISIBLE_DEVICES="+c.hook)
		}
		if got := d.Environment(env); len(got) != 2 || !slices.Contains(got, c.want) || !slices.Contains(got, "A=1") {
			t.Errorf("%s with a hook's %q: %v, want %s", c.flag, c.hook, got, c.want)
		}
		if got := d.args(); got[0] != "--gpus="+c.flag {
			t.Errorf("%s becomes %v", c.flag, got)
		}
	}
	for _, bad := range []string{"", "1", "a:1", "1:b", "-1:1", "1:2:3", "9999999999:1"} {
		if d, err := ParseDevices(bad); err == nil {
			t.Errorf("%q is %+v", bad, d)
		}
	}
}

func TestRemoteCommand(t *testing.T) {
	bin := t.TempDir()
	tool := func(name string) string {
		path := filepath.Join(bin, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700); err != nil { //nolint:gosec // a program of the test
			t.Fatal(err)
		}
		return path
	}
	env := []string{"PATH=relative:" + bin, "PBS_CONF_FILE=" + file(t, "PBS_SERVER=s")}
	if argv, err := remote("pbs", env, "n2", "/d", []string{"pod"}); err == nil && argv[0] != "/opt/pbs/bin/pbs_tmrsh" {
		t.Errorf("without any tool: %v", argv)
	}
	ssh := tool("ssh")
	for _, launcher := range []string{"pbs", "torque"} {
		argv, err := remote(launcher, env, "n2", "/d", []string{"pod", "--rank=1"})
		if want := ssh + " -o BatchMode=yes -o ConnectTimeout=30 n2 -- /d/podrun pod --rank=1"; err != nil || strings.Join(argv, " ") != want {
			t.Errorf("%s by ssh: %v, %v", launcher, argv, err)
		}
	}
	for launcher, want := range map[string]string{"pbs": tool("pbs_tmrsh") + " n2 /d/podrun pod", "torque": tool("pbsdsh") + " -h n2 /d/podrun pod"} {
		if argv, err := remote(launcher, env, "n2", "/d", []string{"pod"}); err != nil || strings.Join(argv, " ") != want {
			t.Errorf("%s: %v, %v; want %s", launcher, argv, err, want)
		}
	}
	env = []string{"PBS_CONF_FILE=" + file(t, "PBS_EXEC="+filepath.Dir(bin))}
	if err := os.Rename(bin, filepath.Join(filepath.Dir(bin), "bin")); err != nil {
		t.Fatal(err)
	}
	if got := find(env, "pbs_tmrsh"); got != filepath.Join(filepath.Dir(bin), "bin", "pbs_tmrsh") {
		t.Errorf("found %q where PBS is installed", got)
	}
	// Whatever a shell could read is refused.
	for _, dir := range []string{"/d;touch x", "/d $(x)", "/two words", "/quo'te", "/new\nline", "/a&b", "/*"} {
		if argv, err := remote("pbs", env, "n2", dir, []string{"pod"}); err == nil {
			t.Errorf("%q becomes %q", dir, argv)
		}
	}
}

func TestRestartsOfAPBSJob(t *testing.T) {
	dir := t.TempDir()
	nowhere := []string{"PBS_JOBID=7.s", "PBS_CONF_FILE=/nonexistent", "PATH=/nonexistent"}
	for want := range 3 {
		if got, err := Restarts(dir, nowhere); err != nil || got != want {
			t.Errorf("counted %d, %v, want %d", got, err, want)
		}
	}
	bin := filepath.Join(t.TempDir(), "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\n[ \"$*\" = '-f 7.s' ] || exit 1\nprintf 'Job Id: 7.s\\n    job_state = R\\n    run_count = 9\\n    Submit_arguments = x\\n\\trun_count = 5\\n'\n"
	if err := os.WriteFile(filepath.Join(bin, "qstat"), []byte(script), 0o700); err != nil { //nolint:gosec // a program of the test
		t.Fatal(err)
	}
	asks := []string{"PBS_JOBID=7.s", "PATH=" + bin + ":/usr/bin:/bin"}
	if got, err := Restarts(dir, asks); err != nil || got != 8 {
		t.Errorf("the server says 8, got %d, %v", got, err)
	}
	if got, err := Restarts(dir, nowhere); err != nil || got != 9 {
		t.Errorf("counted on %d, %v, want 9", got, err)
	}
	if got, err := Restarts(dir, []string{"PBS_JOBID=8.s", "PATH=/nonexistent", "PBS_CONF_FILE=/nonexistent"}); err != nil || got != 0 {
		t.Errorf("another job: %d, %v", got, err)
	}
	if got, err := Restarts(dir, []string{"SLURM_JOB_ID=3", "SLURM_RESTART_COUNT=2", "PBS_JOBID=7.s"}); err != nil || got != 2 {
		t.Errorf("a Slurm job: %d, %v", got, err)
	}
}
