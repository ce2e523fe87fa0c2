package environment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/test/testbed/pbs"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// standIn is PBS or Torque as package pbs plays it, in the shared directory. It
// has the hosts and queues that real Slurm has here.
type standIn struct {
	e       *Environment
	cluster *pbs.Cluster
}

func (e *Environment) startPBS(ctx context.Context, config Config) error {
	if err := e.makeShared("isthmus-pbs-"); err != nil {
		return err
	}
	// Recorded before it starts, so that a start that is cut short is found.
	e.system = &standIn{e: e}
	cluster, err := pbs.Start(ctx, pbs.Config{
		Dir: e.Shared, Detached: config.Detached, Progress: e.progress,
		// As PBS is without further settings: an ended job is forgotten at once.
		Torque: e.Batch == BatchTorque, KeepCompleted: 3 * time.Second,
		Hosts: []pbs.Host{
			{Name: "gpu1", CPUs: 64, MemoryMiB: 500000, GPUs: 8, Resources: map[string]string{"accelerator_model": "a100"}, Properties: []string{"a100"}},
			{Name: "gpu2", CPUs: 64, MemoryMiB: 500000, GPUs: 8, Resources: map[string]string{"accelerator_model": "a100"}, Properties: []string{"a100"}},
			{Name: "hopper1", CPUs: 128, MemoryMiB: 1000000, GPUs: 8, Resources: map[string]string{"accelerator_model": "h100"}, Properties: []string{"h100"}},
			{Name: "hopper2", CPUs: 128, MemoryMiB: 1000000, GPUs: 8, Resources: map[string]string{"accelerator_model": "h100"}, Properties: []string{"h100"}},
		},
		Queues: []pbs.Queue{{Name: "a100", Hosts: []string{"gpu1", "gpu2"}}, {Name: "h100", Hosts: []string{"hopper1", "hopper2"}}},
	})
	if err != nil {
		return err
	}
	e.system = &standIn{e: e, cluster: cluster}
	e.Staging = cluster.StagingDir
	return e.save()
}

func (e *Environment) attachPBS() error {
	s := &standIn{e: e}
	e.system = s
	if e.Shared == "" {
		return nil
	}
	var err error
	// Without its record the server never started.
	if s.cluster, err = pbs.Attach(e.Shared); errors.Is(err, os.ErrNotExist) {
		s.cluster, err = nil, nil
	}
	return err
}

// PBS is the stand-in, for tests of what befalls a site; nil with another batch system.
func (e *Environment) PBS() *pbs.Cluster {
	if s, ok := e.system.(*standIn); ok {
		return s.cluster
	}
	return nil
}

func (s *standIn) describe(spec *hpc.BatchClusterSpec) {
	spec.Type = s.e.Batch
	spec.Connection = hpc.Connection{Type: "cli", Env: map[string]string{}}
	for _, v := range s.cluster.Env() {
		name, value, _ := strings.Cut(v, "=")
		spec.Connection.Env[name] = value
	}
	for _, queue := range []string{"a100", "h100"} {
		spec.Nodes = append(spec.Nodes, hpc.VirtualNode{Name: ClusterName + "-" + queue, Partition: queue, MaxPodsPending: 1000})
	}
}

func (s *standIn) dead() []string {
	group, err := process.Open(s.e.Shared, process.Options{})
	if err != nil {
		return []string{"PBS (" + err.Error() + ")"}
	}
	var dead []string
	for _, p := range group.Members() {
		if !p.Alive() {
			dead = append(dead, p.Name)
		}
	}
	return dead
}

func (s *standIn) revive(ctx context.Context) error {
	group, err := process.Open(s.e.Shared, process.Options{})
	if err != nil {
		return err
	}
	if revived, err := group.Revive(); err != nil || len(revived) == 0 {
		return err
	}
	return await(ctx, time.Minute, func(ctx context.Context) error {
		_, err := s.cluster.Run(ctx, "qstat", "-B", "-f")
		return err
	})
}

func (s *standIn) stop() error {
	if s.cluster == nil {
		return nil // the sweep of the shared directory does the rest
	}
	err := s.cluster.Stop()
	// The shared directory is about to be removed; the log is for people.
	logs := filepath.Join(s.e.Dir, "pbs", "logs")
	if copyErr := os.CopyFS(logs, os.DirFS(filepath.Join(s.e.Shared, "logs"))); copyErr != nil &&
		!errors.Is(copyErr, os.ErrExist) && !errors.Is(copyErr, os.ErrNotExist) {
		err = errors.Join(err, fmt.Errorf("keep the log of the PBS stand-in: %w", copyErr))
	}
	return err
}

// jobs lists what the server knows of: an ended job is forgotten soon.
func (s *standIn) jobs(ctx context.Context) ([]BatchJob, error) {
	out, err := s.cluster.Run(ctx, "qstat", "-f", "-w")
	if err != nil {
		return nil, err
	}
	var jobs []BatchJob
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		if id, ok := strings.CutPrefix(line, "Job Id: "); ok {
			jobs = append(jobs, BatchJob{ID: id})
			continue
		}
		name, value, ok := strings.Cut(strings.TrimSpace(line), " = ")
		if !ok || len(jobs) == 0 {
			continue
		}
		job := &jobs[len(jobs)-1]
		switch name {
		case "Job_Name":
			job.Name = value
		case "Job_Owner":
			job.User, _, _ = strings.Cut(value, "@")
		case "job_state":
			job.State = value
		case "exec_host":
			job.Nodes = value
		case "comment":
			job.Reason = value
		}
	}
	return jobs, nil
}

func (s *standIn) show(ctx context.Context, id string) (string, error) {
	return s.cluster.Run(ctx, "qstat", "-f", id)
}
