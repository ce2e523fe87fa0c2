package pbs

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/isthmus-hpc/isthmus/backends"
)

const maxValue = 255

var (
	userForm     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}$`)
	nameForm     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	resourceForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	// idForm is a plain job, with or without its server. Arrays and their
	// sub-jobs ("20[].pbs", "20[1].pbs") are never ours.
	idForm = regexp.MustCompile(`^[0-9]{1,12}(\.[A-Za-z0-9][A-Za-z0-9._-]{0,250})?$`)
)

// check refuses what could be taken for something else on the way to PBS, and
// what the dialect does not know.
func check(dialect Dialect, s backends.JobSpec) error {
	if err := s.Validate(); err != nil {
		return err
	}
	if err := checkUser(s.User); err != nil {
		return err
	}
	for _, v := range [][2]string{
		{"partition", s.Partition}, {"account", s.Account}, {"qos", s.QOS}, {"reservation", s.Reservation},
	} {
		if v[1] != "" && (len(v[1]) > maxValue || !nameForm.MatchString(v[1])) {
			return fmt.Errorf("%s: %.80q: want letters, digits, '_', '.' and '-'", v[0], v[1])
		}
	}
	if s.QOS != "" && dialect == Pro {
		return fmt.Errorf("qos: %.80q: PBS has no QOS; leave it out, or use a queue", s.QOS)
	}
	if len(s.ExcludedHosts) > 0 {
		return fmt.Errorf("excludedHosts: %s and others: PBS cannot keep a job off hosts; use a queue or a resource of the hosts that are left", s.ExcludedHosts[0])
	}
	if err := s.Unserved(backends.Capabilities{}); err != nil {
		return fmt.Errorf("%w; the constraint of a node may name resources of the site", err)
	}
	if err := checkAfter(dialect, s.After); err != nil {
		return err
	}
	if s.Host != "" && (!nameForm.MatchString(s.Host) || strings.Trim(s.Host, "0123456789") == "") { // digits are a count
		return fmt.Errorf("host: %.80q: want letters, digits, '_', '.' and '-'", s.Host)
	}
	if err := checkConstraint(dialect, s.Constraint); err != nil {
		return fmt.Errorf("constraint: %w", err)
	}
	for i, c := range s.Components {
		types := 0
		for kind, n := range c.GPUs {
			if n == 0 {
				continue
			}
			types++
			if kind != "" && !nameForm.MatchString(kind) {
				return fmt.Errorf("components[%d].gpus: type %.80q: want letters, digits, '_', '.' and '-'", i, kind)
			}
		}
		if types > 1 {
			return fmt.Errorf("components[%d].gpus: a task has GPUs of one type in PBS, not of %d", i, types)
		}
	}
	return nil
}

func checkUser(name string) error {
	if name == "root" {
		return errors.New("user: jobs never run as root")
	}
	if !userForm.MatchString(name) {
		return fmt.Errorf("user: %.80q is not a user name", name)
	}
	return nil
}

// checkConstraint reads "name=value:name=value" of PBS, what each chunk must
// have besides, or "property:property" of Torque.
func checkConstraint(dialect Dialect, constraint string) error {
	if constraint == "" {
		return nil
	}
	for part := range strings.SplitSeq(constraint, ":") {
		if dialect == Torque {
			if !nameForm.MatchString(part) || strings.Trim(part, "0123456789") == "" {
				return fmt.Errorf("%.80q: want node properties separated by ':'", constraint)
			}
			continue
		}
		if !resourceForm.MatchString(part) {
			return fmt.Errorf("%.80q: want resources of a chunk, name=value, separated by ':'", constraint)
		}
		switch name, _, _ := strings.Cut(part, "="); name {
		case "ncpus", "mem", "ngpus", "mpiprocs", "ompthreads":
			return fmt.Errorf("%.80q: %s is set by what the pods ask for", constraint, name)
		}
	}
	return nil
}

// asked is what the environment of a job carries of us. Names and values have
// no character that means anything in a list of variables.
const (
	variableTag     = "ISTHMUS_TAG"
	variableDir     = "ISTHMUS_DIR"
	variableRecords = "ISTHMUS_RECORDS"
	variableLimit   = "ISTHMUS_WALLTIME"
)

// script is the whole batch script: what the contract's does, and before it
// what PBS does not do. A job starts in its user's home directory, so the
// script goes to the job's own; that is given as the octal numbers of its
// bytes, since lists of variables have quoting rules of their own and output
// paths are taken apart at ':' and ','. Output is appended to batch.log there:
// a requeued job must not lose what it said. Around the launcher it keeps the
// job's record (see records.go).
//
// The shell stays, so that it can note the terminate signal and the end; PBS
// signals all processes of a job, so the launcher hears of it by itself. A
// signal interrupts the wait, and the launcher is there until it was waited for.
const script = `#!/bin/sh
umask 077
text() {
	set -f
	IFS=.
	bytes=
	for byte in $1; do bytes="$bytes\\0$byte"; done
	unset IFS
	set +f
	decoded=$(printf '%b.' "$bytes")
	decoded=${decoded%.}
}
note() {
	printf '\n    %s\n' "$1" >>"$file.run" 2>/dev/null
}
text "$ISTHMUS_DIR"
cd "$decoded" || exit 125
exec >>batch.log 2>&1 </dev/null
text "$ISTHMUS_RECORDS"
records=$decoded
file=$records/${PBS_JOBID:-unknown}
started=$(date +%s)
mkdir -p "$records" 2>/dev/null
begin() {
	printf 'Job Id: %s\n    record = %s\n    queue = %s\n    start = %s\n    limit = %s\n    hosts = %s\n    tag = %s\n' \
		"$PBS_JOBID" "$1" "$PBS_QUEUE" "$started" "$ISTHMUS_WALLTIME" \
		"$(uniq "${PBS_NODEFILE:-/dev/null}" | tr '\n' '+')" "$ISTHMUS_TAG"
}
begin run >"$file.new" 2>/dev/null && mv -f "$file.new" "$file.run" 2>/dev/null
rm -f "$file.end" 2>/dev/null # of an earlier run
trap 'note "term = $(date +%s)"' TERM
./podrun launch . &
launcher=$!
while :; do
	wait "$launcher"
	code=$?
	kill -0 "$launcher" 2>/dev/null || break
