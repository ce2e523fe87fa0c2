package security_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/local"
	"github.com/isthmus-hpc/isthmus/backends/pbs"
	"github.com/isthmus-hpc/isthmus/backends/slurm"
	transport "github.com/isthmus-hpc/isthmus/backends/transport/local"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/provider/account"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/staging"
	"github.com/isthmus-hpc/isthmus/provider/translate"
	testusers "github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	testpbs "github.com/isthmus-hpc/isthmus/test/testbed/pbs"
	"github.com/isthmus-hpc/isthmus/test/testbed/pbs/pbstest"
	testslurm "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm/slurmtest"
)

// dangerous are names of variables that change what a batch system, its hooks, a
// shell or the loader do.
func dangerous() []string {
	return strings.Fields(`
LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT LD_DEBUG LD_BIND_NOW LD_ORIGIN_PATH
SLURM_CONF SLURM_JOB_ID SLURM_EXPORT_ENV SLURM_CPU_BIND SLURM_HINT SLURM_TASK_PROLOG SLURM_TASK_EPILOG SLURM_NODELIST
SBATCH_EXPORT SBATCH_ACCOUNT SBATCH_GET_USER_ENV SBATCH_WRAP SALLOC_ACCOUNT SRUN_DEBUG SQUEUE_FORMAT SCONTROL_ALL
SPANK_X SPANK_SLURM_SPANK_PYXIS_CONTAINER_IMAGE
PBS_CONF_FILE PBS_ENVIRONMENT PBS_O_PATH PBS_JOBID PBS_NODEFILE PBS_DPREFIX PBS_EXEC
PMI_RANK PMIX_SERVER_URI PMI2_FD PRTE_MCA_X NVIDIA_IMEX_CHANNELS NVIDIA_REQUIRE_CUDA CUDA_MPS_PIPE_DIRECTORY
BASH_ENV BASH_FUNC_ls ENV IFS SHELLOPTS BASHOPTS PS4 PROMPT_COMMAND PYTHONSTARTUP PYTHONHOME PYTHONPATH
GCONV_PATH GLIBC_TUNABLES MALLOC_TRACE LOCPATH NLSPATH RESOLV_HOST_CONF RES_OPTIONS PATH PODRUN_STAGE ISTHMUS_TAG PERL5OPT`)
}

// free are those that a container may set without a word of the administrator:
// they mean something only to programs that a container starts itself.
func free() []string { return []string{"PATH", "PYTHONPATH", "ISTHMUS_TAG", "PERL5OPT"} }

// planted is in every value.
const planted = "isthmus-planted-value"

// plant is a batch system under test.
type plant struct {
	backend   backends.Backend
	name      string // spec.type and launcher
	partition string
}

