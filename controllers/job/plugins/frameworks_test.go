package plugins_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/hcclrank"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/mindspore"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/mpi"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/pytorch"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/ray"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/tensorflow"
)

func frameworks() plugins.Set {
	return plugins.Set{pytorch.Factory(), tensorflow.Factory(), mpi.Factory(), ray.Factory(), hcclrank.Factory(), mindspore.Factory()}
}

// jobOf is a job "j" of tasks, each "name:replicas".
func jobOf(tasks ...string) *batch.Job {
	job := &batch.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "j"}}
	for _, text := range tasks {
		name, replicas, _ := strings.Cut(text, ":")
		task := batch.TaskSpec{Name: name}
		if _, err := fmt.Sscan(replicas, &task.Replicas); err != nil {
			panic(err)
		}
		task.Template.Spec.Containers = []corev1.Container{{Name: name, Image: "x"}}
		job.Spec.Tasks = append(job.Spec.Tasks, task)
	}
	return job
}

// The variables that each framework reads, by task and index, and the ports. They
// are those of the plugins of Volcano with the same names.
func TestFrameworks(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		plugin string
		args   []string
		job    *batch.Job
		want   map[string]string // pod to what its first container has
	}{
		"pytorch": {"pytorch", nil, jobOf("master:1", "worker:2", "other:1"), map[string]string{
			"master-0": "MASTER_ADDR=j-master-0.j MASTER_PORT=23456 WORLD_SIZE=3 RANK=0 pytorchjob-port:23456",
			"worker-1": "MASTER_ADDR=j-master-0.j MASTER_PORT=23456 WORLD_SIZE=3 RANK=2",
			"other-0":  "",
		}},
		"pytorch, a master alone and other names": {"pytorch", []string{"--master=m", "--port=99"}, jobOf("m:1"), map[string]string{
			"m-0": "MASTER_ADDR=j-m-0.j MASTER_PORT=99 WORLD_SIZE=1 RANK=0 pytorchjob-port:99",
		}},
		"tensorflow": {"tensorflow", []string{"--chief=boss"}, jobOf("ps:1", "worker:2", "boss:1", "other:1"), map[string]string{
			"worker-1": `TF_CONFIG={"cluster":{"chief":["j-boss-0.j:2222"],"ps":["j-ps-0.j:2222"],"worker":["j-worker-0.j:2222","j-worker-1.j:2222"]},"task":{"type":"worker","index":1}} tfjob-port:2222`,
			"boss-0":   `TF_CONFIG={"cluster":{"chief":["j-boss-0.j:2222"],"ps":["j-ps-0.j:2222"],"worker":["j-worker-0.j:2222","j-worker-1.j:2222"]},"task":{"type":"chief","index":0}} tfjob-port:2222`,
			"other-0":  "",
		}},
		"mpi": {"mpi", nil, jobOf("master:1", "worker:2", "other:1"), map[string]string{
			"master-0": "MPI_HOST=j-worker-0.j,j-worker-1.j OMPI_MCA_plm=rsh OMPI_MCA_ras=^slurm,tm,lsf,gridengine PRTE_MCA_plm=ssh PRTE_MCA_ras=^slurm,pbs,lsf,gridengine" +
				" HYDRA_BOOTSTRAP=ssh HYDRA_RMK=user I_MPI_HYDRA_BOOTSTRAP=ssh mpijob-port:22",
			"worker-0": "mpijob-port:22",
			"other-0":  "",
		}},
		"mpi, other names": {"mpi", []string{"--master=m", "--worker=w", "--port=2200"}, jobOf("m:1", "w:1", "worker:1"), map[string]string{
			"m-0": "MPI_HOST=j-w-0.j OMPI_MCA_plm=rsh OMPI_MCA_ras=^slurm,tm,lsf,gridengine PRTE_MCA_plm=ssh PRTE_MCA_ras=^slurm,pbs,lsf,gridengine" +
				" HYDRA_BOOTSTRAP=ssh HYDRA_RMK=user I_MPI_HYDRA_BOOTSTRAP=ssh mpijob-port:2200",
			"w-0":      "mpijob-port:2200",
			"worker-0": "",
		}},
		"tensorflow, the evaluator": {"tensorflow", nil, jobOf("chief:1", "evaluator:1"), map[string]string{
			"evaluator-0": `TF_CONFIG={"cluster":{"chief":["j-chief-0.j:2222"],"evaluator":["j-evaluator-0.j:2222"]},"task":{"type":"evaluator","index":0}} tfjob-port:2222`,
		}},
		"tensorflow, other names": {"tensorflow", []string{"--ps=p", "--worker=w", "--chief=c", "--evaluator=e", "--port=99"}, jobOf("p:1", "w:1", "c:1", "e:1", "worker:1"), map[string]string{
			"p-0":      `TF_CONFIG={"cluster":{"chief":["j-c-0.j:99"],"evaluator":["j-e-0.j:99"],"ps":["j-p-0.j:99"],"worker":["j-w-0.j:99"]},"task":{"type":"ps","index":0}} tfjob-port:99`,
			"e-0":      `TF_CONFIG={"cluster":{"chief":["j-c-0.j:99"],"evaluator":["j-e-0.j:99"],"ps":["j-p-0.j:99"],"worker":["j-w-0.j:99"]},"task":{"type":"evaluator","index":0}} tfjob-port:99`,
			"worker-0": "",
		}},
		"hcclrank": {"hcclrank", nil, jobOf("master:1", "worker:2", "other:1"), map[string]string{
			"master-0": "RANK=0 hccl/rankIndex=0",
			"worker-1": "RANK=2 hccl/rankIndex=2",
			"other-0":  "",
		}},
		"mindspore": {"mindspore", nil, jobOf("scheduler:1", "server:2", "worker:4"), map[string]string{
			"scheduler-0": "MS_ROLE=MS_SCHED MS_SCHED_HOST=j-scheduler-0.j MS_SCHED_PORT=8118 MS_WORKER_NUM=4 MS_SERVER_NUM=2 ms-sched-port:8118",
			"server-1":    "MS_ROLE=MS_PSERVER MS_SCHED_HOST=j-scheduler-0.j MS_SCHED_PORT=8118 MS_WORKER_NUM=4 MS_SERVER_NUM=2 MS_NODE_ID=1",
			"worker-3":    "MS_ROLE=MS_WORKER MS_SCHED_HOST=j-scheduler-0.j MS_SCHED_PORT=8118 MS_WORKER_NUM=4 MS_SERVER_NUM=2 MS_NODE_ID=3",
		}},
		"mindspore, other names": {"mindspore", []string{"--scheduler=a", "--server=b", "--worker=c", "--port=1"}, jobOf("a:1", "b:1", "c:1", "worker:1"), map[string]string{
			"a-0":      "MS_ROLE=MS_SCHED MS_SCHED_HOST=j-a-0.j MS_SCHED_PORT=1 MS_WORKER_NUM=1 MS_SERVER_NUM=1 ms-sched-port:1",
			"b-0":      "MS_ROLE=MS_PSERVER MS_SCHED_HOST=j-a-0.j MS_SCHED_PORT=1 MS_WORKER_NUM=1 MS_SERVER_NUM=1 MS_NODE_ID=0",
			"c-0":      "MS_ROLE=MS_WORKER MS_SCHED_HOST=j-a-0.j MS_SCHED_PORT=1 MS_WORKER_NUM=1 MS_SERVER_NUM=1 MS_NODE_ID=0",
			"worker-0": "",
		}},
		"mindspore without servers": {"mindspore", nil, jobOf("scheduler:1", "worker:1"), map[string]string{
			"worker-0": "MS_ROLE=MS_WORKER MS_SCHED_HOST=j-scheduler-0.j MS_SCHED_PORT=8118 MS_WORKER_NUM=1 MS_NODE_ID=0",
		}},
		"hcclrank, other names": {"hcclrank", []string{"--master=m", "--worker=w"}, jobOf("m:2", "w:1", "master:1", "worker:1"), map[string]string{
			"m-1":      "RANK=1 hccl/rankIndex=1",
			"w-0":      "RANK=2 hccl/rankIndex=2",
			"master-0": "",
			"worker-0": "",
		}},
		"ray, other names": {"ray", []string{"--head=h", "--headContainer=h", "--worker=w", "--workerContainer=w", "--port=1", "--dashboardPort=2", "--clientPort=3"},
			jobOf("h:1", "w:1", "head:1"), map[string]string{
				"h-0":    "$ray start --head --block --port=1 --dashboard-host=0.0.0.0 --dashboard-port=2 --ray-client-server-port=3 client-server:3 dashboard:2 gcs:1",
				"w-0":    "$ray start --block --address=j-h-0.j:1",
				"head-0": "",
			}},
		"ray": {"ray", nil, jobOf("head:1", "worker:2"), map[string]string{
			"head-0":   "$ray start --head --block --port=6379 --dashboard-host=0.0.0.0 --dashboard-port=8265 --ray-client-server-port=10001 client-server:10001 dashboard:8265 gcs:6379",
			"worker-1": "$ray start --block --address=j-head-0.j:6379",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := frameworks().New(tt.plugin, tt.args)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Validate(tt.job); err != nil {
				t.Fatal(err)
			}
			seen := 0
			for i := range tt.job.Spec.Tasks {
				task := &tt.job.Spec.Tasks[i]
				for index := range task.Replicas {
					want, ok := tt.want[fmt.Sprintf("%s-%d", task.Name, index)]
					if !ok {
						continue
					}
					seen++
					pod := &corev1.Pod{Spec: *task.Template.Spec.DeepCopy()}
					p.MutatePod(tt.job, task, index, pod)
					if got := told(pod); got != want {
						t.Errorf("%s-%d has\n  %s, want\n  %s", task.Name, index, got, want)
					}
				}
			}
			if seen != len(tt.want) {
				t.Errorf("looked at %d pods", seen)
			}
		})
	}
}

