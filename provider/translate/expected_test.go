package translate_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// TestExpectedRun: what is expected of a gang limits its job where that counts, and
// what a pod asks for by itself counts for more.
func TestExpectedRun(t *testing.T) {
	told := func(seconds, from string) map[string]string {
		return map[string]string{wellknown.ExpectedRun: seconds, wellknown.ExpectedRunFrom: from}
	}
	dur := func(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }
	learnt := hpcv1alpha1.Estimates{Limit: hpcv1alpha1.EstimatesLearnt}
	for name, tc := range map[string]struct {
		annotations map[string]string
		deadline    *int64
		walltime    hpcv1alpha1.Walltime
		want        time.Duration
	}{
		"declared, with half of it":   {annotations: told("7200", "declared"), want: 3 * time.Hour},
		"a short one, with the least": {annotations: told("60", "declared"), want: 11 * time.Minute},
		"learnt ends nobody":          {annotations: told("7200", "learnt")},
		"learnt, and the default":     {annotations: told("7200", "learnt"), walltime: hpcv1alpha1.Walltime{Default: dur(time.Hour)}, want: time.Hour},
		"learnt where that counts":    {annotations: told("7200", "learnt"), walltime: hpcv1alpha1.Walltime{Estimates: learnt}, want: 3 * time.Hour},
		"declared where learnt does":  {annotations: told("7200", "declared"), walltime: hpcv1alpha1.Walltime{Estimates: learnt}, want: 3 * time.Hour},
		"more than the default":       {annotations: told("7200", "declared"), walltime: hpcv1alpha1.Walltime{Default: dur(time.Hour)}, want: 3 * time.Hour},
		"none count": {annotations: told("7200", "declared"), walltime: hpcv1alpha1.Walltime{
			Default: dur(time.Hour), Estimates: hpcv1alpha1.Estimates{Limit: hpcv1alpha1.EstimatesNone}}, want: time.Hour},
		"margins of the cluster": {annotations: told("7200", "declared"), walltime: hpcv1alpha1.Walltime{
			Estimates: hpcv1alpha1.Estimates{MarginPercent: new(int32(10)), MinMargin: dur(0)}}, want: 132 * time.Minute},
		"cut to the limit":           {annotations: told("7200", "declared"), walltime: hpcv1alpha1.Walltime{Max: dur(time.Hour)}, want: time.Hour},
		"the pod's own, unscheduled": {annotations: map[string]string{wellknown.RunningEstimate: "2h"}, want: 3 * time.Hour},
		"a walltime counts for more": {annotations: map[string]string{wellknown.RunningEstimate: "2h", wellknown.Walltime: "20m"}, want: 20 * time.Minute},
		"a deadline as well":         {annotations: told("60", "declared"), deadline: new(int64(600)), want: 11*time.Minute + 30*time.Second},
		"for ever":                   {annotations: told("9223372036854775807", "declared"), want: 366 * 24 * time.Hour},
		"nonsense":                   {annotations: map[string]string{wellknown.ExpectedRun: "-5", wellknown.ExpectedRunFrom: "declared", wellknown.RunningEstimate: "--mem=1"}},
		"nobody says who":            {annotations: told("7200", "")},
	} {
		t.Run(name, func(t *testing.T) {
			p, q := newPod(0), newPod(1)
			p.Annotations, p.Spec.ActiveDeadlineSeconds = tc.annotations, tc.deadline
			in := input(p, q)
			in.Cluster.Spec.Walltime = tc.walltime
			out, err := translate.Gang(in)
			if err != nil || out.Spec.Walltime != tc.want {
				t.Fatalf("walltime %s (%v), want %s", out.Spec.Walltime, err, tc.want)
			}
			if told := strings.Contains(strings.Join(out.Notes, "\n"), "and a margin (spec.walltime.estimates of BatchCluster c)"); told != (tc.want > 2*time.Hour || tc.want == 11*time.Minute || tc.walltime.Max != nil) {
				t.Errorf("notes are %q", out.Notes)
			}
		})
	}
}
