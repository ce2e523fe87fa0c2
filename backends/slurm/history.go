package slurm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmhistory"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
)

// sacctTimeout is less than what a tick has.
const sacctTimeout = 15 * time.Second

// Recall implements backends.Recaller.
func (b *Backend) Recall(owner string, jobs []backends.JobRef) { b.history.Recall(owner, jobs) }

// readAccounting finds out, once, whether the cluster keeps books.
func (b *Backend) readAccounting(ctx context.Context) error {
	if b.booksKnown.Load() {
		return nil
	}
	out, _, err := b.query(ctx, "inventory", "scontrol", "show", "config")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(line, "=")
		if strings.TrimSpace(name) == "AccountingStorageType" {
			b.history.Switch(strings.TrimSpace(value) == "accounting_storage/slurmdbd")
			b.booksKnown.Store(true)
			return nil
		}
	}
	return &backends.Error{Op: "inventory", Kind: backends.KindTransient, Err: errors.New("scontrol show config tells no AccountingStorageType")}
}

// sacctSelection gives the arguments that select the jobs of a question.
func sacctSelection(q slurmhistory.Question) []string {
	// In UTC, as the command is told to read it.
	args := []string{"--starttime=" + q.Since.UTC().Format("2006-01-02T15:04:05"), "--allusers"}
	if len(q.Users) > 0 {
		args = append(args, "--user="+strings.Join(q.Users, ","))
	}
	if len(q.IDs) > 0 {
		args = append(args, "--jobs="+strings.Join(q.IDs, ","))
	}
	return args
}

// sacctFields are what is asked of each job, in this order.
func sacctFields() []string {
	return []string{"JobIDRaw", "JobID", "JobName", "User", "Partition", "State", "ExitCode", "Submit", "Start", "End", "NodeList", "Comment"}
}

// askSacct runs sacct once. With --duplicates a requeued job has a row for each
// of its runs; the last tells how it ended, their number how often it started.
func (b *Backend) askSacct(ctx context.Context, q slurmhistory.Question) ([]slurmjob.Component, error) {
	var nonce [12]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return nil, fmt.Errorf("make a separator: %w", err)
	}
	sep := separator(hex.EncodeToString(nonce[:]))
	argv := append([]string{
		"sacct", "--noheader", "--parsable", "--allocations", "--duplicates", "--noconvert", "--delimiter=" + sep,
		"--format=" + strings.Join(sacctFields(), ","),
	}, sacctSelection(q)...)
	ctx, stop := context.WithTimeout(ctx, sacctTimeout)
	defer stop()
	out, _, err := b.query(ctx, "observe", argv...)
	if err != nil {
		return nil, err
	}
	return parseSacct(out, sep)
}

// parseSacct reads the whole answer; jobs that cannot be ours are passed over.
func parseSacct(out, sep string) ([]slurmjob.Component, error) {
	lines, err := split(out, sep, len(sacctFields()))
	if err != nil {
		return nil, err
	}
	var rows []slurmjob.Component
	last := map[string]int{} // the row of each id
	for _, v := range lines {
		c, ok, err := parseBooked(v)
		if err != nil {
			return nil, fmt.Errorf("job %.20q: %w", v[0], err)
		}
		if !ok {
			continue
		}
		if at, again := last[c.ID]; again {
			c.Restarts = rows[at].Restarts + 1
			rows[at] = c
			continue
		}
		last[c.ID] = len(rows)
		rows = append(rows, c)
	}
	return rows, nil
}

// parseBooked reads one row of sacct.
func parseBooked(v []string) (c slurmjob.Component, ok bool, err error) {
	leader, offset, het := strings.Cut(v[1], "+")
	if !slurmjob.ValidID(v[0]) || !slurmjob.ValidID(leader) {
		return c, false, nil // a job array's task, or a step
	}
	// "CANCELLED by 1000".
	word, _, _ := strings.Cut(v[5], " ")
	c = slurmjob.Component{
		ID: v[0], Leader: leader, Name: v[2], User: v[3], Partition: v[4], Word: strings.TrimSuffix(word, "+"), Nodes: slurmjob.Present(v[10]),
	}
	if het {
		if _, err := fmt.Sscanf(offset, "%d", &c.Offset); err != nil || c.Offset < 0 {
			return c, false, fmt.Errorf("the component number %.20q", offset)
		}
	}
	if c.Nodes == "None assigned" {
		c.Nodes = ""
	}
	if owner, key, ours := backends.ParseTag(v[11]); ours {
		c.Owner, c.Key = owner, key
	}
	for i, at := range map[int]*time.Time{7: &c.Submitted, 8: &c.Start, 9: &c.End} {
		if *at, err = parseTime(v[i]); err != nil {
			return c, false, err
		}
	}
	c.ExitCode, c.Signal, err = slurmjob.ParseExit(v[6])
	return c, true, err
}