// told is what a pod's first container was given, as text.
func told(pod *corev1.Pod) string {
	c := &pod.Spec.Containers[0]
	var out []string
	if len(c.Command) > 0 {
		out = append(out, "$"+strings.Join(c.Command, " "))
	}
	for _, e := range c.Env {
		out = append(out, e.Name+"="+e.Value)
	}
	for k, v := range pod.Annotations {
		out = append(out, k+"="+v)
	}
	var ports []string
	for _, p := range c.Ports {
		ports = append(ports, fmt.Sprintf("%s:%d", p.Name, p.ContainerPort))
	}
	slices.Sort(ports)
	return strings.Join(append(out, ports...), " ")
}

func TestWaitForMaster(t *testing.T) {
	t.Parallel()
	job := jobOf("master:1", "worker:1")
	p, err := frameworks().New("pytorch", []string{"--wait-master-enabled", "--wait-master-timeout=7", "--wait-master-image=tiny"})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{0, 1} {
		pod := &corev1.Pod{Spec: *job.Spec.Tasks[i].Template.Spec.DeepCopy()}
		p.MutatePod(job, &job.Spec.Tasks[i], 0, pod)
		if len(pod.Spec.InitContainers) != want {
			t.Fatalf("%s has %d init containers", job.Spec.Tasks[i].Name, len(pod.Spec.InitContainers))
		}
		if want == 1 {
			c := pod.Spec.InitContainers[0]
			if c.Image != "tiny" || c.Env[0].Value != "7" || c.Env[1].Value != "j-master-0.j" || c.Env[2].Value != "23456" {
				t.Errorf("%+v", c)
			}
		}
	}
}

