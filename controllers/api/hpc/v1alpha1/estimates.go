package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Estimates says whether the run time that is expected of a gang becomes the time
// limit of its job, when its pods name none (annotation isthmus.sh/walltime,
// activeDeadlineSeconds). A job with a limit starts earlier where the batch system
// backfills, and is ended when it takes longer.
type Estimates struct {
	// Limit is whose estimates do: "declared" those of the gang's owner
	// (spec.runningEstimate of a Job, annotation isthmus.sh/running-estimate);
	// "learnt" those and what runs of the same kind took before, which nobody
	// promised: such a job is ended when it takes longer than all of its like;
	// "none" no estimates. Default: declared.
	// +kubebuilder:validation:Enum=none;declared;learnt
	// +optional
	Limit string `json:"limit,omitempty"`
	// MarginPercent of the estimate is added to it. Default 50.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	// +optional
	MarginPercent *int32 `json:"marginPercent,omitempty"`
	// MinMargin is the least that is added; images are fetched and files copied
	// within it. Default 10m.
	// +optional
	MinMargin *metav1.Duration `json:"minMargin,omitempty"`
}

// The values of spec.walltime.estimates.limit.
const (
	EstimatesNone     = "none"
	EstimatesDeclared = "declared"
	EstimatesLearnt   = "learnt"
)

const (
	defaultMarginPercent = 50
	defaultMinMargin     = 10 * time.Minute
)

// LimitOf is the time limit that an expected run time gives.
func (e *Estimates) LimitOf(run time.Duration) time.Duration {
	percent, least := time.Duration(defaultMarginPercent), defaultMinMargin
	if e.MarginPercent != nil {
		percent = time.Duration(*e.MarginPercent)
	}
	if e.MinMargin != nil {
		least = e.MinMargin.Duration
	}
	return run + max(run/100*percent, least)
}
