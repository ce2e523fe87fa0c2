package slurm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/hostlist"
)

// maxHosts bounds the hosts of one answer.
const maxHosts = 100_000

// fields are what is asked of each job, in this order.
func fields() []string {
	return []string{
		"JobID", "HetJobID", "HetJobOffset", "Comment", "UserName", "Partition", "State", "PriorityLong", "Reason",
		"RestartCnt", "NodeList", "SubmitTime", "StartTime", "EndTime", "exit_code",
	}
}

// row is one line of squeue, a component of a job.
type row struct {
	id, leader string
	offset     int
	owner      string
	key        backends.Key
	user       string
	partition  string
	word       string
	priority   string
	reason     string
	restarts   int
	nodes      string
	submitted  time.Time
	start      time.Time
	end        time.Time
	exit       int
	signal     int
}

// Observe lists the owner's jobs with one squeue. When users is empty all
// users' jobs are looked at. The list is incomplete when Slurm did not know one
// of the users: their jobs are not in it.
func (b *Backend) Observe(ctx context.Context, owner string, users []string) (backends.Observation, error) {
	fail := func(kind backends.Kind, err error) (backends.Observation, error) {
		return backends.Observation{}, &backends.Error{Op: "observe", Kind: kind, Err: err}
	}
	if !ownerForm.MatchString(owner) {
		return fail(backends.KindInvalid, fmt.Errorf("owner %.80q: want 1 to 63 characters of a-z, 0-9 and -", owner))
	}
	for _, u := range users {
		if err := checkUser(u); err != nil {
			return fail(backends.KindInvalid, err)
		}
	}
	// Comments are whatever a user likes, so the separator is one that nobody
	// could have known when the job was submitted.
	var nonce [12]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return fail(backends.KindTransient, fmt.Errorf("make a separator: %w", err))
	}
	sep := separator(hex.EncodeToString(nonce[:]))
	out, stderr, err := b.query(ctx, "observe", squeueArgs(sep, users)...)
	if err != nil {
		return backends.Observation{}, err
	}
	rows, err := parseRows(out, sep, owner)
	if err != nil {
		return fail(backends.KindTransient, fmt.Errorf("read the answer of squeue: %w", err))
	}
	jobs, err := fold(rows)
	if err != nil {
		return fail(backends.KindTransient, fmt.Errorf("read the answer of squeue: %w", err))
	}
	// squeue skips an unknown user with a complaint and exits with 0.
	return backends.Observation{Jobs: jobs, Complete: !strings.Contains(stderr, "Invalid user")}, nil
}

// separator starts and ends with a byte that no field's value shows by chance
// and that squeue does not take for a width.
func separator(nonce string) string { return "\x1f" + nonce + "\x1f" }

func squeueArgs(sep string, users []string) []string {
	var format []string
	for _, f := range fields() {
		format = append(format, f+":"+sep)
	}
	args := []string{"squeue", "--noheader", "--all", "--states=all", "--Format=" + strings.Join(format, ",")}
	if len(users) > 0 {
		users = slices.Clone(users)
		slices.Sort(users)
		args = append(args, "--user="+strings.Join(slices.Compact(users), ","))
	}
	return args
}

// parseRows reads the whole answer and keeps the owner's rows. Anything that is
// not understood fails the whole: half a list would hide jobs.
func parseRows(out, sep, owner string) ([]row, error) {
	if len(out) > maxOutput {
		return nil, fmt.Errorf("%d bytes, more than %d", len(out), maxOutput)
	}
	// With --clusters a line tells the cluster, even without a header.
	if strings.HasPrefix(out, "CLUSTER: ") {
		_, rest, _ := strings.Cut(out, "\n")
		out = rest
	}
	names := fields()
	var rows []row
	for n := 0; out != ""; n++ {
		var v []string
		for range names {
			value, rest, ok := strings.Cut(out, sep)
			if !ok {
				return nil, fmt.Errorf("job %d of the list ends after %d of %d fields", n+1, len(v), len(names))
			}
			v = append(v, value)
			out = rest
		}
		rest, ok := strings.CutPrefix(out, "\n")
		if !ok {
			return nil, fmt.Errorf("job %d of the list does not end with its line", n+1)
		}
		out = rest
		if r, ours, err := parseRow(v, owner); err != nil {
			return nil, fmt.Errorf("job %.20q: %w", v[0], err)
		} else if ours {
			rows = append(rows, r)
		}
	}
	return rows, nil
}