// TestEnvironmentReachesNoHook gives all dangerous variables to a container, and
// to the daemon itself, on three batch systems: the container has them, and no
// prolog, no epilog, no batch shell and no helper of ours ever sees one
// (security row S10).
func TestEnvironmentReachesNoHook(t *testing.T) {
	names := dangerous()
	if len(names) != 60 {
		t.Fatalf("%d names", len(names))
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIP: not root: batch systems start jobs as their users")
	}
	if err := testusers.Ensure(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "isthmus-hooks-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	podrun := recorder(t, dir)
	systems := []plant{onSlurm(t, dir), onPBS(t, dir), onLocal(t, dir, podrun)}
	seen := map[string]int{}
	refused, reached := 0, 0
	for _, s := range systems {
		t.Run(s.name, func(t *testing.T) {
			refused += refusals(t, s, names)
			gang := leadLife(t, dir, podrun, s, names)
			// What was written while the job lived is of this system alone.
			for what, env := range dumps(t, dir) {
				seen[s.name+" "+what]++
				for _, kv := range env {
					if strings.Contains(kv, planted) {
						reached++
						t.Errorf("%s has %s", what, kv)
					}
				}
			}
			if missing := inContainer(t, gang, names); len(missing) > 0 {
				t.Errorf("the container lacks %v: this test proves nothing of them", missing)
			}
		})
	}
	for _, want := range []string{"slurm prolog", "slurm epilog", "slurm task-prolog", "slurm launch", "pbs launch", "local launch", "slurm agent", "pbs agent", "local agent"} {
		if seen[want] == 0 && !t.Failed() {
			t.Errorf("nothing was recorded of %s, only %v", want, seen)
		}
	}
	t.Logf("%d names x %d batch systems: %d refused by default, %d reached a prolog, an epilog, a batch shell or a helper; looked at: %v",
		len(names), len(systems), refused, reached, seen)
}

// recorder builds the pod runner, and puts a program before it that writes its
// environment down: what the batch script starts has the batch shell's.
func recorder(t *testing.T, dir string) string {
	t.Helper()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"seen", "staging"} {
		d = filepath.Join(dir, d)
		if err := errors.Join(os.Mkdir(d, 0o755), os.Chmod(d, 0o777|fs.ModeSticky)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := checkout.Root()
	if err != nil {
		t.Fatal(err)
	}
	if err := (checkout.GoBuild{Module: root, Package: "./cmd/podrun", Output: filepath.Join(dir, "podrun-real")}).Run(t.Context(), t.Output(), "building podrun"); err != nil {
		t.Fatal(err)
	}
	return script(t, dir, "podrun", `record "$1"`+"\nexec "+filepath.Join(dir, "podrun-real")+` "$@"`)
}

// script makes a program that can record its environment.
func script(t *testing.T, dir, name, body string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	text := "#!/bin/sh\nrecord() { /usr/bin/env -0 >" + filepath.Join(dir, "seen") + `/"$1.$$"; }` + "\n" + body + "\n"
	if err := errors.Join(os.WriteFile(file, []byte(text), 0o755), os.Chmod(file, 0o755)); err != nil { //nolint:gosec // a program for all users
		t.Fatal(err)
	}
	return file
}

// dumps gives the environments that were recorded since the last call, by who
// wrote them.
func dumps(t *testing.T, dir string) map[string][]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "seen", "*"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err == nil {
			err = os.Remove(f)
		}
		if err != nil {
			t.Fatal(err)
		}
		who, _, _ := strings.Cut(filepath.Base(f), ".")
		for _, kv := range bytes.Split(data, []byte{0}) {
			out[who] = append(out[who], string(kv))
		}
	}
	return out
}

func onSlurm(t *testing.T, dir string) plant {
	t.Helper()
	c := slurmtest.Start(t, testslurm.Config{
		Name: "hooks", Hosts: []testslurm.Hosts{{Prefix: "n", Count: 1, CPUs: 4, MemoryMiB: 4000}},
		Partitions: []testslurm.Partition{{Name: "hooks", Hosts: []string{"n1"}, Default: true}},
		Extra: []string{
			"Prolog=" + script(t, dir, "prolog.sh", "record prolog"), "Epilog=" + script(t, dir, "epilog.sh", "record epilog"),
			"TaskProlog=" + script(t, dir, "task-prolog.sh", "record task-prolog"),
		},
	})
	b, err := slurm.New(slurm.Config{Runner: transport.New(), Env: c.Env()})
	if err != nil {
		t.Fatal(err)
	}
	return plant{b, "slurm", "hooks"}
}

func onPBS(t *testing.T, dir string) plant {
	t.Helper()
	c := pbstest.Start(t, testpbs.Config{History: true})
	b, err := pbs.New(pbs.Config{Runner: transport.New(), Dialect: pbs.Pro, Env: c.Env(),
		Records: func(user string) (string, error) { return filepath.Join(dir, "staging", user, "pbs"), nil }})
	if err != nil {
		t.Fatal(err)
	}
	return plant{b, "pbs", "workq"}
}

