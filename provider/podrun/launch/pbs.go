package launch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// The two families of PBS start programs on a job's other hosts differently.
const (
	launcherPBS    = "pbs"    // PBS Professional, OpenPBS: pbs_tmrsh
	launcherTorque = "torque" // pbsdsh -h
)

// pbsTask is where one member runs, and which of its host's devices are its own.
type pbsTask struct {
	host string
	gpus Devices
}

// Devices are a member's GPUs among those that its job has on its host.
type Devices struct {
	Offset, Count int
	// List, when set, are the devices themselves (Torque tells them).
	List []string
}

// nodeLines reads the job's node file: the first line is the host that the
// batch script runs on.
func nodeLines(env []string) ([]string, error) {
	return fileLines(env, "PBS_NODEFILE")
}

func fileLines(env []string, variable string) ([]string, error) {
	name := value(env, variable)
	if name == "" {
		return nil, fmt.Errorf("%s is not set: this is not a job of PBS", variable)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", variable, err)
	}
	defer f.Close()
	var lines []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if line := strings.TrimSpace(s.Text()); line != "" {
			lines = append(lines, line)
		}
		if err := s.Err(); err != nil {
			return nil, fmt.Errorf("read %s: %w", variable, err)
		}
	}
	return lines, nil
}

func value(env []string, name string) string {
	for _, kv := range slices.Backward(env) {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// pbsTasks gives every rank its host and devices.
func pbsTasks(g *manifest.Gang, env []string) ([]pbsTask, error) {
	lines, err := nodeLines(env)
	if err != nil {
		return nil, err
	}
	var hosts []string
	if g.Launcher == launcherTorque {
		hosts, err = torqueHosts(g, lines)
	} else if hosts = lines; len(lines) != len(g.Members) {
		// One chunk a member, and one line a chunk.
		err = fmt.Errorf("the node file has %d lines for %d members", len(lines), len(g.Members))
	}
	if err != nil {
		return nil, err
	}
	devices := map[string][]string{}
	if value(env, "PBS_GPUFILE") != "" {
		gpus, err := fileLines(env, "PBS_GPUFILE")
		if err != nil {
			return nil, err
		}
		for _, line := range gpus {
			if host, device, ok := strings.Cut(line, "-gpu"); ok {
				devices[host] = append(devices[host], device)
			}
		}
	}
	tasks := make([]pbsTask, 0, len(hosts))
	used := map[string]int{}
	for _, c := range g.Components {
		count := int(c.Devices())
		for range c.Tasks {
			host := hosts[len(tasks)]
			t := pbsTask{host: host, gpus: Devices{Offset: used[host], Count: count}}
			if list := devices[host]; len(list) >= used[host]+count {
				t.gpus.List = list[used[host] : used[host]+count]
			}
			used[host] += count
			tasks = append(tasks, t)
		}
	}
	return tasks, nil
}

// torqueHosts places ranks on hosts: Torque's node file has one line a CPU, and
// does not say which CPUs belong together.
func torqueHosts(g *manifest.Gang, lines []string) ([]string, error) {
	free := map[string]int64{}
	var order []string
	for _, l := range lines {
		if free[l] == 0 && !slices.Contains(order, l) {
			order = append(order, l)
		}
		free[l]++
	}
	first := make([]int, len(g.Components))
	total := 0
	for i, c := range g.Components {
		first[i] = total
		total += c.Tasks
	}
	// The largest first, as whoever places unequal parts does.
	largest := make([]int, len(g.Components))
	for i := range largest {
		largest[i] = i
	}
	slices.SortStableFunc(largest, func(a, b int) int { return int(g.Components[b].CPUs - g.Components[a].CPUs) })
	hosts := make([]string, total)
	for _, i := range largest {
		c := g.Components[i]
		for n := range c.Tasks {
			at := -1 // the fullest that has room
			for k, h := range order {
				if free[h] >= c.CPUs && (at < 0 || free[h] < free[order[at]]) {
					at = k
				}
			}
			if at < 0 {
				return nil, fmt.Errorf("the node file has no room for task %d of component %d (%d CPUs)", n, i, c.CPUs)
			}
			free[order[at]] -= c.CPUs
			hosts[first[i]+n] = order[at]
		}
	}
	return hosts, nil
}

// startPBS runs the members: those of this host as children, the others through
// the batch system.
func startPBS(_ context.Context, o Options, g *manifest.Gang) error {
	tasks, err := pbsTasks(g, o.Env)
	if err != nil {
		return err
	}
	lines, err := nodeLines(o.Env)
	if err != nil {
		return err
	}
	here := lines[0]
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	var all []child
	for _, m := range g.Members {
		t := tasks[m.Rank]
		args := slices.Concat([]string{"pod", "--rank=" + strconv.Itoa(m.Rank), "--host=" + t.host, "--restart=" + strconv.Itoa(o.Restart)}, t.gpus.args(), o.PodArgs)
		if t.host == here {
			cmd := exec.Command("/proc/self/exe", append(args, ".")...)
			cmd.Args[0] = "podrun"
			cmd.Dir, cmd.Env = o.Dir, without(o.Env, RestartVariable)
			all = append(all, child{cmd: cmd, rank: m.Rank, terminate: true})
			continue
		}
		argv, err := remote(g.Launcher, o.Env, t.host, dir, append(args, dir))
		if err != nil {
			return err
		}
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir, cmd.Env = o.Dir, o.Env
		// In a session of its own: the batch system signals all processes of the
		// job's session, and this one must see its pod to the end.
		all = append(all, child{cmd: cmd, rank: m.Rank, session: true})
	}
	return runChildren(o, all)
}

// plain are the characters that mean nothing to any shell: pbs_tmrsh and ssh may
// hand the command line to the user's.
var plain = regexp.MustCompile(`^[A-Za-z0-9_./@%+=:,-]+$`)

// remote is the command that runs podrun on another host of the job. The
// environment there is the batch system's, so all that matters is in args.
func remote(launcher string, env []string, host, dir string, args []string) ([]string, error) {
	argv := append([]string{filepath.Join(dir, "podrun")}, args...)
	for _, a := range append(argv, host) {
		if !plain.MatchString(a) {
			return nil, fmt.Errorf("%q cannot be passed to another host: it has a character other than letters, digits and _./@%%+=:,-", a)
		}
	}
	if launcher == launcherTorque {
		if tool := find(env, "pbsdsh"); tool != "" {
			return append([]string{tool, "-h", host}, argv...), nil
		}
	} else if tool := find(env, "pbs_tmrsh"); tool != "" {
		return append([]string{tool, host}, argv...), nil
	}
	if tool := find(env, "ssh"); tool != "" {
		return append([]string{tool, "-o", "BatchMode=yes", "-o", "ConnectTimeout=30", host, "--"}, argv...), nil
	}
	return nil, fmt.Errorf("start a member on host %s: there is no pbs_tmrsh, pbsdsh or ssh on this host", host)
}

// find looks for a command in the PATH of env, then where PBS is installed.
func find(env []string, name string) string {
	dirs := filepath.SplitList(value(env, "PATH"))
	if exec := value(env, "PBS_EXEC"); exec != "" {
		dirs = append(dirs, filepath.Join(exec, "bin"))
	}
	conf := value(env, "PBS_CONF_FILE")
	if conf == "" {
		conf = "/etc/pbs.conf"
	}
	if text, err := os.ReadFile(conf); err == nil {
		for line := range strings.Lines(string(text)) {
			if exec, ok := strings.CutPrefix(strings.TrimSpace(line), "PBS_EXEC="); ok {
				dirs = append(dirs, filepath.Join(exec, "bin"))
			}
		}
	}
	for _, dir := range append(dirs, "/opt/pbs/bin") {
		if !filepath.IsAbs(dir) {
			continue
		}
		full := filepath.Join(dir, name)
		if info, err := os.Stat(full); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return full
		}
	}
	return ""
}

func without(env []string, names ...string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(names, name)
	})
}

