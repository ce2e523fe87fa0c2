// Package podstatus says what the status of a pod is, given what is known of
// its batch job. Evidence ranks: the pod runner's status file comes before the
// end file, that before the batch system's word, that before silence. A
// terminal phase never changes back, and conditions of others are never
// touched. The package is pure: now is an argument.
package podstatus

import (
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
	// Lost: the recorded job is absent from complete observations beyond the
	// grace, and no evidence of its end was found.
	Lost bool
}
