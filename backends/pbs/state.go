package pbs

import (
	"strconv"
	"strings"

	"github.com/isthmus-hpc/isthmus/backends"
)

// stateOf maps the letter that qstat gives as a job's state while it lives; ok
// is false for one that has ended.
func stateOf(letter string) (state backends.State, live bool) {
	switch letter {
	case "Q", "H", "W", "T":
		// W waits for its time, or for another try after a failed stage-in; T is
		// on its way to another queue.
		return backends.StatePending, true
	case "R":
		return backends.StateRunning, true
	case "S", "U":
		return backends.StateSuspended, true
	case "E":
		return backends.StateCompleting, true
	case "F", "C", "X":
		return "", false
	}
	// M (moved to another server), B (an array's, which we never make) and what
	// is not known yet.
	return backends.StateUnknown, true
}

// Substates of a finished job, as recorded on 23.06.
const (
	substateDeleted = "91"
	substateFailed  = "93"
)

// outcome is how a job ended.
type outcome struct {
	state  backends.State
	exit   int
	signal int
	reason string
}

// outcomeOf maps Exit_status: the script's own code, 256 and the signal that
// ended it, or a negative number with which the host tells its own reason.
func outcomeOf(dialect Dialect, status int) outcome {
	o := outcome{state: backends.StateFailed}
	switch {
	case status == 0:
		o.state = backends.StateCompleted
	case status >= 256:
		o.signal = status & 0x7f
		o.reason = "signal " + strconv.Itoa(o.signal)
	case status > 128 && status <= 128+64:
		// The batch script is a shell, which gives the signal of its child so.
		// The child is podrun, which itself exits with 0, 1 or 2.
		o.signal = status - 128
	case status > 0:
		o.exit = status
	case dialect == Torque:
		o.state, o.reason = torqueCode(status)
	default:
		o.state, o.reason = proCode(status)
	}
	return o
}

func proCode(status int) (backends.State, string) {
	switch status {
	case -1, -2, -3:
		return backends.StateNodeFail, "the job could not be started on its host"
	case -4, -5, -6, -7, -11:
		return backends.StateNodeFail, "the host's daemon was started anew while the job ran"
	case -10:
		return backends.StateFailed, "the host does not accept the job's user or group"
	case -12:
		return backends.StateNodeFail, "the job was to run again"
	case -13, -21, -23:
		return backends.StateFailed, "the host refused the job's credentials"
	case -14, -15, -16, -17, -18, -19, -22:
		return backends.StateFailed, "a hook of the site rejected the job on its host"
	case -20:
		return backends.StateNodeFail, "one of the job's hosts was lost"
	case -24, -25:
		return backends.StateFailed, "more CPU was used than asked for"
	case -26, -27:
		return backends.StateOutOfMemory, "more memory was used than asked for"
	case -28, -29:
		return backends.StateTimeout, "the run-time limit was reached"
	}
	return backends.StateFailed, "exit status " + strconv.Itoa(status)
}

func torqueCode(status int) (backends.State, string) {
	switch status {
	case -1, -2, -3, -13, -14:
		return backends.StateNodeFail, "the job could not be started on its host"
	case -4, -5, -6, -7:
		return backends.StateNodeFail, "the host's daemon was started anew while the job ran"
	case -8, -9:
		return backends.StateFailed, "the host could not run the script"
	case -10:
		return backends.StateOutOfMemory, "more memory was used than asked for"
	case -11, -12:
		return backends.StateTimeout, "the run-time limit was reached"
	}
	return backends.StateFailed, "exit status " + strconv.Itoa(status)
}

// ending maps a job that qstat shows as ended.
func ending(dialect Dialect, b *block) outcome {
	comment := b.get("comment")
	text := b.get("exit_status")
	status, err := strconv.Atoi(text)
	switch {
	case givenUp(b):
		return outcome{state: backends.StateCancelled, reason: reasonDependency}
	case text == "" || err != nil:
		// Ended without a run: deleted while it waited.
		o := outcome{state: backends.StateCancelled}
		if b.get("stime") != "" && b.get("substate") != substateDeleted {
			o = outcome{state: backends.StateFailed, reason: "no exit status is known"}
		}
		return o
	case strings.Contains(comment, "preempted") && b.get("substate") == substateDeleted:
		o := outcomeOf(dialect, status)
		o.state, o.reason = backends.StatePreempted, "preempted"
		return o
	}
	o := outcomeOf(dialect, status)
	if b.get("substate") == substateDeleted && status >= 0 {
		o.state, o.reason = backends.StateCancelled, ""
	}
	return o
}

// never reports whether a waiting job's comment says that it will not run as it
// was submitted: the scheduler writes so of what no host could ever give.
func never(comment string) bool { return strings.HasPrefix(comment, "Can Never Run") }

// reasonDependency is why a job waits, or ended, that comes after others, in Slurm's word.
const reasonDependency = "Dependency"

// holdReason names who holds a job, in words that are the same for all batch
// systems: only a job that its own user holds may be released by him. The system's hold
// of one that comes after others is none that anybody has to take off.
func holdReason(types string, behindOthers bool) (held bool, reason string) {
	switch {
	case strings.Contains(types, "o"), strings.Contains(types, "s") && !behindOthers:
		return true, "JobHeldAdmin"
	case strings.Contains(types, "u"):
		return true, "JobHeldUser"
	case behindOthers:
		return false, reasonDependency
	}
	return false, ""
}
