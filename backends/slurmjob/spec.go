package slurmjob

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
	"github.com/isthmus-hpc/isthmus/backends/hostlist"
)

// MaxComponents is Slurm's limit for the components of one job.
const MaxComponents = 128

const (
	maxTasks = 1 << 20
	maxValue = 1024
	// maxHostList is far below what one argument may have (128 KiB on Linux).
	maxHostList = 64 << 10
)

var (
	userForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,254}$`)
	gresForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	hostForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$`)
	idForm   = regexp.MustCompile(`^[1-9][0-9]{0,9}$`)
)

// Check refuses what could be taken for something else on the way to Slurm.
func Check(s backends.JobSpec) error {
	switch {
	case !backends.ValidKey(s.Key):
		return fmt.Errorf("key %.40q: want 1 to 15 characters of a-z and 0-9, a letter first", string(s.Key))
	case len(s.Components) == 0:
		return errors.New("no components")
	case len(s.Components) > MaxComponents:
		return fmt.Errorf("%d components, more than %d", len(s.Components), MaxComponents)
	case s.Walltime < 0 || s.Grace < 0:
		return errors.New("a negative time")
	}
	if err := errors.Join(backends.CheckOwner(s.Owner), CheckUser(s.User)); err != nil {
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
	if s.Host != "" {
		return fmt.Errorf("host %.80q: Slurm leaves hosts out instead", s.Host)
	}
	if len(s.ExcludedHosts) > backends.MaxExcludedHosts {
		return fmt.Errorf("excluded hosts: %d, more than %d", len(s.ExcludedHosts), backends.MaxExcludedHosts)
	}
	for _, h := range s.ExcludedHosts {
		if !hostForm.MatchString(h) {
			return fmt.Errorf("excluded host %.80q: want letters, digits, '.', '_' and '-'", h)
		}
	}
	if n := len(hostlist.Compress(s.ExcludedHosts)); n > maxHostList {
		return fmt.Errorf("excluded hosts: %d bytes as a host list, more than %d: name fewer in excludeHosts, or make a partition of those that are left", n, maxHostList)
	}
	if err := checkAsks(s); err != nil {
		return err
	}
	if len(s.After) > backends.MaxAfter {
		return fmt.Errorf("after: %d jobs, more than %d", len(s.After), backends.MaxAfter)
	}
	for _, id := range s.After {
		if !ValidID(string(id)) {
			return fmt.Errorf("after: %.40q is not a job id", string(id))
		}
	}
	for i, c := range s.Components {
		if err := checkComponent(c); err != nil {
			return fmt.Errorf("component %d: %w", i, err)
		}
	}
	return nil
}

// checkAsks looks at the licences and switches.
func checkAsks(s backends.JobSpec) error {
	for name, n := range s.Licenses {
		if !backends.ValidLicense(name) || n < 1 || n > maxTasks*maxTasks {
			return fmt.Errorf("licences %.80q: want letters, digits, '.', '_', '-' and '@', and a count of 1 or more, not %d", name, n)
		}
	}
	if s.Switches < 0 || s.Switches > backends.MaxSwitches || s.SwitchesWait < 0 || s.SwitchesWait > backends.MaxSwitchesWait {
		return fmt.Errorf("switches %d, to be waited for %s", s.Switches, s.SwitchesWait)
	}
	return nil
}

// CheckUser refuses root and what is no user name.
func CheckUser(name string) error {
	if name == "root" {
		return errors.New("jobs never run as root")
	}
	if !userForm.MatchString(name) {
		return fmt.Errorf("user %.80q is not a user name", name)
	}
	return nil
}

// ValidID reports whether id has the form of a job id.
func ValidID(id string) bool { return idForm.MatchString(id) }

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
	if shares := c.GPUs[backends.Shard]; shares > 0 {
		others := 0
		for name, n := range c.GPUs {
			if name != backends.Shard && n > 0 {
				others++
			}
		}
		// Slurm counts shares by host, and gives none to a job that has GPUs.
		if c.Tasks > 1 || others > 0 {
			return fmt.Errorf("%d shares of a GPU: they are for one task a component, and not beside whole GPUs", shares)
		}
	}
	for name, n := range c.GPUs {
		if name != "" && name != backends.Shard && (!gresForm.MatchString(name) || len(name) > 64) {
			return fmt.Errorf("GPU type %.80q", name)
		}
		if n < 0 || n > maxTasks {
			return fmt.Errorf("%d GPUs a task", n)
		}
	}
	return nil
}

