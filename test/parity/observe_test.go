package parity

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// observation is what a user sees of one run of a case: field to value. Values
// that must differ between any two runs stand as names in angle brackets.
type observation map[string]string

// pod adds what kubectl shows of a pod.
func (o observation) pod(p *corev1.Pod) {
	s := &p.Status
	o["phase"] = string(s.Phase)
	o["reason"], o["message"] = s.Reason, s.Message
	for _, c := range s.Conditions {
		value := string(c.Status)
		if c.Reason != "" {
			value += " " + c.Reason
		}
		if c.Message != "" {
			value += ": " + c.Message
		}
		o["condition."+string(c.Type)] = value
	}
	o["addresses"] = fmt.Sprintf("podIP %t, podIPs %d, hostIP %t, hostIPs %d", s.PodIP != "", len(s.PodIPs), s.HostIP != "", len(s.HostIPs))
	o["startTime"] = fmt.Sprint(!s.StartTime.IsZero())
	o["qosClass"] = string(s.QOSClass)
	runtimes := map[string]bool{}
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			o.container(&list[i])
			if runtime, _, ok := strings.Cut(list[i].ContainerID, "://"); ok {
				runtimes[runtime] = true
			}
		}
	}
	o["containerIDs"] = strings.Join(slices.Sorted(maps.Keys(runtimes)), " ")
}

func (o observation) container(c *corev1.ContainerStatus) {
	at := c.Name + "."
	o[at+"image"] = c.Image
	o[at+"restarts"] = fmt.Sprint(c.RestartCount)
	o[at+"ready"] = fmt.Sprint(c.Ready)
	o[at+"started"] = fmt.Sprint(c.Started != nil && *c.Started)
	o.state(at, c.State)
	o.state(at+"last.", c.LastTerminationState)
}

func (o observation) state(at string, s corev1.ContainerState) {
	switch {
	case s.Waiting != nil:
		o[at+"state"] = "waiting"
		o[at+"reason"], o[at+"message"] = s.Waiting.Reason, s.Waiting.Message
	case s.Running != nil:
		o[at+"state"] = "running"
	case s.Terminated != nil:
		o[at+"state"] = "terminated"
		o[at+"exitCode"], o[at+"signal"] = fmt.Sprint(s.Terminated.ExitCode), fmt.Sprint(s.Terminated.Signal)
		o[at+"reason"], o[at+"message"] = s.Terminated.Reason, s.Terminated.Message
		o[at+"times"] = fmt.Sprintf("started %t, finished %t", !s.Terminated.StartedAt.IsZero(), !s.Terminated.FinishedAt.IsZero())
	}
}

var (
	stamps     = regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d| \w+)?`)
	waits      = regexp.MustCompile(`back-off (\d+m)?\d+s `)
	containers = regexp.MustCompile(`\b[0-9a-f]{64}\b`)
)

// normal replaces what is of one run or one machine only. The longest values go
// first; a value counts as a whole word only.
func (o observation) normal(names map[string]string) {
	values := slices.SortedFunc(maps.Keys(names), func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	for field, v := range o {
		for _, value := range values {
			if value != "" {
				v = replaceWord(v, value, "<"+names[value]+">")
			}
		}
		v = stamps.ReplaceAllString(v, "<time>")
		v = waits.ReplaceAllString(v, "back-off <wait> ")
		o[field] = containers.ReplaceAllString(v, "<container>")
	}
	maps.DeleteFunc(o, func(_, v string) bool { return v == "" })
}

// replaceWord replaces a text where no letter or digit adjoins it.
func replaceWord(in, word, by string) string {
	adjoins := func(b byte) bool {
		return b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
	}
	var out strings.Builder
	for {
		before, after, found := strings.Cut(in, word)
		out.WriteString(before)
		if !found {
			return out.String()
		}
		if before != "" && adjoins(before[len(before)-1]) || after != "" && adjoins(after[0]) {
			out.WriteString(word)
		} else {
			out.WriteString(by)
		}
		in = after
	}
}

// difference is one field that is not the same.
type difference struct {
	Case    string `json:"case"`
	Field   string `json:"field"`
	Kubelet string `json:"kubelet"`
	Bridge  string `json:"bridge"`
}

// refused is the reason of pods that a virtual node does not take.
const refused = "InvalidSpec"

// summary is for comparing with a refusal.
func (o observation) summary() string {
	var out []string
	for _, f := range slices.Sorted(maps.Keys(o)) {
		if f == "phase" || strings.HasSuffix(f, ".exitCode") || strings.HasSuffix(f, ".reason") || strings.HasSuffix(f, ".log") {
			out = append(out, f+": "+strings.TrimSuffix(o[f], "\n"))
		}
	}
	return strings.Join(out, "\n")
}

// compare gives the fields that differ, in order. Of texts of several lines only
// the part that differs is told.
func compare(name string, kubelet, bridge observation) []difference {
	if bridge["reason"] == refused && kubelet["reason"] != refused {
		return []difference{{Case: name, Field: "refused", Kubelet: kubelet.summary(), Bridge: bridge["message"]}}
	}
	fields := map[string]bool{}
	for f := range kubelet {
		fields[f] = true
	}
	for f := range bridge {
		fields[f] = true
	}
	var out []difference
	for _, f := range slices.Sorted(maps.Keys(fields)) {
		if a, b := kubelet[f], bridge[f]; a != b {
			a, b = onlyDifferent(a, b)
			out = append(out, difference{Case: name, Field: f, Kubelet: a, Bridge: b})
		}
	}
	return out
}

// onlyDifferent takes equal lines from both ends.
func onlyDifferent(a, b string) (string, string) {
	x, y := strings.SplitAfter(a, "\n"), strings.SplitAfter(b, "\n")
	for len(x) > 0 && len(y) > 0 && x[0] == y[0] {
		x, y = x[1:], y[1:]
	}
	for len(x) > 0 && len(y) > 0 && x[len(x)-1] == y[len(y)-1] {
		x, y = x[:len(x)-1], y[:len(y)-1]
	}
	return strings.Join(x, ""), strings.Join(y, "")
}
