package environment

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// local is the batch system of type local: it lives in the virtual kubelet and
// has no daemons or commands of its own.
type local struct{ e *Environment }

func (local) describe(spec *hpc.BatchClusterSpec) {
	spec.Type = "local"
	spec.Local = &hpc.Local{Partitions: []hpc.LocalPartition{
		{Name: "a100", Hosts: 4, CPUs: 64, MemoryMiB: 500000, GPUs: 8, GPUType: "a100"},
		{Name: "h100", Hosts: 2, CPUs: 128, MemoryMiB: 1000000, GPUs: 8, GPUType: "h100"},
	}}
	spec.Nodes = []hpc.VirtualNode{
		{Name: ClusterName + "-a100", Partition: "a100", MaxPodsPending: 1000},
		{Name: ClusterName + "-h100", Partition: "h100", MaxPodsPending: 1000},
	}
}

func (local) dead() []string               { return nil }
func (local) revive(context.Context) error { return nil }
func (local) stop() error                  { return nil }

// jobs are those that the pods name: nothing else can tell.
func (l local) jobs(ctx context.Context) ([]BatchJob, error) {
	var pods corev1.PodList
	if err := l.e.client.List(ctx, &pods); err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	byID := map[string]*BatchJob{}
	for _, p := range pods.Items {
		id := p.Annotations[wellknown.BatchJobID]
		if id == "" {
			continue
		}
		job := byID[id]
		if job == nil {
			job = &BatchJob{ID: id, Name: p.Annotations[wellknown.SubmitIntent], User: p.Annotations[wellknown.BatchUser]}
			byID[id] = job
		}
		job.State = string(p.Status.Phase)
		if host := p.Annotations[wellknown.BatchNode]; host != "" && !slices.Contains(strings.Split(job.Nodes, ","), host) {
			job.Nodes = strings.TrimPrefix(job.Nodes+","+host, ",")
		}
	}
	var out []BatchJob
	for _, job := range byID {
		out = append(out, *job)
	}
	slices.SortFunc(out, func(a, b BatchJob) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

func (l local) show(ctx context.Context, id string) (string, error) {
	jobs, err := l.jobs(ctx)
	for _, job := range jobs {
		if job.ID == id {
			return fmt.Sprintf("JobId=%s JobName=%s UserId=%s JobState=%s NodeList=%s", job.ID, job.Name, job.User, job.State, job.Nodes), nil
		}
	}
	return "", err
}
