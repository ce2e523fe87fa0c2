package slurm

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/isthmus-hpc/isthmus/backends"
)

const (
	maxComponents = 128 // Slurm's limit for components of one job
	maxTasks      = 1 << 20
	maxValue      = 1024
)

var (
	keyForm   = regexp.MustCompile(`^[a-z][a-z0-9]{0,14}$`)
	ownerForm = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)
	userForm  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,254}$`)
	gresForm  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	idForm    = regexp.MustCompile(`^[1-9][0-9]{0,9}$`)
)

// check refuses what could be taken for something else on the way to Slurm.
func check(s backends.JobSpec) error {
	switch {
	case !keyForm.MatchString(string(s.Key)):
		return fmt.Errorf("key %.40q: want 1 to 15 characters of a-z and 0-9, a letter first", string(s.Key))
	case !ownerForm.MatchString(s.Owner):
		return fmt.Errorf("owner %.80q: want 1 to 63 characters of a-z, 0-9 and -", s.Owner)
	case len(s.Components) == 0:
		return errors.New("no components")
	case len(s.Components) > maxComponents:
		return fmt.Errorf("%d components, more than %d", len(s.Components), maxComponents)
	case s.Walltime < 0 || s.Grace < 0:
		return errors.New("a negative time")
	}
	if err := checkUser(s.User); err != nil {
		return err
	}
	for _, v := range [][2]string{
		{"partition", s.Partition}, {"account", s.Account}, {"qos", s.QOS},
		{"constraint", s.Constraint}, {"reservation", s.Reservation},
	} {
		if err := checkValue(v[1]); err != nil {
			return fmt.Errorf("%s %.80q: %w", v[0], v[1], err)
		}
	}
	if !filepath.IsAbs(s.WorkDir) || filepath.Clean(s.WorkDir) != s.WorkDir || strings.ContainsFunc(s.WorkDir, unicode.IsControl) {
		return fmt.Errorf("work dir %.200q: want a clean absolute path without control characters", s.WorkDir)
	}
	for i, c := range s.Components {
		if err := checkComponent(c); err != nil {
			return fmt.Errorf("component %d: %w", i, err)
		}
	}
	return nil
}

func checkUser(name string) error {
	if name == "root" {
		return errors.New("jobs never run as root")
	}
	if !userForm.MatchString(name) {
		return fmt.Errorf("user %.80q is not a user name", name)
	}
	return nil
}

func checkValue(v string) error {
	switch {
	case v == "":
		return nil
	case len(v) > maxValue:
		return fmt.Errorf("longer than %d bytes", maxValue)
	case v[0] == '-':
		return errors.New("starts like an option")
	case !utf8.ValidString(v):
		return errors.New("not UTF-8")
	case strings.ContainsFunc(v, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }):
		return errors.New("white space or a control character")
	}
	return nil
}

func checkComponent(c backends.Component) error {
	if c.Tasks < 1 || c.Tasks > maxTasks {
		return fmt.Errorf("%d tasks", c.Tasks)
	}
	if c.CPUs < 1 || c.CPUs > maxTasks {
		return fmt.Errorf("%d CPUs a task", c.CPUs)
	}
	if c.MemoryMiB < 0 || c.MemoryMiB > 1<<40 {
		return fmt.Errorf("%d MiB a task", c.MemoryMiB)
	}
	for name, n := range c.GPUs {
		if name != "" && (!gresForm.MatchString(name) || len(name) > 64) {
			return fmt.Errorf("GPU type %.80q", name)
		}
		if n < 0 || n > maxTasks {
			return fmt.Errorf("%d GPUs a task", n)
		}
	}
	return nil
}

// sbatchArgs gives the arguments of sbatch; the components of a heterogeneous
// job are separated by ":" and each repeats what holds for all.
func sbatchArgs(s backends.JobSpec) []string {
	args := []string{"sbatch", "--parsable"}
	for i, c := range s.Components {
		name := string(s.Key)
		if len(s.Components) > 1 {
			if i > 0 {
				args = append(args, ":")
			}
			// With one name for all, singleton makes the second component wait
			// for the first, which waits for the second.
			name = fmt.Sprintf("%s.%d", s.Key, i)
		}
		args = append(args,
			"--hold",
			"--job-name="+name,
			"--comment="+tag(s.Owner, s.Key),
			"--dependency=singleton",
			"--kill-on-invalid-dep=yes",
			// A requeued job keeps its id; the launcher tells its runs apart.
			"--requeue",
			"--open-mode=append",
			// The environment of sbatch is clean, and NONE would start a login
			// shell on the compute host.
			"--export=ALL",
			"--chdir="+s.WorkDir,
			"--input=none",
			"--output="+outputPattern(s.WorkDir),
		)
		for _, v := range [][2]string{
			{"--partition=", s.Partition}, {"--account=", s.Account}, {"--qos=", s.QOS},
			{"--constraint=", s.Constraint}, {"--reservation=", s.Reservation},
		} {
			if v[1] != "" {
				args = append(args, v[0]+v[1])
			}
		}
		if s.Walltime > 0 {
			args = append(args, "--time="+strconv.FormatInt(ceil(int64(s.Walltime), int64(time.Minute)), 10))
		}
		args = append(args, componentArgs(c)...)
	}
	return args
}

func componentArgs(c backends.Component) []string {
	args := []string{
		"--ntasks=" + strconv.Itoa(c.Tasks),
		"--cpus-per-task=" + strconv.FormatInt(c.CPUs, 10),
	}
	if c.MemoryMiB > 0 {
		// Memory a task cannot be asked for; --mem is a host's.
		args = append(args, fmt.Sprintf("--mem-per-cpu=%dM", ceil(c.MemoryMiB, c.CPUs)))
	}
	var gpus []string
	for name, n := range c.GPUs {
		switch {
		case n == 0:
		case name == "":
			gpus = append(gpus, strconv.FormatInt(n, 10))
		default:
			gpus = append(gpus, fmt.Sprintf("%s:%d", name, n))
		}
	}
	if len(gpus) > 0 {
		slices.Sort(gpus)
		// Not --gres, which counts by host: three tasks of two GPUs that share a
		// host would get two GPUs in all.
		args = append(args, "--gpus-per-task="+strings.Join(gpus, ","))
	}
	return args
}

func ceil(n, by int64) int64 { return (n + by - 1) / by }

// outputPattern is the pattern that names the file batch.log in dir. Slurm
// replaces %-letters in it. When it holds a backslash Slurm replaces nothing
// and removes one level of backslashes instead.
func outputPattern(dir string) string {
	if strings.Contains(dir, `\`) {
		dir = strings.ReplaceAll(dir, `\`, `\\`)
	} else {
		dir = strings.ReplaceAll(dir, "%", "%%")
	}
	return strings.TrimSuffix(dir, "/") + "/batch.log"
}

const tagPrefix = "isthmus/"

func tag(owner string, key backends.Key) string { return tagPrefix + owner + "/" + string(key) }

// parseTag reads a job's comment.
func parseTag(comment string) (owner string, key backends.Key, ok bool) {
	rest, ok := strings.CutPrefix(comment, tagPrefix)
	if !ok {
		return "", "", false
	}
	owner, name, ok := strings.Cut(rest, "/")
	if !ok || !ownerForm.MatchString(owner) || !keyForm.MatchString(name) {
		return "", "", false
	}
	return owner, backends.Key(name), true
}
