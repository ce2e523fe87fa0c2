package jobdir

import (
	"fmt"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Config is what the queue must know of the pretended machine.
type Config struct {
	Partitions []Partition `json:"partitions"`
	// Supervisor is the program that runs `local-supervise JOBDIR`.
	Supervisor string `json:"supervisor"`
}

// Partition is a number of equal pretended hosts, named <name>-1, <name>-2, ...
// All are this machine.
type Partition struct {
	Name      string `json:"name"`
	Hosts     int    `json:"hosts"`
	CPUs      int64  `json:"cpus"`                // of each host
	MemoryMiB int64  `json:"memoryMiB,omitempty"` // of each host
	GPUs      int64  `json:"gpus,omitempty"`      // of each host
	GPUType   string `json:"gpuType,omitempty"`
	// MaxWalltime refuses longer jobs and limits those without a limit; 0 is none.
	MaxWalltime time.Duration `json:"maxWalltime,omitempty"`
}

// Bounds of a Partition.
const (
	MaxHosts       = 4096
	maxHostAmounts = 1 << 32
)

// Validate checks the partitions and names the wrong field.
func (c Config) Validate() error {
	if len(c.Partitions) == 0 {
		return fmt.Errorf("partitions: there is none")
	}
	seen := map[string]bool{}
	for i, p := range c.Partitions {
		at := fmt.Sprintf("partitions[%d]", i)
		switch {
		case !validName(p.Name):
			return fmt.Errorf("%s.name: %q is not 1 to 63 characters of a-z, A-Z, 0-9, '_' and '-' that start with a letter or digit", at, p.Name)
		case seen[p.Name]:
			return fmt.Errorf("%s.name: %q is there twice", at, p.Name)
		case p.Hosts < 1 || p.Hosts > MaxHosts:
			return fmt.Errorf("%s.hosts: %d is not 1 to %d", at, p.Hosts, MaxHosts)
		case p.CPUs < 1 || p.CPUs > maxHostAmounts:
			return fmt.Errorf("%s.cpus: %d is not 1 to %d", at, p.CPUs, maxHostAmounts)
		case p.MemoryMiB < 0 || p.MemoryMiB > maxHostAmounts:
			return fmt.Errorf("%s.memoryMiB: %d is not 0 to %d", at, p.MemoryMiB, maxHostAmounts)
		case p.GPUs < 0 || p.GPUs > backends.MaxGPUs:
			return fmt.Errorf("%s.gpus: %d is not 0 to %d", at, p.GPUs, backends.MaxGPUs)
		case p.MaxWalltime < 0:
			return fmt.Errorf("%s.maxWalltime: %s is negative", at, p.MaxWalltime)
		}
		seen[p.Name] = true
	}
	return nil
}

func validName(s string) bool {
	if len(s) < 1 || len(s) > 63 || s[0] == '-' || s[0] == '_' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// Record is a job as submitted.
type Record struct {
	ID     backends.JobID   `json:"id"`
	Number int64            `json:"number"` // order of submission
	Spec   backends.JobSpec `json:"spec"`
	// Token is in the environment of the job's processes and nowhere else, so
	// that what a dead supervisor left can be recognised.
	Token     string    `json:"token"`
	Submitted time.Time `json:"submitted"`
}

// Assignment is what a started job holds.
type Assignment struct {
	Tasks []Task    `json:"tasks"` // by rank
	Time  time.Time `json:"time"`
}

// Task is one task's place.
type Task struct {
	Host string `json:"host"`
	GPUs []int  `json:"gpus,omitempty"` // device indices, numbered through over all hosts
}

// Hosts lists the distinct hosts in the order of ranks.
func (a Assignment) Hosts() []string {
	var names []string
	seen := map[string]bool{}
	for _, t := range a.Tasks {
		if !seen[t.Host] {
			seen[t.Host] = true
			names = append(names, t.Host)
		}
	}
	return names
}

// End is how a job ended.
type End struct {
	State    backends.State `json:"state"`
	ExitCode int            `json:"exitCode"`
	Signal   int            `json:"signal"`
	Reason   string         `json:"reason,omitempty"`
	Time     time.Time      `json:"time"`
}

// Job is all that the files of one directory say.
type Job struct {
	Record
	Dir       string
	Released  bool
	Cancelled bool
	Start     *Assignment
	Launching bool
	End       *End
}

// Holds reports whether the job holds hosts.
func (j *Job) Holds() bool { return j.Start != nil && j.End == nil }