func onLocal(t *testing.T, dir, podrun string) plant {
	t.Helper()
	b, err := local.New(local.Config{
		StateDir: filepath.Join(dir, "state"), Supervisor: podrun, Users: []string{testusers.Alice},
		Partitions: []local.Partition{{Name: "main", Hosts: 1, CPUs: 4, MemoryMiB: 4000}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return plant{b, "local", "main"}
}

// order is what the provider would translate for a pod with these variables.
func order(s plant, work string, allowed []string, env ...corev1.EnvVar) translate.Input {
	return translate.Input{
		Cluster: &hpcv1alpha1.BatchCluster{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: hpcv1alpha1.BatchClusterSpec{Type: s.name}},
		Node:    hpcv1alpha1.VirtualNode{Name: "c-n", Partition: s.partition}, Account: account.Account{User: testusers.Alice, AllowEnv: allowed},
		Key: backends.Key("hooks" + s.name), Owner: "hooks", Attempt: "attempt", Launcher: s.name, WorkDir: work, Capabilities: s.backend.Capabilities(),
		Members: []translate.Member{{Pod: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid-p"},
			Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, NodeName: "c-n", Containers: []corev1.Container{{
				Name: "main", Image: "none", Command: []string{"/usr/bin/env"}, Env: env,
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
			}}},
		}}},
	}
}

// refusals counts the names that a pod may not set by default.
func refusals(t *testing.T, s plant, names []string) int {
	t.Helper()
	n := 0
	for _, name := range names {
		_, err := translate.Gang(order(s, "/w", nil, corev1.EnvVar{Name: name, Value: planted}))
		var refusal *translate.Refusal
		if errors.As(err, &refusal) && strings.Contains(err.Error(), "env[0]") {
			n++
		} else if !strings.Contains(" "+strings.Join(free(), " ")+" ", " "+name+" ") {
			t.Errorf("%s is not refused: %v", name, err)
		}
	}
	if want := len(names) - len(free()); n != want {
		t.Errorf("%d names are refused, want %d", n, want)
	}
	return n
}

// leadLife stages and runs a gang whose container may set all names, by a daemon
// that has them itself, and gives the gang's directory once it has ended.
func leadLife(t *testing.T, dir, podrun string, s plant, names []string) string {
	t.Helper()
	stager := &staging.Client{Runner: transport.New(), Podrun: podrun, Directory: filepath.Join(dir, "staging")}
	var env []corev1.EnvVar
	for _, name := range names {
		env = append(env, corev1.EnvVar{Name: name, Value: planted})
		if name == "PATH" {
			t.Setenv(name, os.Getenv(name)+":/"+planted)
			continue
		}
		t.Setenv(name, planted)
	}
	in := order(s, "", names, env...)
	in.WorkDir = stager.WorkDir(testusers.Alice, in.Key)
	out, err := translate.Gang(in)
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%+v", out.Spec); strings.Contains(text, planted) {
		t.Errorf("the batch job has it: %s", text)
	}
	if err := stager.Stage(t.Context(), testusers.Alice, in.Key, out); err != nil {
		t.Fatal(err)
	}
	// The agent has linked the program that it is; what the batch script starts is
	// to write down what the batch shell hands on.
	link := filepath.Join(in.WorkDir, "podrun")
	if err := errors.Join(os.Remove(link), os.Symlink(podrun, link)); err != nil {
		t.Fatal(err)
	}
	id, err := s.backend.Submit(t.Context(), out.Spec)
	if err == nil {
		err = s.backend.Release(t.Context(), backends.JobRef{ID: id, Key: in.Key, User: testusers.Alice})
	}
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
		o, err := s.backend.Observe(t.Context(), "hooks", []string{testusers.Alice})
		last = fmt.Sprintf("%+v, %v", o.Jobs, err)
		if err == nil && len(o.Jobs) == 1 && o.Jobs[0].State.Terminal() {
			all, err := stager.Collect(t.Context(), testusers.Alice)
			got := all.Gangs[string(in.Key)]
			last = fmt.Sprintf("%+v, %v", got, err)
			if st, ok := got.Pods[0]; err == nil && ok && st.Phase == manifest.PhaseSucceeded {
				return in.WorkDir
			}
		}
	}
	log, _ := os.ReadFile(filepath.Join(in.WorkDir, "batch.log"))
	t.Fatalf("the pod did not succeed: last seen %s\n%s", last, log)
	return ""
}

// inContainer lists the names that the container did not have.
func inContainer(t *testing.T, gang string, names []string) []string {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(gang, "pods/0/logs/main/0.log"))
	if err != nil {
		t.Fatal(err)
	}
	var missing []string
	for _, name := range names {
		if !strings.Contains(string(log), " "+name+"="+planted+"\n") {
			missing = append(missing, name)
		}
	}
	return missing
}
