package pbs

import (
	"strings"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// message is a part of what the commands say. The texts are those of PBS's and
// Torque's error tables; which of them were seen on a real server is in the
// tests.
type message struct {
	text string
	kind backends.Kind
}

// messages is searched from top to bottom and the first hit decides, so what
// leaves the outcome open comes first: a command may say several things.
func messages() []message {
	const (
		unknown   = backends.KindUnknownOutcome
		transient = backends.KindTransient
		throttled = backends.KindThrottled
		denied    = backends.KindDenied
		invalid   = backends.KindInvalid
	)
	return []message{
		// The connection was never made.
		{"Connection refused", transient},
		{"cannot connect to server", transient},
		{"Couldn't connect to cluster", transient},
		{"No route to host", transient},
		{"Unknown Host", transient},

		{"timed out", unknown},
		{"Timeout", unknown},
		{"Batch protocol error", unknown},
		{"Premature end of message", unknown},
		{"End of File", unknown},
		{"Communication failure", unknown},
		{"Connection reset by peer", unknown},
		{"Broken pipe", unknown},

		// Limits on how many jobs, which pass when others end.
		{"Maximum number of jobs already in queue", throttled},
		{"would exceed", throttled},
		{"per-user limit", throttled},
		{"per-group limit", throttled},
		{"per-project limit", throttled},
		{"Too many submit retries", throttled},
		{"Resource temporarily unavailable", throttled},

		{"Server shutting down", transient},
		{"Server is shutting down", transient},
		{"Queue is not enabled", transient},
		{"Queue not enabled", transient},
		{"System error occurred", unknown},
		{"Internal server error occurred", unknown},
		{"Server could not connect to MOM", transient},

		{"Unauthorized Request", denied},
		{"Access to queue is denied", denied},
		{"Bad UID for job execution", denied},
		{"Bad GID for job execution", denied},
		{"Access from host not allowed", denied},
		{"Invalid credential", denied},
		{"User not in ACL", denied},
		{"No Permission", denied},

		{"Unknown resource", invalid},
		{"Unknown queue", invalid},
		{"Unknown node-attribute", invalid},
		{"Undefined attribute", invalid},
		{"Illegal attribute or resource value", invalid},
		{"Resource invalid in", invalid},
		{"Job violates queue and/or server resource limits", invalid},
		{"Job exceeds queue resource limits", invalid},
		{"Job exceeds queue and/or server resource limits", invalid},
		{"Cannot set attribute", invalid},
		{"Job rejected by all possible destinations", invalid},
		{"cannot locate feasible nodes", invalid},
		{"nonexistent property", invalid},
		{"cannot send environment with the job", invalid},
		{"script file:", invalid},
		{"Job name is too long", invalid},
		{"Jobs cannot have", invalid},
		{"illegal -", invalid},
		{"invalid option", invalid},
		{"usage:", invalid},
		{"Illegally formed job identifier", invalid},
		{"illegally formed job identifier", invalid},
	}
}

// classify gives the kind of what a command said. What is not known leaves the
// outcome open.
func classify(text string) backends.Kind {
	for _, m := range messages() {
		if strings.Contains(text, m.text) {
			return m.kind
		}
	}
	return backends.KindUnknownOutcome
}

// submitKind is classify for a failed qsub. One that a signal ended may have got
// through, whatever it complained of before. Exit codes of PBS's commands are
// the lowest byte of an error number, which starts at 15001, so those of a
// signal are told by the text that comes with every other.
func submitKind(res transport.Result) backends.Kind {
	text := res.Said()
	if text == "" {
		return backends.KindUnknownOutcome
	}
	return classify(text)
}

// The numbers that a server gives its complaints about jobs that are not there:
// 15001, 15139 and 15140, of which a command's exit code keeps the lowest byte.
const (
	textUnknownJob = "Unknown Job Id"
	textFinished   = "Job has finished"
	textNoHistory  = "not configured to maintain job history"
)

// ended reports that a command refused because the job is no longer there, no
// longer held, or about to end.
func ended(text string) bool {
	for _, m := range []string{
		textUnknownJob, textFinished, textNoHistory,
		// Torque's completed jobs, and those that are just ending.
		"Request invalid for state of job", "invalid state for job",
	} {
		if strings.Contains(text, m) {
			return true
		}
	}
	return false
}