// args are the flags of podrun pod that ParseDevices reads.
func (d Devices) args() []string {
	if len(d.List) > 0 {
		return []string{"--gpus=" + strconv.Itoa(d.Offset) + ":" + strconv.Itoa(d.Count) + ":" + strings.Join(d.List, ",")}
	}
	return []string{"--gpus=" + strconv.Itoa(d.Offset) + ":" + strconv.Itoa(d.Count)}
}

// ParseDevices reads "OFFSET:COUNT" or "OFFSET:COUNT:DEVICE,DEVICE".
func ParseDevices(text string) (Devices, error) {
	var d Devices
	parts := strings.SplitN(text, ":", 3)
	bad := fmt.Errorf("GPUs %q: want OFFSET:COUNT[:LIST]", text)
	if len(parts) < 2 {
		return d, bad
	}
	var err, err2 error
	d.Offset, err = strconv.Atoi(parts[0])
	d.Count, err2 = strconv.Atoi(parts[1])
	if err != nil || err2 != nil || d.Offset < 0 || d.Count < 0 || d.Offset > 1<<20 || d.Count > 1<<20 {
		return d, bad
	}
	if len(parts) == 3 {
		if d.List = strings.Split(parts[2], ","); len(d.List) != d.Count {
			return d, bad
		}
	}
	return d, nil
}

