package slurmjob

import (
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/backends"
)

// StateOf maps the word that Slurm shows as a job's state: a base state, or
// the flag that hides it.
func StateOf(word string) backends.State {
	switch word {
	case "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD",
		"POWER_UP_NODE", "EXPEDITING":
		// CONFIGURING has hosts that still start; the job itself does not run.
		return backends.StatePending
	case "RUNNING", "RESIZING", "SIGNALING":
		return backends.StateRunning
	case "SUSPENDED", "STOPPED":
		return backends.StateSuspended
	case "COMPLETING", "STAGE_OUT":
		return backends.StateCompleting
	case "COMPLETED":
		return backends.StateCompleted
	case "FAILED":
		return backends.StateFailed
	case "CANCELLED":
		return backends.StateCancelled
	case "TIMEOUT", "DEADLINE":
		return backends.StateTimeout
	case "OUT_OF_MEMORY":
		return backends.StateOutOfMemory
	case "NODE_FAIL", "BOOT_FAIL":
		return backends.StateNodeFail
	case "PREEMPTED":
		return backends.StatePreempted
	}
	// REVOKED (it runs in another cluster of the federation), LAUNCH_FAILED,
	// RECONFIG_FAIL, UPDATE_DB and what comes after 26.05.
	return backends.StateUnknown
}

// rank orders states from least to most advanced.
func rank(s backends.State) int {
	switch s {
	case backends.StatePending:
		return 0
	case backends.StateUnknown:
		return 1
	case backends.StateRunning:
		return 2
	case backends.StateSuspended:
		return 3
	case backends.StateCompleting:
		return 4
	}
	return 5
}

// Held reports whether a component is pending and waits for somebody to release
// it.
func (c Component) Held() bool {
	return StateOf(c.Word) == backends.StatePending && heldFor(c)
}

// heldFor reports whether a pending component waits for somebody to release it.
func heldFor(r Component) bool {
	switch r.Word {
	case "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD":
		return true
	}
	switch r.Reason {
	case "JobHeldUser", "JobHeldAdmin", "JobHoldMaxRequeue", "ReservationDeleted",
		"launch_failed_requeued_held", "job_requeued_in_held_state":
		return true
	}
	// A held job has priority 0 whatever its reason. So has one that Slurm gave
	// up on (BadConstraints): that was released and is not held by anybody.
	return r.Unprioritised && !never(r.Reason)
}

// never reports whether a pending job's reason will not pass by itself: the job
// asks for what it can never get.
func never(reason string) bool {
	switch reason {
	case "PartitionTimeLimit", "PartitionNodeLimit", "BadConstraints", "InvalidAccount", "InvalidQOS",
		"DependencyNeverSatisfied", "MaxMemPerLimit", "AccountNotAllowed", "QOSNotAllowed",
		"QOSTimeLimit", "AssociationTimeLimit":
		return true
	}
	// Slurm names limits by who sets them and what they count; a limit of one
	// job stays exceeded, one of a group or user passes when other jobs end.
	if !strings.HasPrefix(reason, "Assoc") && !strings.HasPrefix(reason, "QOS") {
		return false
	}
	return strings.Contains(reason, "PerJob") || strings.Contains(reason, "PerNode") ||
		strings.Contains(reason, "MaxWallDuration") || strings.HasPrefix(reason, "QOSMin")
}

// Word gives the one word that Slurm's commands show for a base state and its
// flags, which newer versions of the REST API list one by one.
func Word(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	// The order is that of job_state_string in Slurm's slurm_protocol_defs.c;
	// flags that say nothing of what the job does are left out.
	for _, flag := range []string{
		"COMPLETING", "STAGE_OUT", "CONFIGURING", "RESIZING", "REQUEUE_FED", "REQUEUE_HOLD", "REQUEUED", "SPECIAL_EXIT",
		"STOPPED", "REVOKED", "RESV_DEL_HOLD", "SIGNALING",
	} {
		if slices.Contains(words, flag) {
			return flag
		}
	}
	return words[0]
}
