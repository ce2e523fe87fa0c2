package slurm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
)

// fields are what is asked of each job, in this order.
func fields() []string {
	return []string{
		"JobID", "HetJobID", "HetJobOffset", "Comment", "UserName", "Partition", "State", "PriorityLong", "Reason",
		"RestartCnt", "NodeList", "SubmitTime", "StartTime", "EndTime", "exit_code", "PreemptTime",
	}
}

// Observe lists the owner's jobs with one squeue, and one sacct when jobs have
// left the queue of a cluster that keeps books. When users is empty all
// users' jobs are looked at. The list is incomplete when Slurm did not know one
// of the users: their jobs are not in it.
func (b *Backend) Observe(ctx context.Context, owner string, users []string) (backends.Observation, error) {
	fail := func(kind backends.Kind, err error) (backends.Observation, error) {
		return backends.Observation{}, &backends.Error{Op: "observe", Kind: kind, Err: err}
	}
	if err := backends.CheckOwner(owner); err != nil {
		return fail(backends.KindInvalid, err)
	}
	for _, u := range users {
		if err := slurmjob.CheckUser(u); err != nil {
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
	jobs, err := slurmjob.Fold(rows)
	if err != nil {
		return fail(backends.KindTransient, fmt.Errorf("read the answer of squeue: %w", err))
	}
	// squeue skips an unknown user with a complaint and exits with 0.
	complete := !strings.Contains(stderr, "Invalid user")
	if complete {
		jobs = b.history.Complete(ctx, owner, users, jobs)
	}
	return backends.Observation{Jobs: jobs, Complete: complete}, nil
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

// split takes an answer apart into jobs of so many fields each, every one of which ends
// with sep, and every job with a new line.
func split(out, sep string, fields int) ([][]string, error) {
	var jobs [][]string
	for out != "" {
		job := make([]string, 0, fields)
		for range fields {
			value, rest, ok := strings.Cut(out, sep)
			if !ok {
				return nil, fmt.Errorf("job %d of the list ends after %d of %d fields", len(jobs)+1, len(job), fields)
			}
			job = append(job, value)
			out = rest
		}
		rest, ok := strings.CutPrefix(out, "\n")
		if !ok {
			return nil, fmt.Errorf("job %d of the list does not end with its line", len(jobs)+1)
		}
		out, jobs = rest, append(jobs, job)
	}
	return jobs, nil
}

// parseRows reads the whole answer and keeps the owner's rows. Anything that is
// not understood fails the whole: half a list would hide jobs.
func parseRows(out, sep, owner string) ([]slurmjob.Component, error) {
	if len(out) > maxOutput {
		return nil, fmt.Errorf("%d bytes, more than %d", len(out), maxOutput)
	}
	// With --clusters a line tells the cluster, even without a header.
	if strings.HasPrefix(out, "CLUSTER: ") {
		_, rest, _ := strings.Cut(out, "\n")
		out = rest
	}
	lines, err := split(out, sep, len(fields()))
	if err != nil {
		return nil, err
	}
	var rows []slurmjob.Component
	for _, v := range lines {
		if r, ours, err := parseRow(v, owner); err != nil {
			return nil, fmt.Errorf("job %.20q: %w", v[0], err)
		} else if ours {
			rows = append(rows, r)
		}
	}
	return rows, nil
}

func parseRow(v []string, owner string) (c slurmjob.Component, ours bool, err error) {
	none := slurmjob.Component{}
	tagged, key, ok := backends.ParseTag(v[3])
	if !ok || tagged != owner {
		return none, false, nil
	}
	c = slurmjob.Component{
		ID: v[0], Leader: v[0], Owner: owner, Key: key, User: v[4], Partition: v[5], Word: v[6], Unprioritised: v[7] == "0",
		Reason: slurmjob.Present(v[8]), Nodes: slurmjob.Present(v[10]),
	}
	if !slurmjob.ValidID(c.ID) {
		return none, false, errors.New("the id is not a number")
	}
	if l := slurmjob.Present(v[1]); l != "" && l != "0" {
		if !slurmjob.ValidID(l) {
			return none, false, fmt.Errorf("the leader's id %.20q is not a number", l)
		}
		c.Leader = l
		if c.Offset, err = strconv.Atoi(v[2]); err != nil || c.Offset < 0 {
			return none, false, fmt.Errorf("the component number %.20q", v[2])
		}
	}
	if c.Word == "" {
		return none, false, errors.New("the state is missing")
	}
	if n := slurmjob.Present(v[9]); n != "" {
		if c.Restarts, err = strconv.Atoi(n); err != nil || c.Restarts < 0 {
			return none, false, fmt.Errorf("the restart count %.20q", n)
		}
	}
	for i, at := range map[int]*time.Time{11: &c.Submitted, 12: &c.Start, 13: &c.End, 15: &c.Preempted} {
		if *at, err = parseTime(v[i]); err != nil {
			return none, false, err
		}
	}
	c.ExitCode, c.Signal, err = slurmjob.ParseExit(v[14])
	return c, true, err
}

func parseTime(v string) (time.Time, error) {
	if v = slurmjob.Present(v); v == "" || v == "0" {
		return time.Time{}, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		return time.Time{}, fmt.Errorf("the time %.40q is not seconds since the epoch", v)
	}
	return time.Unix(n, 0).UTC(), nil
}
