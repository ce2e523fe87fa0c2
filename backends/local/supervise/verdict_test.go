package supervise

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/local/jobdir"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestVerdict(t *testing.T) {
	now := time.Unix(9, 0)
	exit := func(code int) syscall.WaitStatus { return syscall.WaitStatus(code << 8) }
	killed := syscall.WaitStatus(9)
	for name, c := range map[string]struct {
		status syscall.WaitStatus
		cause  backends.State
		want   jobdir.End
	}{
		"success":                     {exit(0), "", jobdir.End{State: backends.StateCompleted, Time: now}},
		"failure":                     {exit(3), "", jobdir.End{State: backends.StateFailed, ExitCode: 3, Reason: ReasonNonZero, Time: now}},
		"crash":                       {killed, "", jobdir.End{State: backends.StateFailed, Signal: 9, Reason: ReasonNonZero, Time: now}},
		"cancelled, ended well":       {exit(0), backends.StateCancelled, jobdir.End{State: backends.StateCancelled, Reason: "why", Time: now}},
		"timed out, had to be killed": {killed, backends.StateTimeout, jobdir.End{State: backends.StateTimeout, Signal: 9, Reason: "why", Time: now}},
	} {
		t.Run(name, func(t *testing.T) {
			reason := ""
			if c.cause != "" {
				reason = "why"
			}
			if got := verdict(c.status, c.cause, reason, now); got != c.want {
				t.Fatalf("%+v, want %+v", got, c.want)
			}
		})
	}
}

func TestMainRefusesNonsense(t *testing.T) {
	for _, args := range [][]string{nil, {"a", "b"}, {stayArg}, {"relative"}, {stayArg, "relative"}, {"/a", "/b", "/c"}} {
		var said strings.Builder
		if code := Main(args, &said); code != 1 || said.Len() == 0 {
			t.Errorf("arguments %q: exit status %d and %q, want 1 and a reason", args, code, said.String())
		}
	}
}
