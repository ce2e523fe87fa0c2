package main

import (
	"fmt"
	"maps"
	"path"
	"slices"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1/validation"

	"github.com/isthmus-hpc/isthmus/backends/local"
	"github.com/isthmus-hpc/isthmus/backends/pbs"
	"github.com/isthmus-hpc/isthmus/backends/slurm"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/staging"
)

// systems lists the batch systems this program can drive: a new one is a folder
// under backends and an entry here.
func systems(stateDir, podrun string, s secrets) map[string]provider.Factory {
	return map[string]provider.Factory{
		"slurm": func(c *hpcv1alpha1.BatchCluster, runner transport.Runner) (provider.System, error) {
			if c.Spec.Connection.Type == "rest" {
				return slurmrestSystem(c, runner, s)
			}
			return slurmSystem(c, runner)
		},
		"pbs":    pbsSystem,
		"torque": pbsSystem,
		"local": func(c *hpcv1alpha1.BatchCluster, _ transport.Runner) (provider.System, error) {
			return localSystem(c, stateDir, podrun)
		},
	}
}

// served says which settings of a BatchCluster this program honours; all others
// are refused by name. A new batch system, connection or runtime is a word here.
func served() validation.Served {
	return validation.Served{
		Types: map[string][]string{
			"slurm":  {"cli", "ssh", "rest"},
			"pbs":    {"cli", "ssh"},
			"torque": {"cli", "ssh"},
			"local":  {"cli"},
		},
		Runtimes: []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost, hpcv1alpha1.RuntimeApptainer, hpcv1alpha1.RuntimeCharliecloud,
			hpcv1alpha1.RuntimePodman, hpcv1alpha1.RuntimeEnroot},
	}
}

func slurmSystem(c *hpcv1alpha1.BatchCluster, runner transport.Runner) (provider.System, error) {
	b, err := slurm.New(slurm.Config{Runner: runner, Env: environment(c), Cluster: c.Spec.Connection.Federation})
	if err != nil {
		return provider.System{}, err
	}
	return provider.System{Backend: b, Launcher: "slurm"}, nil
}

// pbsSystem serves both families: their names are spec.type and the launcher.
// Records of ended jobs lie beside the gangs, in a folder of the user's own.
func pbsSystem(c *hpcv1alpha1.BatchCluster, runner transport.Runner) (provider.System, error) {
	b, err := pbs.New(pbs.Config{
		Runner: runner, Env: environment(c), Dialect: pbs.Dialect(c.Spec.Type),
		Records: func(user string) (string, error) {
			root, err := staging.Root(c.Spec.Staging.Directory, user)
			return path.Join(root, "pbs"), err
		},
	})
	if err != nil {
		return provider.System{}, err
	}
	return provider.System{Backend: b, Launcher: c.Spec.Type}, nil
}

func localSystem(c *hpcv1alpha1.BatchCluster, stateDir, podrun string) (provider.System, error) {
	if c.Spec.Local == nil {
		return provider.System{}, fmt.Errorf("spec.local is required for type local")
	}
	cfg := local.Config{StateDir: stateDir, Supervisor: podrun}
	for _, p := range c.Spec.Local.Partitions {
		cfg.Partitions = append(cfg.Partitions, local.Partition{
			Name: p.Name, Hosts: int(p.Hosts), CPUs: p.CPUs, MemoryMiB: p.MemoryMiB, GPUs: p.GPUs, GPUType: p.GPUType,
		})
	}
	for _, a := range c.Spec.Accounts {
		cfg.Users = append(cfg.Users, a.User)
	}
	b, err := local.New(cfg)
	if err != nil {
		return provider.System{}, err
	}
	return provider.System{Backend: b, Launcher: "local"}, nil
}

func environment(c *hpcv1alpha1.BatchCluster) []string {
	env := c.Spec.Connection.Env
	out := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		out = append(out, name+"="+env[name])
	}
	return out
}