done
trap '' TERM
{
	begin end
	grep '^    term = ' "$file.run" 2>/dev/null
	printf '    exit_status = %s\n    end = %s\n' "$code" "$(date +%s)"
} >"$file.new" 2>/dev/null && mv -f "$file.new" "$file.end" 2>/dev/null && rm -f "$file.run"
exit "$code"
`

// octal writes text as the octal numbers of its bytes.
func octal(text string) string {
	var b strings.Builder
	for i := range len(text) {
		if i > 0 {
			b.WriteByte('.')
		}
		fmt.Fprintf(&b, "%03o", text[i])
	}
	return b.String()
}

// qsubArgs gives the command line of qsub. gpuType is the resource that holds
// the type of a vnode's GPUs.
func qsubArgs(dialect Dialect, s backends.JobSpec, records, gpuType string) ([]string, error) {
	vars := []string{
		variableTag + "=" + backends.Tag(s.Owner, s.Key),
		variableDir + "=" + octal(s.WorkDir),
		variableRecords + "=" + octal(records),
		fmt.Sprintf("%s=%d", variableLimit, ceil(int64(s.Walltime), int64(time.Second))),
	}
	args := []string{
		"qsub", "-h",
		"-N", string(s.Key),
		// A login shell would be the user's own, which may be anything.
		"-S", "/bin/sh",
		// The script writes batch.log itself.
		"-j", "oe", "-o", "/dev/null",
		"-m", "n",
		// A requeued job keeps its id; the launcher tells its runs apart.
		"-r", "y",
		"-v", strings.Join(vars, ","),
	}
	args = append(args, dependOn(s.After)...)
	queue := s.Partition
	if s.Reservation != "" && dialect == Pro {
		// A reservation is a queue, called as the reservation is without the server.
		queue, _, _ = strings.Cut(s.Reservation, ".")
	}
	if queue != "" {
		args = append(args, "-q", queue)
	}
	if s.Account != "" {
		args = append(args, "-A", s.Account)
		if dialect == Pro { // in Torque -P names a user to act for
			args = append(args, "-P", s.Account)
		}
	}
	if s.Walltime > 0 {
		args = append(args, "-l", "walltime="+clock(s.Walltime))
	}
	if dialect == Torque {
		if s.QOS != "" {
			args = append(args, "-l", "qos="+s.QOS)
		}
		if s.Reservation != "" {
			args = append(args, "-l", "advres="+s.Reservation)
		}
		return append(args, torqueNodes(s)...), nil
	}
	selected, err := selectChunks(s, gpuType)
	if err != nil {
		return nil, err
	}
	return append(args, "-l", "select="+selected, "-l", "place=free"), nil
}

// selectChunks writes one chunk a task: a chunk lies on one host, and all
// chunks start together or none.
func selectChunks(s backends.JobSpec, gpuType string) (string, error) {
	var chunks []string
	for i, c := range s.Components {
		// One line of PBS_NODEFILE a chunk, whatever the site's default is: the
		// launcher reads there where each task belongs.
		chunk := fmt.Sprintf("%d:ncpus=%d:mpiprocs=1", c.Tasks, c.CPUs)
		if c.MemoryMiB > 0 {
			chunk += fmt.Sprintf(":mem=%dmb", c.MemoryMiB)
		}
		for kind, n := range c.GPUs {
			if n == 0 {
				continue
			}
			chunk += fmt.Sprintf(":ngpus=%d", n)
			if kind == "" {
				continue
			}
			if gpuType == "" {
				return "", fmt.Errorf("components[%d].gpus: type %q: no vnode says which type its GPUs are (none of the resources %s is set)",
					i, kind, strings.Join(gpuTypes(), ", "))
			}
			chunk += ":" + gpuType + "=" + kind
		}
		if s.Host != "" {
			chunk += ":host=" + s.Host
		}
		if s.Constraint != "" {
			chunk += ":" + s.Constraint
		}
		chunks = append(chunks, chunk)
	}
	return strings.Join(chunks, "+"), nil
}

// torqueNodes writes one node a task: to Torque a node is a set of CPUs on one
// host, and two of them may share it. A host stands where the number of nodes
// does, so with one each task has a part of its own.
func torqueNodes(s backends.JobSpec) []string {
	var nodes []string
	var memory int64
	for _, c := range s.Components {
		node, times := fmt.Sprintf("%d:ppn=%d", c.Tasks, c.CPUs), 1
		if s.Host != "" {
			node, times = fmt.Sprintf("%s:ppn=%d", s.Host, c.CPUs), c.Tasks
		}
		memory += int64(c.Tasks) * c.MemoryMiB
		for _, kind := range slices.Sorted(maps.Keys(c.GPUs)) {
			if n := c.GPUs[kind]; n > 0 {
				node += fmt.Sprintf(":gpus=%d", n)
				if kind != "" {
					node += ":" + kind
				}
			}
		}
		if s.Constraint != "" {
			node += ":" + s.Constraint
		}
		nodes = append(nodes, slices.Repeat([]string{node}, times)...)
	}
	args := []string{"-l", "nodes=" + strings.Join(nodes, "+")}
	if memory > 0 {
		args = append(args, "-l", fmt.Sprintf("mem=%dmb", memory))
	}
	return args
}

func ceil(n, by int64) int64 { return (n + by - 1) / by }

func clock(d time.Duration) string {
	seconds := ceil(int64(d), int64(time.Second))
	return fmt.Sprintf("%02d:%02d:%02d", seconds/3600, seconds/60%60, seconds%60)
}

// checkDir refuses a directory for records that is none.
func checkDir(dir string) error {
	if !path.IsAbs(dir) || path.Clean(dir) != dir || !utf8.ValidString(dir) || strings.ContainsFunc(dir, unicode.IsControl) {
		return fmt.Errorf("%.200q is not a clean absolute path", dir)
	}
	return nil
}