// The script that waits for the master runs with whatever a host has to ask with,
// and gives up in time.
func TestWaitForMasterRuns(t *testing.T) {
	t.Parallel()
	job := jobOf("master:1", "worker:1")
	p, err := frameworks().New("pytorch", []string{"--wait-master-enabled"})
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{Spec: *job.Spec.Tasks[1].Template.Spec.DeepCopy()}
	p.MutatePod(job, &job.Spec.Tasks[1], 0, pod)
	script := pod.Spec.InitContainers[0].Command
	open, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	const nobody = "127.0.0.1:1" // tcpmux: nothing listens there
	for _, tool := range []string{"bash", "python3", ""} {
		bin := t.TempDir()
		for _, name := range []string{"sleep", tool} {
			if name == "" {
				continue
			}
			// Of the distribution: another one may be a script that needs more.
			path, err := exec.LookPath(filepath.Join("/usr/bin", name))
			if err != nil {
				t.Fatalf("make prepare installs %s: %v", name, err)
			}
			if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
				t.Fatal(err)
			}
		}
		for address, want := range map[string]bool{open.Addr().String(): true, nobody: tool == ""} {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), script[0], script[1:]...)
			cmd.Env = []string{"PATH=" + bin, "MASTER_ADDR=" + host, "MASTER_PORT=" + port, "WAIT_SECONDS=2"}
			out, err := cmd.CombinedOutput()
			if (err == nil) != want {
				t.Errorf("with %q, %s: %v, want success %v\n%s", tool, address, err, want, out)
			}
			if err != nil && !strings.Contains(string(out), "did not answer in time") {
				t.Errorf("with %q: %s", tool, out)
			}
		}
	}
}