func parseRow(v []string, owner string) (r row, ours bool, err error) {
	tagged, key, ok := parseTag(v[3])
	if !ok || tagged != owner {
		return row{}, false, nil
	}
	r = row{
		id: v[0], leader: v[0], owner: owner, key: key,
		user: v[4], partition: v[5], word: v[6], priority: v[7], reason: present(v[8]), nodes: present(v[10]),
	}
	if !idForm.MatchString(r.id) {
		return row{}, false, fmt.Errorf("the id is not a number")
	}
	if l := present(v[1]); l != "" && l != "0" {
		if !idForm.MatchString(l) {
			return row{}, false, fmt.Errorf("the leader's id %.20q is not a number", l)
		}
		r.leader = l
		if r.offset, err = strconv.Atoi(v[2]); err != nil || r.offset < 0 {
			return row{}, false, fmt.Errorf("the component number %.20q", v[2])
		}
	}
	if r.word == "" {
		return row{}, false, fmt.Errorf("the state is missing")
	}
	if c := present(v[9]); c != "" {
		if r.restarts, err = strconv.Atoi(c); err != nil || r.restarts < 0 {
			return row{}, false, fmt.Errorf("the restart count %.20q", c)
		}
	}
	for i, at := range map[int]*time.Time{11: &r.submitted, 12: &r.start, 13: &r.end} {
		if *at, err = parseTime(v[i]); err != nil {
			return row{}, false, err
		}
	}
	r.exit, r.signal, err = parseExit(v[14])
	return r, true, err
}

// present gives "" for the words with which Slurm says that there is nothing.
func present(v string) string {
	switch v {
	case "N/A", "(null)", "None", "Unknown", "NONE", "n/a", "INVALID", "NOT_SET":
		return ""
	}
	return v
}

func parseTime(v string) (time.Time, error) {
	if v = present(v); v == "" || v == "0" {
		return time.Time{}, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		return time.Time{}, fmt.Errorf("the time %.40q is not seconds since the epoch", v)
	}
	return time.Unix(n, 0).UTC(), nil
}

// parseExit reads a wait status ("768", to 22.05) or "code:signal" (from 23.02).
func parseExit(v string) (code, signal int, err error) {
	if v = present(v); v == "" {
		return 0, 0, nil
	}
	if c, s, ok := strings.Cut(v, ":"); ok {
		if code, err = strconv.Atoi(c); err == nil {
			signal, err = strconv.Atoi(s)
		}
	} else {
		var status uint64
		status, err = strconv.ParseUint(v, 10, 32)
		code, signal = int(status>>8&0xff), int(status&0x7f)
	}
	if err != nil || code < 0 || signal < 0 {
		return 0, 0, fmt.Errorf("the exit code %.40q", v)
	}
	return code, signal, nil
}

// fold makes one job of the components of each.
func fold(rows []row) ([]backends.Job, error) {
	byLeader := map[string][]row{}
	for _, r := range rows {
		byLeader[r.leader] = append(byLeader[r.leader], r)
	}
	jobs := make([]backends.Job, 0, len(byLeader))
	budget := maxHosts
	for _, parts := range byLeader {
		slices.SortFunc(parts, func(a, b row) int { return a.offset - b.offset })
		j, err := job(parts, &budget)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	slices.SortFunc(jobs, func(a, b backends.Job) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return jobs, nil
}

// job makes a Job of its components in their order. The batch script belongs to
// the first, so that one tells how the job ended.
func job(parts []row, hosts *int) (backends.Job, error) {
	first := parts[0]
	j := backends.Job{
		ID: backends.JobID(first.leader), Key: first.key, Owner: first.owner, User: first.user, Partition: first.partition,
		Submitted: first.submitted, ExitCode: first.exit, Signal: first.signal,
	}
	slowest := first
	seen := map[string]bool{}
	for _, p := range parts {
		if rank(stateOf(p.word)) < rank(stateOf(slowest.word)) {
			slowest = p
		}
		// A component that lost its host explains more than the script's end.
		if s := stateOf(p.word); s.Terminal() && s != backends.StateCompleted && stateOf(slowest.word) == backends.StateCompleted {
			slowest = p
		}
		j.Restarts = max(j.Restarts, p.restarts)
		if stateOf(p.word) == backends.StatePending && heldFor(p) {
			j.Held = true
		}
		names, err := hostlist.Expand(p.nodes, *hosts)
		if err != nil {
			return backends.Job{}, fmt.Errorf("job %s: %w", p.id, err)
		}
		*hosts -= len(names)
		for _, n := range names {
			if !seen[n] {
				seen[n] = true
				j.Hosts = append(j.Hosts, n)
			}
		}
	}
	j.State, j.Reason = stateOf(slowest.word), slowest.reason
	if j.Reason == "" && j.State != backends.StateCompleted {
		for _, p := range parts {
			if p.reason != "" {
				j.Reason = p.reason
				break
			}
		}
	}
	for _, p := range parts {
		times(&j, p)
	}
	j.Held = j.Held && j.State == backends.StatePending
	return j, nil
}

// times fills in the times that make sense in the job's state: Slurm gives an
// end for a job that only has a limit, and a start for one that only waits.
func times(j *backends.Job, p row) {
	switch {
	case j.State == backends.StatePending:
		j.Never = j.Never || never(p.reason)
		if p.start.After(j.Estimated) {
			j.Estimated = p.start
		}
		return
	case j.State.Terminal() && p.end.After(j.Ended):
		j.Ended = p.end
	}
	// One that ended without a host never started.
	if p.nodes != "" && p.start.After(j.Started) {
		j.Started = p.start
	}
}