// Properties describe one component of a job to Slurm: what the commands take
// as options and slurmrestd as fields. Zero values are left out.
type Properties struct {
	Name    string
	Comment string

	Partition, Account, QOS, Constraint, Reservation string
	Exclude                                          string // a host list

	// Licenses as Slurm writes them: "a:1,b@server:2". The first component holds
	// those of the whole job.
	Licenses string
	// Switches at most, 0 is any, for SwitchSeconds of waiting, 0 is Slurm's own.
	Switches      int
	SwitchSeconds int64
	Dependency    string // never empty, see dependency

	Minutes int64 // run-time limit
	// WarnSeconds before the limit the batch script gets WarnSignal; 0 is never.
	WarnSeconds int64
	WorkDir     string
	Output      string // a pattern, see OutputPattern

	Tasks           int
	CPUs            int64 // a task
	MemoryPerCPUMiB int64
	// GPUs a task as Slurm writes them, by type: "1,a100:2".
	GPUs string
	// Shards are shares of a GPU of the one task.
	Shards int64
}

// dependency of a job: two of one name and user never run at once, and those that
// it comes after have ended with exit code 0. All have to be met (sbatch(1)).
func dependency(s backends.JobSpec) string {
	out := "singleton"
	for i, id := range s.After {
		if i == 0 {
			out += ",afterok"
		}
		out += ":" + string(id)
	}
	return out
}

// Describe gives the properties of every component of a job that Check accepts.
func Describe(s backends.JobSpec) []Properties {
	out := make([]Properties, 0, len(s.Components))
	for i, c := range s.Components {
		p := Properties{
			Name: Name(s.Key, i, len(s.Components)), Comment: backends.Tag(s.Owner, s.Key),
			Partition: s.Partition, Account: s.Account, QOS: s.QOS, Constraint: s.Constraint, Reservation: s.Reservation,
			Exclude:     hostlist.Compress(s.ExcludedHosts),
			Dependency:  dependency(s),
			Minutes:     ceil(int64(s.Walltime), int64(time.Minute)),
			WarnSeconds: warnSeconds(s),
			WorkDir:     s.WorkDir, Output: OutputPattern(s.WorkDir),
			Tasks: c.Tasks, CPUs: c.CPUs,
			// Memory a task cannot be asked for, and a host's says nothing of tasks.
			MemoryPerCPUMiB: ceil(c.MemoryMiB, c.CPUs),
		}
		if i == 0 {
			p.Licenses = licenses(s.Licenses)
		}
		if s.Switches > 0 {
			p.Switches, p.SwitchSeconds = s.Switches, ceil(int64(s.SwitchesWait), int64(time.Second))
		}
		var gpus []string
		for name, n := range c.GPUs {
			switch {
			case n == 0:
			case name == backends.Shard:
				p.Shards = n
			case name == "":
				gpus = append(gpus, strconv.FormatInt(n, 10))
			default:
				gpus = append(gpus, fmt.Sprintf("%s:%d", name, n))
			}
		}
		slices.Sort(gpus)
		p.GPUs = strings.Join(gpus, ",")
		out = append(out, p)
	}
	return out
}

// licenses writes a list in the order of the names.
func licenses(counts map[string]int64) string {
	var out []string
	for name, n := range counts {
		out = append(out, fmt.Sprintf("%s:%d", name, n))
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// WarnSignal tells the batch script, which is the launcher, that the time limit
// is near. It is not the terminate signal, so that the pods can say why they end.
const WarnSignal = "USR2"

// Bounds of the warning: Slurm may send it a minute early (sbatch(1), --signal),
// and takes 16 bits of seconds. A short job gets none, since it would begin with it.
const (
	warnMargin = 15 * time.Second
	warnEarly  = time.Minute
	warnMost   = 65535
)

// warnSeconds leaves the pods their grace before Slurm kills at the limit.
func warnSeconds(s backends.JobSpec) int64 {
	warn := s.Grace + warnMargin
	if s.Grace <= 0 || s.Walltime < 2*(warn+warnEarly) {
		return 0
	}
	return min(ceil(int64(warn), int64(time.Second)), warnMost)
}

// Name is the job name of component i of n. With one name for all, singleton
// makes the second component wait for the first, which waits for the second.
func Name(key backends.Key, i, n int) string {
	if n == 1 {
		return string(key)
	}
	return fmt.Sprintf("%s.%d", key, i)
}

func ceil(n, by int64) int64 { return (n + by - 1) / by }

// OutputPattern is the pattern that names the file batch.log in dir. Slurm
// replaces %-letters in it. When it holds a backslash Slurm replaces nothing
// and removes one level of backslashes instead.
func OutputPattern(dir string) string {
	if strings.Contains(dir, `\`) {
		dir = strings.ReplaceAll(dir, `\`, `\\`)
	} else {
		dir = strings.ReplaceAll(dir, "%", "%%")
	}
	return strings.TrimSuffix(dir, "/") + "/batch.log"
}
