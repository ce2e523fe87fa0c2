// Package pytorch is the job plugin "pytorch": it tells the pods of a job where
// torch.distributed meets, in MASTER_ADDR, MASTER_PORT, WORLD_SIZE and RANK.
package pytorch

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/job/address"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
)

// Name is the plugin's key in spec.plugins.
const Name = "pytorch"

const portName = "pytorchjob-port"

type plugin struct {
	master, worker string
	port           int
	wait           bool
	waitTimeout    int // seconds
	waitImage      string
}

// Factory makes the plugin. Its arguments are --master and --worker, the names of
// tasks, --port (23456), and for an init container that lets workers wait for the
// master --wait-master-enabled, --wait-master-timeout (300 s) and
// --wait-master-image (busybox:1.36.1).
func Factory() plugins.Factory {
	return plugins.Factory{Name: Name, New: func(args []string) (plugins.Plugin, error) {
		p := plugin{}
		flags := plugins.Flags(Name)
		flags.StringVar(&p.master, "master", "master", "")
		flags.StringVar(&p.worker, "worker", "worker", "")
		flags.IntVar(&p.port, "port", 23456, "")
		flags.BoolVar(&p.wait, "wait-master-enabled", false, "")
		flags.IntVar(&p.waitTimeout, "wait-master-timeout", 300, "")
		flags.StringVar(&p.waitImage, "wait-master-image", "busybox:1.36.1", "")
		if err := plugins.Parse(flags, args); err != nil {
			return nil, err
		}
		if p.waitTimeout < 1 {
			return nil, fmt.Errorf("--wait-master-timeout=%d: must be at least 1 second", p.waitTimeout)
		}
		if p.waitImage == "" {
			return nil, errors.New("--wait-master-image: must name an image")
		}
		return p, plugins.CheckPorts(map[string]int{"port": p.port})
	}}
}

// Validate asks for the master; a job of a master alone has no workers.
func (p plugin) Validate(job *batch.Job) error {
	return address.Require(job, map[string]string{"master": p.master})
}

func (plugin) Objects(*batch.Job) []plugins.Object { return nil }

// waitForMaster returns once the master's port takes connections. With the runtime
// host no image is read, and a compute host need not have nc; where it has nothing
// to ask with, the worker's own library waits for the master as it does anyway.
const waitForMaster = `if command -v nc >/dev/null 2>&1; then
ask() { nc -z -w 1 "$MASTER_ADDR" "$MASTER_PORT"; }
elif command -v python3 >/dev/null 2>&1; then
ask() { python3 -c 'import os, socket; socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), 1)' 2>/dev/null; }
elif command -v bash >/dev/null 2>&1; then
ask() { bash -c '(exec 3<>"/dev/tcp/$MASTER_ADDR/$MASTER_PORT") 2>/dev/null'; }
else
echo "no nc, python3 or bash to ask for the master with: going on" >&2
exit 0
fi
until ask; do
WAIT_SECONDS=$((WAIT_SECONDS - 1))
if [ "$WAIT_SECONDS" -le 0 ]; then echo "the master $MASTER_ADDR:$MASTER_PORT did not answer in time" >&2; exit 1; fi
sleep 1
done`

func (p plugin) MutatePod(job *batch.Job, task *batch.TaskSpec, index int32, pod *corev1.Pod) {
	master, worker := address.Task(job, p.master), address.Task(job, p.worker)
	if master == nil || task.Name != p.master && task.Name != p.worker {
		return
	}
	world, rank := master.Replicas, index
	if worker != nil && p.worker != p.master {
		world += worker.Replicas
	}
	if task.Name == p.worker && p.worker != p.master {
		rank += master.Replicas
	}
	meet := []corev1.EnvVar{
		{Name: "MASTER_ADDR", Value: address.Of(job, master, 0)},
		{Name: "MASTER_PORT", Value: strconv.Itoa(p.port)},
	}
	if p.wait && task.Name == p.worker {
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{
			Name: "wait-for-master", Image: p.waitImage, Env: append([]corev1.EnvVar{{Name: "WAIT_SECONDS", Value: strconv.Itoa(p.waitTimeout)}}, meet...),
			Command: []string{"/bin/sh", "-c", waitForMaster},
		})
	}
	vars := append(slices.Clone(meet), corev1.EnvVar{Name: "WORLD_SIZE", Value: strconv.Itoa(int(world))}, corev1.EnvVar{Name: "RANK", Value: strconv.Itoa(int(rank))})
	for i := range pod.Spec.Containers {
		pod.Spec.Containers[i].Env = append(pod.Spec.Containers[i].Env, vars...)
	}
	if task.Name == p.master {
		address.OpenPort(pod, portName, p.port)
	}
}