// A container that starts Ray itself is left alone; a rank that is there counts.
func TestWhatTheTemplateSaysStays(t *testing.T) {
	t.Parallel()
	job := jobOf("head:1")
	job.Spec.Tasks[0].Template.Spec.Containers[0].Command = []string{"mine"}
	p, err := frameworks().New("ray", nil)
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{Spec: *job.Spec.Tasks[0].Template.Spec.DeepCopy()}
	p.MutatePod(job, &job.Spec.Tasks[0], 0, pod)
	if got := told(pod); !strings.HasPrefix(got, "$mine ") {
		t.Errorf("%s", got)
	}
	service := p.Objects(job)[0].(*corev1.Service)
	if service.Name != "j-head-svc" || len(service.Spec.Ports) != 3 || service.Spec.Selector[batch.TaskSpecKey] != "head" {
		t.Errorf("%+v", service)
	}
	if p, err = frameworks().New("mpi", nil); err != nil {
		t.Fatal(err)
	}
	job = jobOf("master:1", "worker:1")
	pod = &corev1.Pod{Spec: *job.Spec.Tasks[0].Template.Spec.DeepCopy()}
	pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "OMPI_MCA_plm", Value: "slurm"}}
	p.MutatePod(job, &job.Spec.Tasks[0], 0, pod)
	if got := told(pod); !strings.HasPrefix(got, "OMPI_MCA_plm=slurm MPI_HOST=") || strings.Count(got, "OMPI_MCA_plm=") != 1 {
		t.Errorf("%s", got)
	}
	if p, err = frameworks().New("hcclrank", nil); err != nil {
		t.Fatal(err)
	}
	job = jobOf("worker:1")
	pod = &corev1.Pod{Spec: *job.Spec.Tasks[0].Template.Spec.DeepCopy()}
	pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "RANK", Value: "5"}}
	p.MutatePod(job, &job.Spec.Tasks[0], 0, pod)
	if got := told(pod); got != "RANK=5 hccl/rankIndex=5" {
		t.Errorf("%s", got)
	}
}

// What is wrong is said with the flag or the task.
func TestBadArguments(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ plugin, arg, want string }{
		{"pytorch", "--port=0", "--port=0"},
		{"pytorch", "--wait-master-timeout=0", "--wait-master-timeout"},
		{"pytorch", "--wait-master-image=", "--wait-master-image"},
		{"tensorflow", "--nope", "-nope"},
		{"mpi", "--master=worker", "different tasks"},
		{"mpi", "surplus", "takes flags only"},
		{"ray", "--dashboardPort=70000", "--dashboardPort"},
		{"mindspore", "--port=x", "port"},
		{"hcclrank", "-help", "not defined"},
	} {
		if _, err := frameworks().New(tt.plugin, []string{tt.arg}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s: %v, want %q", tt.plugin, tt.arg, err, tt.want)
		}
	}
	for plugin, want := range map[string]string{
		"pytorch": "--master", "tensorflow": "--worker", "mpi": "the job has no task", "ray": "--head", "mindspore": "the job has no task",
	} {
		p, err := frameworks().New(plugin, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Validate(jobOf("x:1")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", plugin, err, want)
		}
	}
	p, err := frameworks().New("ray", []string{"--headContainer=main"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Validate(jobOf("head:1")); err == nil || !strings.Contains(err.Error(), `no container "main"`) {
		t.Errorf("%v", err)
	}
}
