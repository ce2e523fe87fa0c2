package environment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// slurmImpossible says why real Slurm cannot run here, or nothing when it can.
// It installs Slurm where that is possible.
func slurmImpossible(ctx context.Context, progress io.Writer) string {
	if os.Geteuid() != 0 {
		return "this needs root, since Slurm starts jobs as their users"
	}
	if err := slurm.EnsureInstalled(ctx, progress); err != nil {
		return err.Error()
	}
	return ""
}

// realSlurm is a cluster of the testbed's slurm package in the shared directory.
type realSlurm struct {
	e       *Environment
	cluster *slurm.Cluster
}

func (e *Environment) startSlurm(ctx context.Context, config Config) error {
	if why := slurmImpossible(ctx, e.progress); why != "" {
		return fmt.Errorf("real Slurm cannot run here: %s", why)
	}
	if err := e.makeShared("isthmus-slurm-"); err != nil {
		return err
	}
	// Recorded before it starts, so that a start that is cut short is found.
	e.system = &realSlurm{e: e}
	if config.REST {
		if err := slurm.EnsureRESTInstalled(ctx, e.progress); err != nil {
			return err
		}
	}
	hosts := 2
	if config.Networks {
		hosts = 4
		if err := slurm.EnsureNetworksInstalled(ctx, e.progress); err != nil {
			return err
		}
	}
	cluster, err := slurm.Start(ctx, slurm.Config{
		Dir: e.Shared, Detached: config.Detached, REST: config.REST, Networks: config.Networks, Progress: e.progress,
		Hosts: []slurm.Hosts{
			{Prefix: "gpu", Count: hosts, CPUs: 64, MemoryMiB: 500000, GPUType: "a100", GPUs: 8},
			{Prefix: "hopper", Count: hosts, CPUs: 128, MemoryMiB: 1000000, GPUType: "h100", GPUs: 8, Shards: 32},
		},
		Partitions: []slurm.Partition{
			{Name: "a100", Hosts: []string{fmt.Sprintf("gpu[1-%d]", hosts)}, Default: true},
			{Name: "h100", Hosts: []string{fmt.Sprintf("hopper[1-%d]", hosts)}},
		},
		Licenses: map[string]int{"fluent": 4},
	})
	if err != nil {
		return err
	}
	e.system = &realSlurm{e: e, cluster: cluster}
	e.Staging = cluster.StagingDir
	return e.save()
}

func (e *Environment) attachSlurm() error {
	s := &realSlurm{e: e}
	e.system = s
	if e.Shared == "" {
		return nil
	}
	var err error
	// Without its record the cluster never started a daemon.
	if s.cluster, err = slurm.Attach(e.Shared); errors.Is(err, os.ErrNotExist) {
		s.cluster, err = nil, nil
	}
	return err
}

// Slurm is the cluster, for tests that stop its daemons; nil with another batch system.
func (e *Environment) Slurm() *slurm.Cluster {
	if s, ok := e.system.(*realSlurm); ok {
		return s.cluster
	}
	return nil
}

func (s *realSlurm) describe(spec *hpc.BatchClusterSpec) {
	spec.Type = "slurm"
	spec.Connection = hpc.Connection{Type: "cli", Env: map[string]string{}}
	for _, v := range s.cluster.Env() {
		name, value, _ := strings.Cut(v, "=")
		spec.Connection.Env[name] = value
	}
	for _, partition := range []string{"a100", "h100"} {
		spec.Nodes = append(spec.Nodes, hpc.VirtualNode{
			Name: ClusterName + "-" + partition, Partition: partition, MaxPodsPending: 1000,
		})
	}
}

// daemons opens the group that the cluster keeps its daemons in.
func (s *realSlurm) daemons() (*process.Group, error) {
	return process.Open(s.e.Shared, process.Options{})
}

func (s *realSlurm) dead() []string {
	group, err := s.daemons()
	if err != nil {
		return []string{"Slurm (" + err.Error() + ")"}
	}
	var dead []string
	for _, p := range group.Members() {
		if !p.Alive() {
			dead = append(dead, p.Name)
		}
	}
	return dead
}

func (s *realSlurm) revive(ctx context.Context) error {
	group, err := s.daemons()
	if err != nil {
		return err
	}
	if revived, err := group.Revive(); err != nil || len(revived) == 0 {
		return err
	}
	return await(ctx, time.Minute, func(ctx context.Context) error {
		_, err := s.cluster.Run(ctx, "scontrol", "ping")
		return err
	})
}

func (s *realSlurm) stop() error {
	if s.cluster == nil {
		return nil // the sweep of the shared directory does the rest
	}
	err := s.cluster.Stop(context.Background())
	// The shared directory is about to be removed; the logs are for people.
	logs := filepath.Join(s.e.Dir, "slurm", "logs")
	if copyErr := os.CopyFS(logs, os.DirFS(filepath.Join(s.e.Shared, "logs"))); copyErr != nil &&
		!errors.Is(copyErr, os.ErrExist) && !errors.Is(copyErr, os.ErrNotExist) {
		err = errors.Join(err, fmt.Errorf("keep Slurm's logs: %w", copyErr))
	}
	return err
}

func (s *realSlurm) jobs(ctx context.Context) ([]BatchJob, error) {
	// Ended jobs stay listed for five minutes.
	out, err := s.cluster.Run(ctx, "squeue", "--all", "--noheader", "--states=all",
		"--format=%i|%j|%u|%T|%R|%N")
	if err != nil {
		return nil, err
	}
	var jobs []BatchJob
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimRight(line, "\n"), "|")
		if len(f) != 6 {
			return nil, fmt.Errorf("parse squeue: %d fields in %q", len(f), line)
		}
		job := BatchJob{ID: f[0], Name: f[1], User: f[2], State: f[3], Nodes: f[5]}
		if job.State == "PENDING" { // else it is the list of nodes
			job.Reason = strings.Trim(f[4], "()")
		}
		jobs = append(jobs, job)
	}
	return jobs, nil
}

func (s *realSlurm) show(ctx context.Context, id string) (string, error) {
	return s.cluster.Run(ctx, "scontrol", "show", "job", id)
}
