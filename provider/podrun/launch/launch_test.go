package launch

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

func TestSrunArgs(t *testing.T) {
	for name, tc := range map[string]struct {
		components []manifest.Component
		args       []string
		want       string
	}{
		"plain": {[]manifest.Component{{Tasks: 3, CPUs: 4}}, nil,
			"srun --kill-on-bad-exit=0 --wait=0 --export=ALL --mem=0 --cpus-per-task=4 ./podrun pod ."},
		"gpus": {[]manifest.Component{{Tasks: 2, CPUs: 1, GPUs: map[string]int64{"a100": 2, "": 1}}}, []string{"--no-namespaces"},
			"srun --kill-on-bad-exit=0 --wait=0 --export=ALL --mem=0 --cpus-per-task=1 --gpu-bind=per_task:3 ./podrun pod --no-namespaces ."},
		"heterogeneous": {[]manifest.Component{{Tasks: 1, CPUs: 1}, {Tasks: 2, CPUs: 8, GPUs: map[string]int64{"h100": 8}}}, nil,
			"srun --kill-on-bad-exit=0 --wait=0 --export=ALL --mem=0 --het-group=0 --cpus-per-task=1 ./podrun pod . " +
				": --mem=0 --het-group=1 --cpus-per-task=8 --gpu-bind=per_task:8 ./podrun pod ."},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(srunArgs(&manifest.Gang{Components: tc.components}, tc.args), " "); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestSrunEnv(t *testing.T) {
	got := srunEnv([]string{"PATH=/bin", "CUDA_VISIBLE_DEVICES=0", "SLURM_JOB_GPUS=0", "SLURM_CONF=/x", "SLURM_EXPORT_ENV=NONE", "ISTHMUS_RESTART_COUNT=9"}, 2)
	if want := []string{"PATH=/bin", "SLURM_CONF=/x", "ISTHMUS_RESTART_COUNT=2"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRestartCount(t *testing.T) {
	for text, want := range map[string]int{"": 0, "SLURM_RESTART_COUNT=3": 3, "ISTHMUS_RESTART_COUNT=1 SLURM_RESTART_COUNT=3": 1, "SLURM_RESTART_COUNT=x": -1, "SLURM_RESTART_COUNT=-1": -1} {
		got, err := RestartCount(strings.Fields(text))
		if (err != nil) != (want < 0) || (err == nil && got != want) {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
}

func TestLocalEnv(t *testing.T) {
	got := localEnv([]string{"A=1", "CUDA_VISIBLE_DEVICES=9", TasksVariable + "=x"}, []int{2, 3}, 1)
	if want := []string{"A=1", "CUDA_VISIBLE_DEVICES=2,3", "ISTHMUS_RESTART_COUNT=1"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestBrokenGangIsRecorded(t *testing.T) {
	member := `{"rank":0}`
	for name, tc := range map[string]struct{ gang, message string }{
		"missing":        {"", "gang.json"},
		"version":        {`{"version":99}`, "version 99"},
		"launcher":       {`{"version":1,"launcher":"sh","components":[{"tasks":1,"cpus":1}],"members":[` + member + `]}`, `launcher "sh"`},
		"too few":        {`{"version":1,"launcher":"local","components":[{"tasks":1,"cpus":1}],"members":[]}`, "component 0"},
		"rank":           {`{"version":1,"launcher":"local","components":[{"tasks":1,"cpus":1}],"members":[{"rank":5}]}`, "rank 5"},
		"no members":     {`{"version":1,"launcher":"local"}`, "0 tasks"},
		"not even a map": {`[]`, "decode"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if tc.gang != "" {
				if err := os.WriteFile(dir+"/gang.json", []byte(tc.gang), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer null.Close()
			if code := Run(Options{Dir: dir, Stdout: null, Stderr: null}); code != ExitBroken {
				t.Errorf("exit %d, want %d", code, ExitBroken)
			}
			data, err := os.ReadFile(dir + "/end.json")
			if err != nil || !strings.Contains(string(data), `"exitCode":2`) || !strings.Contains(strings.ReplaceAll(string(data), `\"`, `"`), tc.message) {
				t.Errorf("end.json: %s, %v; want %q", data, err, tc.message)
			}
		})
	}
}