// visible are the variables by which programs find their GPUs.
const visible = "CUDA_VISIBLE_DEVICES"

// Environment is env with the member's devices and no other. Where a hook of
// the site gave the job's devices on this host, the member gets its share of
// them; where none did, it counts from the first device, which is right when
// jobs do not share hosts.
func (d Devices) Environment(env []string) []string {
	out := without(env, visible)
	set := value(env, visible)
	all := strings.Split(set, ",")
	var own []string
	switch {
	case d.Count == 0:
	case set != "" && len(all) >= d.Offset+d.Count:
		own = all[d.Offset : d.Offset+d.Count]
	case set != "":
		// Fewer than asked for: the hook knows better how they are shared.
		return env
	case len(d.List) > 0:
		own = d.List
	default:
		for i := range d.Count {
			own = append(own, strconv.Itoa(d.Offset+i))
		}
	}
	return append(out, visible+"="+strings.Join(own, ","))
}

// runsFile counts the runs of a job where the batch system cannot be asked.
const runsFile = "pbs-runs.json"

type runs struct {
	Job  string `json:"job"`
	Runs int    `json:"runs"`
}

// askLimit bounds the question for the number of runs.
const askLimit = 20 * time.Second

// Restarts is the batch job's restart count. PBS does not tell a job how often
// it ran, so the server is asked, and where a compute host cannot ask it the
// runs that began in dir are counted.
func Restarts(dir string, env []string) (int, error) {
	job := value(env, "PBS_JOBID")
	if job == "" || value(env, RestartVariable) != "" || value(env, "SLURM_JOB_ID") != "" {
		return RestartCount(env)
	}
	n, asked := askRuns(env, job)
	counted, err := countRuns(dir, job, n)
	if asked {
		return n - 1, nil // with a full disk, too
	}
	if err != nil {
		return 0, fmt.Errorf("count the runs of job %s: %w", job, err)
	}
	return counted - 1, nil
}

// countRuns counts one more run; known is the number when it is known already.
func countRuns(dir, job string, known int) (int, error) {
	gang, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer gang.Close()
	var seen runs
	if err := atomicfile.ReadJSON(gang, runsFile, 1<<16, &seen); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	if seen.Job != job {
		seen = runs{Job: job}
	}
	seen.Runs++
	if known > 0 {
		seen.Runs = known
	}
	return seen.Runs, atomicfile.WriteJSON(gang, runsFile, seen)
}

// askRuns asks the server for the job's run_count (start_count in Torque).
func askRuns(env []string, job string) (int, bool) {
	text, ok := askJob(env, job)
	if !ok {
		return 0, false
	}
	return parseRuns(text)
}

// askJob is what the server says of a job; ok is false where it cannot be asked.
func askJob(env []string, job string) (text string, ok bool) {
	if job == "" {
		return "", false
	}
	return output(env, "qstat", "-f", job)
}

// output is what a command of the batch system says; ok is false when there is
// none, it fails or takes too long.
func output(env []string, name string, args ...string) (text string, ok bool) {
	tool := find(env, name)
	if tool == "" {
		return "", false
	}
	ctx, stop := context.WithTimeout(context.Background(), askLimit)
	defer stop()
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Env, cmd.WaitDelay = env, time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.Output()
	if err != nil {
		return "", false
	}
	return string(out), true
}

func parseRuns(text string) (int, bool) {
	for line := range strings.Lines(text) {
		name, count, ok := strings.Cut(strings.TrimSpace(line), " = ")
		if !ok || !strings.HasPrefix(line, "    ") || name != "run_count" && name != "start_count" {
			continue
		}
		if n, err := strconv.Atoi(count); err == nil && n > 0 {
			return n, true
		}
	}
	return 0, false
}
