package slurm_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// A job that has ended is none to take into a reservation; whatever else keeps one out
// is told, and no job of a later command goes without for it.
func TestJoinComplaints(t *testing.T) {
	const ended, denied = "Invalid job id specified for job 1\n", "Access/permission denied for job 2\n"
	for _, tc := range []struct {
		name, said string
		exit       int
		want       backends.Kind // "" for none
	}{
		{"done", "", 0, ""},
		{"ended", ended + "slurm_update error: Invalid job id specified\n", 1, ""},
		{"ended, and a last line of something else", ended + "Job has already finished for job 3\nslurm_update error: Resource temporarily unavailable\n", 1, ""},
		{"suspended", "Job is not pending nor running for job 1\n", 1, ""},
		{"not for its user", denied + "slurm_update error: Access/permission denied\n", 1, backends.KindDenied},
		{"one of each", ended + denied + "slurm_update error: Invalid job id specified\n", 1, backends.KindDenied},
		{"a last line alone", "slurm_update error: Access/permission denied\n", 1, backends.KindDenied},
		{"unsigned", "scontrol: error: Munge encode failed: Failed to access \"/run/munge/munge.socket.2\"\n", 1, backends.KindTransient},
		{"standby", "Slurm backup controller in standby mode for job 1\n", 1, backends.KindTransient},
		{"too fast", "Rate limit exceeded, please retry momentarily for job 1\n", 1, backends.KindThrottled},
		{"gone meanwhile", "Requested reservation is invalid for job 1\n", 1, backends.KindTransient},
		{"nothing said", "", 1, backends.KindUnknownOutcome},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &replay{}
			r.answer = func(transport.Command) (transport.Result, error) {
				if len(r.asked) > 1 {
					return transport.Result{}, nil
				}
				return transport.Result{Exit: tc.exit, Stderr: []byte(tc.said)}, nil
			}
			if err := join(t, r, 150); backends.KindOf(err) != tc.want {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if len(r.asked) != 2 || !strings.HasPrefix(r.asked[1].Argv[2], "jobid=101,") {
				t.Errorf("%d commands, of 100 jobs each: %v", len(r.asked), r.asked)
			}
		})
	}
	for name, tc := range map[string]struct {
		err  error
		want backends.Kind
	}{
		"not started": {fmt.Errorf("ssh: %w", transport.ErrNotStarted), backends.KindTransient},
		"cut off":     {errors.New("broken pipe"), backends.KindUnknownOutcome},
	} {
		r := &replay{answer: func(transport.Command) (transport.Result, error) { return transport.Result{}, tc.err }}
		if err := join(t, r, 150); backends.KindOf(err) != tc.want || len(r.asked) != 1 {
			t.Errorf("%s: %v after %d commands, want %s after one", name, err, len(r.asked), tc.want)
		}
	}
}

// join takes the jobs 1 to n into a reservation.
func join(t *testing.T, r *replay, n int) error {
	t.Helper()
	var jobs []backends.JobRef
	for i := range n {
		jobs = append(jobs, backends.JobRef{ID: backends.JobID(strconv.Itoa(i + 1))})
	}
	return backend(t, r).Join(t.Context(), "o", backends.ReservationName("o", "uid"), jobs)
}
