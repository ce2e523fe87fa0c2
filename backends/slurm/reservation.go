package slurm

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/hostlist"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

var _ backends.Reserver = (*Backend)(nil)

// reservationFlags: what runs on the hosts when it begins does not forbid the
// reservation, and its jobs are bound neither to its hosts nor to its time. Without
// FLEX Slurm kills them at the end of it.
const reservationFlags = "FLEX,IGNORE_JOBS"

// maxHostList is far below what one argument may have (128 KiB on Linux).
const maxHostList = 64 << 10

// Reservations lists the reservations with the owner's tag.
func (b *Backend) Reservations(ctx context.Context, owner string) ([]backends.Reservation, error) {
	out, _, err := b.query(ctx, "reserve", "scontrol", "--oneliner", "--all", "show", "reservation")
	if err != nil {
		return nil, err
	}
	all, err := parseOwnReservations(out, owner)
	if err != nil {
		return nil, &backends.Error{Op: "reserve", Kind: backends.KindTransient, Err: fmt.Errorf("read the list of reservations: %w", err)}
	}
	return all, nil
}

// parseOwnReservations gives the reservations of an owner, by name.
func parseOwnReservations(out, owner string) ([]backends.Reservation, error) {
	all, err := records(out, "ReservationName")
	if err != nil {
		return nil, err
	}
	var own []backends.Reservation
	for _, r := range all {
		name := r["ReservationName"]
		if !backends.OwnsReservation(owner, name) {
			continue
		}
		v := backends.Reservation{Name: name, Active: r["State"] == "ACTIVE"}
		if v.Hosts, err = hostlist.Expand(slurmjob.Present(r["Nodes"]), slurmjob.MaxHosts); err != nil {
			return nil, fmt.Errorf("reservation %.80q: %w", name, err)
		}
		slices.Sort(v.Hosts)
		if users := slurmjob.Present(r["Users"]); users != "" {
			v.Users = strings.Split(users, ",")
			slices.Sort(v.Users)
		}
		for field, into := range map[string]*time.Time{"StartTime": &v.Start, "EndTime": &v.End} {
			seconds, err := strconv.ParseInt(r[field], 10, 64)
			if err != nil || seconds < 0 {
				return nil, fmt.Errorf("reservation %.80q: %s: %.40q is not a time", name, field, r[field])
			}
			*into = time.Unix(seconds, 0).UTC()
		}
		own = append(own, v)
	}
	slices.SortFunc(own, func(a, b backends.Reservation) int { return strings.Compare(a.Name, b.Name) })
	return own, nil
}

// Reserve makes a reservation or changes it. Slurm lets operators of its accounting
// database do that, and SlurmUser and root.
func (b *Backend) Reserve(ctx context.Context, owner string, r backends.Reservation) error {
	if err := r.Validate(owner); err != nil {
		return &backends.Error{Op: "reserve", Kind: backends.KindInvalid, Err: err}
	}
	if n := len(hostlist.Compress(r.Hosts)); n > maxHostList {
		return &backends.Error{Op: "reserve", Kind: backends.KindInvalid, Err: fmt.Errorf("hosts: %d bytes as a host list, more than %d: reserve fewer nodes at once", n, maxHostList)}
	}
	have, err := b.Reservations(ctx, owner)
	if err != nil {
		return err
	}
	now := time.Now()
	at := slices.IndexFunc(have, func(h backends.Reservation) bool { return h.Name == r.Name })
	if at < 0 {
		return b.administer(ctx, append([]string{"scontrol", "create", "reservation"}, reservationArgs(r, now, nil)...)...)
	}
	changes := r.Unlike(have[at], now)
	if len(changes) == 0 {
		return nil
	}
	return b.administer(ctx, append([]string{"scontrol", "update"}, reservationArgs(r, now, changes)...)...)
}

// reservationArgs describes r to scontrol, or with changes those parts of it. Times
// are read in the time zone of the command, which is UTC.
func reservationArgs(r backends.Reservation, now time.Time, changes []string) []string {
	const form = "2006-01-02T15:04:05"
	start := "now"
	if r.Start.After(now) {
		start = r.Start.UTC().Format(form)
	}
	args := []string{"reservationname=" + r.Name}
	for _, part := range [][2]string{
		{"start", "starttime=" + start}, {"end", "endtime=" + r.End.UTC().Format(form)},
		{"hosts", "nodes=" + hostlist.Compress(r.Hosts)}, {"users", "users=" + strings.Join(r.Users, ",")},
	} {
		if changes == nil || slices.Contains(changes, part[0]) {
			args = append(args, part[1])
		}
	}
	if changes == nil {
		args = append(args, "flags="+reservationFlags)
	}
	return args
}

