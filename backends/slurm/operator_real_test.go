package slurm_test

import (
	"context"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurm"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// as runs the daemon's own commands as a user.
type as struct {
	transport.Runner
	user string
}

func (a as) Run(ctx context.Context, cmd transport.Command) (transport.Result, error) {
	if cmd.User == "" {
		cmd.User = a.user
	}
	return a.Runner.Run(ctx, cmd)
}

// reserveAsOperator: an account without rights is denied a reservation, and gets it once
// an administrator has said what the guide tells him to.
func reserveAsOperator(t *testing.T, c *testbed.Cluster) {
	t.Helper()
	b, err := slurm.New(slurm.Config{Runner: as{local.New(), account.Bob}, Env: c.Env()})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second).UTC()
	r := backends.Reservation{Name: backends.ReservationName("asks", "one"), Hosts: []string{"n1"}, Users: []string{account.Alice}, Start: now.Add(time.Hour), End: now.Add(2 * time.Hour)}
	if err := b.Reserve(t.Context(), "asks", r); backends.KindOf(err) != backends.KindDenied {
		t.Errorf("without the right: %v", err)
	}
	if _, err := c.Run(t.Context(), "sacctmgr", "--immediate", "modify", "user", account.Bob, "set", "adminlevel=operator"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; <-time.After(200 * time.Millisecond) { // the database tells the controller
		if err = b.Reserve(t.Context(), "asks", r); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("with the right, after a minute: %v", err)
		}
	}
	if err := b.Unreserve(t.Context(), "asks", r.Name); err != nil {
		t.Error(err)
	}
}
