package translate_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

const fluent = "licenses.isthmus.sh/fluent"

// TestLicensesAndSwitches: a job has the licences of all its pods together, whatever
// kind they are of, and hosts as close as its pods want.
func TestLicensesAndSwitches(t *testing.T) {
	chief, worker, plain := newPod(0), newPod(1), newPod(2)
	main(chief).Resources.Limits = list(fluent, "2")
	chief.Annotations[wellknown.Licenses] = "db@server, fluent:3"
	worker.Spec.InitContainers = []corev1.Container{{Name: "first", Image: "x", Command: []string{"true"}, Resources: corev1.ResourceRequirements{Requests: list(fluent, "4")}}}
	main(worker).Resources.Requests[fluent] = list("x", "1")["x"]
	worker.Annotations[wellknown.Switches], plain.Annotations[wellknown.Switches] = "1@1:30:00", "1@90m"
	in := input(chief, worker, plain)
	in.Capabilities.Licenses, in.Capabilities.Switches = true, true
	in.Partition.Name, in.Licenses = "gpu", []string{"db@server", "fluent"}
	out, err := translate.Gang(in)
	if err != nil {
		t.Fatal(err)
	}
	if got := out.Spec.Licenses; len(got) != 2 || got["fluent"] != 2+3+4 || got["db@server"] != 1 {
		t.Errorf("the job asks for %v", got)
	}
	if got := out.Gang.Licenses; len(got) != 2 || got["fluent"] != 9 {
		t.Errorf("its directory tells of %v", got)
	}
	if out.Spec.Switches != 1 || out.Spec.SwitchesWait != 90*time.Minute {
		t.Errorf("%d switches after %s", out.Spec.Switches, out.Spec.SwitchesWait)
	}
	if len(out.Spec.Components) != 1 {
		t.Errorf("licences make kinds of pods: %+v", out.Spec.Components)
	}
	in.Members[1].Pod.Annotations[wellknown.Switches] = "2"
	refused(t, in, "metadata.annotations[isthmus.sh/switches]", "ask for the same")
}

func refused(t *testing.T, in translate.Input, field, words string) {
	t.Helper()
	_, err := translate.Gang(in)
	var r *translate.Refusal
	if !errors.As(err, &r) || r.Field != field || !r.Permanent || !strings.Contains(r.Message, words) {
		t.Errorf("got %v, want a refusal of %s that says %q", err, field, words)
	}
}

// TestAsksAreRefused by field, with the reason.
func TestAsksAreRefused(t *testing.T) {
	const licenses, switches = "metadata.annotations[isthmus.sh/licenses]", "metadata.annotations[isthmus.sh/switches]"
	resource := func(name, n string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { main(p).Resources.Limits = list("licenses.isthmus.sh/"+name, n) }
	}
	annotation := func(key, value string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Annotations[key] = value }
	}
	for name, tc := range map[string]struct {
		change       func(*corev1.Pod)
		input        func(*translate.Input)
		field, words string
	}{
		"unknown":              {resource("matlab", "1"), nil, "spec.containers[0].resources.limits[licenses.isthmus.sh/matlab]", "it has fluent"},
		"unknown, annotation":  {annotation(wellknown.Licenses, "matlab"), nil, licenses, "it has fluent"},
		"none there":           {resource("fluent", "1"), func(in *translate.Input) { in.Licenses = nil }, "spec.containers[0].resources.limits[licenses.isthmus.sh/fluent]", "has no licences"},
		"odd name, unread":     {annotation(wellknown.Licenses, "--uid=0"), func(in *translate.Input) { in.LicensesUnread = true }, licenses, "no name"},
		"not counted":          {resource("fluent", "1"), func(in *translate.Input) { in.Capabilities.Licenses = false }, "spec.containers[0].resources.limits[licenses.isthmus.sh/fluent]", "counts no licences"},
		"half a licence":       {resource("fluent", "500m"), nil, "spec.containers[0].resources.limits[licenses.isthmus.sh/fluent]", "whole"},
		"too many":             {resource("fluent", "2G"), nil, "spec.containers[0].resources.limits[licenses.isthmus.sh/fluent]", "more than"},
		"count":                {annotation(wellknown.Licenses, "fluent:x"), nil, licenses, "not a count"},
		"zero":                 {annotation(wellknown.Licenses, "fluent:0"), nil, licenses, "not a count"},
		"twice":                {annotation(wellknown.Licenses, "fluent,fluent:2"), nil, licenses, "twice"},
		"empty":                {annotation(wellknown.Licenses, ""), nil, licenses, "no name"},
		"an option":            {annotation(wellknown.Licenses, "--uid=0"), nil, licenses, "no name"},
		"switches of nothing":  {annotation(wellknown.Switches, ""), nil, switches, "not a number of switches"},
		"no switches":          {annotation(wellknown.Switches, "0"), nil, switches, "not a number of switches"},
		"switches for a while": {annotation(wellknown.Switches, "1@soon"), nil, switches, "the longest wait"},
		"switches, not served": {annotation(wellknown.Switches, "1"), func(in *translate.Input) { in.Capabilities.Switches = false }, switches, "cannot be asked for switches"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(0)
			tc.change(p)
			in := input(p)
			in.Capabilities.Licenses, in.Capabilities.Switches = true, true
			in.Partition.Name, in.Licenses = "gpu", []string{"fluent"}
			if tc.input != nil {
				tc.input(&in)
			}
			refused(t, in, tc.field, tc.words)
		})
	}
}

// TestUnreadLicenses: where the list of licences could not be read, names that it lacked
// last are left to the batch system, rather than refused for good.
func TestUnreadLicenses(t *testing.T) {
	p := newPod(0)
	p.Annotations[wellknown.Licenses] = "matlab:2"
	in := input(p)
	in.Capabilities.Licenses, in.Partition.Name, in.Licenses = true, "gpu", []string{"fluent"}
	_, err := translate.Gang(in)
	wantRefusal(t, err, "metadata.annotations[isthmus.sh/licenses]", true)
	in.LicensesUnread = true
	out, err := translate.Gang(in)
	if err != nil || out.Spec.Licenses["matlab"] != 2 {
		t.Errorf("licences %v, %v", out.Spec.Licenses, err)
	}
}
