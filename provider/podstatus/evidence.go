// Package podstatus says what the status of a pod is, given what is known of
// its batch job. Evidence ranks: the pod runner's status file comes before the
// end file, that before the batch system's word, that before silence. A
// terminal phase never changes back, and conditions of others are never
// touched. The package is pure: now is an argument.
package podstatus

import (
	"fmt"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// Evidence is what is known of one pod outside the API.
type Evidence struct {
	// Job is the recorded batch job as last observed; nil when there is none or
	// it was not in the last observation.
	Job *backends.Job
	// File is the pod runner's status of this very pod (same UID); nil without.
	File *manifest.Status
	// End is the launcher's end of the whole gang; nil without.
	End *manifest.End
	// BatchLogTail explains a launcher that failed.
	BatchLogTail string
	// WaitingReason and WaitingMessage are what the provider itself waits for
	// before there is a batch job that can tell.
	WaitingReason, WaitingMessage string
	// Images are those that have to be there before there is a batch job; those
	// that are not keep their containers waiting.
	Images []manifest.PulledImage
	// RefusedReason and RefusedMessage say that the pod can never be submitted.
	RefusedReason, RefusedMessage string
	// Unmet says what the pod comes after and did not succeed: a job that ended before
	// it started did so for this.
	Unmet string
	// Behind are the batch jobs that the pod's own waits for.
	Behind string
	// FileEndSeen is when the file was first seen to tell an end, JobEndSeen when
	// the job was first seen ended; zero when nobody did. They are of the same clock as now, which the times in File and Job need
	// not be.
	FileEndSeen, JobEndSeen time.Time
	// Lost: the recorded job is absent from complete observations beyond the
	// grace, and no evidence of its end was found.
	Lost bool
}

// Same gives a text that is equal for equal evidence, far cheaper than a status.
// It is lasting when the status it leads to does not depend on the time: that of
// a pod that runs, or for which there is nothing but what the provider waits for.
func Same(ev Evidence) (text string, lasting bool) {
	if ev.End != nil || ev.Lost {
		return "", false
	}
	f, job := ev.File, ev.Job
	switch {
	case f == nil && job == nil:
		return fmt.Sprintf("%q %q %q %q", ev.WaitingReason, ev.WaitingMessage, ev.RefusedReason, ev.RefusedMessage), true
	case f == nil || job == nil || f.Phase.Terminal() || job.State != backends.StateRunning || f.Restart < job.Restarts:
		return "", false
	}
	// The runner counts its writes, from zero again when it starts anew: then the
	// containers' states tell the two apart.
	text = fmt.Sprintf("%s %s %d %s %s %d.%d %d", job.ID, job.Partition, job.Restarts, job.Hosts, f.Phase, f.Restart, f.Seq, f.StartedAt.UnixNano())
	for _, list := range [][]manifest.Container{f.InitContainers, f.Containers, f.Ephemeral} {
		for i := range list {
			c := &list[i]
			text += fmt.Sprintf(" %d%t%t%t%t", c.RestartCount, c.Ready, c.Started, c.State.Running != nil, c.State.Terminated != nil)
		}
	}
	return text, true
}