// Unreserve takes the jobs out of a reservation and deletes it. Slurm deletes none
// that a job names, and holds for ever those that wait in one that is over.
func (b *Backend) Unreserve(ctx context.Context, owner, name string) error {
	if !backends.OwnsReservation(owner, name) {
		return &backends.Error{Op: "reserve", Kind: backends.KindInvalid, Err: fmt.Errorf("name: %.80q is not a name of owner %.80q", name, owner)}
	}
	have, err := b.Reservations(ctx, owner)
	if err != nil || !slices.ContainsFunc(have, func(h backends.Reservation) bool { return h.Name == name }) {
		return err
	}
	out, _, err := b.query(ctx, "reserve", "squeue", "--noheader", "--all", "--reservation="+name, "--format=%A")
	if err != nil {
		return err
	}
	var ids []string
	for id := range strings.FieldsSeq(out) {
		if !slurmjob.ValidID(id) {
			return &backends.Error{Op: "reserve", Kind: backends.KindTransient, Err: fmt.Errorf("squeue gives the job %.80q", id)}
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	switch err := b.move(ctx, slices.Compact(ids), ""); backends.KindOf(err) {
	case backends.KindDenied, backends.KindUnknownOutcome:
		return err
	} // else Slurm tells whether a job is in it yet
	return b.administer(ctx, "scontrol", "delete", "reservationname="+name)
}

// Join takes jobs into a reservation.
func (b *Backend) Join(ctx context.Context, owner, name string, jobs []backends.JobRef) error {
	invalid := func(format string, args ...any) error {
		return &backends.Error{Op: "reserve", Kind: backends.KindInvalid, Err: fmt.Errorf(format, args...)}
	}
	if !backends.OwnsReservation(owner, name) {
		return invalid("name: %.80q is not a name of owner %q", name, owner)
	}
	var ids []string
	for _, j := range jobs {
		if !slurmjob.ValidID(string(j.ID)) {
			return invalid("%.40q is not a job id", string(j.ID))
		}
		ids = append(ids, string(j.ID))
	}
	return b.move(ctx, ids, name)
}

// move takes jobs into a reservation, or with "" out of theirs. One that has ended
// meanwhile is a complaint, and none to heed. scontrol goes on after a job that it
// complains of, and so does this; the first complaint is told when all were tried.
func (b *Backend) move(ctx context.Context, ids []string, name string) error {
	var first error
	for jobs := range slices.Chunk(ids, jobsAtOnce) {
		res, err := b.asOperator(ctx, "scontrol", "update", "jobid="+strings.Join(jobs, ","), "reservationname="+name)
		if err != nil {
			return err // it would be so with the next as well
		}
		if complaint := unmoved(res); complaint != "" && first == nil {
			first = refused(complaint, res)
		}
	}
	return first
}

// unmoved is what scontrol complains of that is more than jobs which do not wait any
// more; "" for nothing. It has a line for each job, and one at the end that repeats
// one of them or tells of something else.
func unmoved(res transport.Result) string {
	if res.Exit == 0 {
		return ""
	}
	var jobs, all []string
	for line := range strings.Lines(string(res.Stderr)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		all = append(all, line)
		if !strings.HasPrefix(line, "slurm_update error") {
			jobs = append(jobs, line)
		}
	}
	if len(jobs) == 0 {
		jobs = all
	}
	if len(jobs) == 0 {
		return cmp.Or(res.Said(), "nothing said")
	}
	return strings.Join(slices.DeleteFunc(jobs, func(line string) bool {
		return slurmjob.Ended(line) || strings.Contains(line, "Job is not pending nor running")
	}), " ")
}

// administer runs a command that takes an operator's rights. All of them are safe to
// repeat, since what is there is looked at before.
func (b *Backend) administer(ctx context.Context, argv ...string) error {
	res, err := b.asOperator(ctx, argv...)
	if err != nil || res.Exit == 0 {
		return err
	}
	return refused(res.Said(), res)
}

// asOperator runs it; the error is that it may not have run.
func (b *Backend) asOperator(ctx context.Context, argv ...string) (transport.Result, error) {
	res, started, err := b.run(ctx, command{argv: argv, timeout: b.config.QueryTimeout, env: []string{"TZ=UTC"}})
	kind := backends.KindUnknownOutcome
	switch {
	case err == nil:
		return res, nil
	case !started:
		kind = notDone(err)
	}
	return res, &backends.Error{Op: "reserve", Kind: kind, Err: err}
}

// refused is the error of what a command complained of, as it is read.
func refused(complaint string, res transport.Result) error {
	return &backends.Error{Op: "reserve", Kind: reserveKind(complaint), Err: fmt.Errorf("scontrol exited with %d: %s", res.Exit, res.Said())}
}

// reserveKind is slurmjob.Classify for what is said of reservations alone.
func reserveKind(text string) backends.Kind {
	for _, m := range []string{
		"Requested nodes are busy", "Requested reservation overlaps with another reservation",
		"Requested reservation is in use",  // a job was submitted into it meanwhile
		"Requested reservation is invalid", // it ended meanwhile
		"Requested operation is presently disabled",
	} {
		if strings.Contains(text, m) {
			return backends.KindTransient
		}
	}
	return slurmjob.Classify(text)
}
