package slurmjob

import (
	"strings"

	"github.com/isthmus-hpc/isthmus/backends"
)

// message is a part of what Slurm's commands say; the texts are those of
// slurm_strerror, stable from 22.05 to 25.11.
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
		// The request never left: it could not even be signed.
		{"auth_g_create", transient},
		{"Munge encode failed", transient},

		{"Socket timed out on send/recv", unknown},
		// Said of a request that was refused and of an answer that was.
		{"Protocol authentication error", unknown},
		{"Zero Bytes were transmitted or received", unknown},
		{"Unexpected message received", unknown},
		{"Message receive failure", unknown},
		{"Header lengths are longer than data received", unknown},
		{"Connection reset by peer", unknown},
		{"Connection timed out", unknown},
		// Said of any failed exchange with the controller, though mostly of one
		// that never began.
		{"Unable to contact slurm controller", unknown},

		{"Rate limit exceeded", throttled},
		{"Job violates accounting/QOS policy", throttled},
		{"Slurm temporarily unable to accept job", throttled},
		{"Unable to create job record", throttled},
		{"Resource temporarily unavailable", throttled},

		{"System submissions disabled", transient},
		{"backup controller in standby mode", transient},
		{"Controller is in standby mode", transient},
		{"Could not establish a configuration source", transient},
		{"Requested partition not available", transient},
		{"partition is down", transient},
		{"Requested reservation not usable", transient},
		{"Requested reservation is invalid", invalid},
		{"Job can not be altered now", transient},
		{"Unable to process configuration file", transient},
		{"Incompatible versions of client and server", transient},

		{"Access/permission denied", denied},
		{"Access denied", denied},
		{"Invalid user id", denied},
		{"User's group not permitted", denied},
		{"Invalid account or account/partition combination", invalid},
		{"Invalid partition name", invalid},
		{"invalid partition specified", invalid},
		{"Invalid qos", invalid},
		{"Invalid generic resource", invalid},
		{"Invalid Trackable RESource", invalid},
		{"Invalid feature", invalid},
		{"Invalid node name", invalid},
		{"Invalid license", invalid},
		{"Invalid job constraint", invalid},
		{"Requested node configuration is not available", invalid},
		{"Requested time limit is invalid", invalid},
		{"Node count specification invalid", invalid},
		{"More processors requested than permitted", invalid},
		{"Memory required by task is not available", invalid},
		{"Memory specification can not be satisfied", invalid},
		{"CPU count per node can not be satisfied", invalid},
		{"Job dependency problem", invalid},
		{"Pathname of a file, directory or other parameter too long", invalid},
		// The command's own complaints about its arguments.
		{"unrecognized option", invalid},
		{"Invalid --", invalid},
		{"invalid option", invalid},
		{"Invalid job id", invalid},
	}
}

// Classify gives the kind of what a command said. What is not known leaves the
// outcome open.
func Classify(text string) backends.Kind {
	for _, m := range messages() {
		if strings.Contains(text, m.text) {
			return m.kind
		}
	}
	return backends.KindUnknownOutcome
}

// Ended reports that Slurm refused because the job is no longer there or
// no longer held, which is what was wanted.
func Ended(text string) bool {
	for _, m := range []string{
		"Invalid job id specified", "Job has already finished", "Job/step already completing or completed",
		"Job is no longer pending execution",
	} {
		if strings.Contains(text, m) {
			return true
		}
	}
	return false
}

// KindOfNumber gives the kind of one of Slurm's error numbers, "" for one that
// says too little. The numbers are those of slurm_errno.h, which only ever adds
// to them.
func KindOfNumber(n int) backends.Kind {
	switch n {
	case 1000, // an answer that was not expected, also none at all
		1001, 1002, 1003, 1004, 1008, 1013, // communication with any daemon
		1800, 1801, 1802, 1803, // communication with the controller
		5000, 5001, 5002, 5003, 5004, 5005, // half a message, time-out
		1007: // said of a request that was refused and of an answer that was
		return backends.KindUnknownOutcome
	case 1804, 2007, 2050: // back off; no job record to be had; a limit on submitted jobs
		return backends.KindThrottled
	case 1005, 2020, 2027, 2037, 2056, 2061, 2070, 2079, 2101, 2103, 2105, 2131: // busy, standby, down, disabled for now
		return backends.KindTransient
	case 2002, 2003, 2010, 2052, 2113:
		return backends.KindDenied
	case 2000, 2001, 2004, 2005, 2006, 2008, 2009, 2012, 2014, 2017, 2018, 2023, 2025, 2029, 2036, 2038, 2041, 2044, 2045,
		2048, 2051, 2053, 2054, 2057, 2066, 2069, 2072, 2102, 2114, 2115, 2119, 2122, 2124, 2127, 2130, 2133,
		8000, 9000, 9001, 9002:
		return backends.KindInvalid
	}
	if Credential(n) {
		return backends.KindDenied
	}
	return ""
}

// Credential reports whether an error number says that the request's own
// credential was not taken: nothing was done, and repeating it is of no use.
func Credential(n int) bool { return n >= 6000 && n <= 6008 }

// EndedNumber is Ended for error numbers.
func EndedNumber(n int) bool {
	switch n {
	case 2017, 2021, 2073, 2084: // unknown, completing, no longer pending, finished
		return true
	}
	return false
}
