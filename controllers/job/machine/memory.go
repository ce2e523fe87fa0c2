package machine

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
)

// What a job has to remember from one pass to the next stands in
// status.controlledResources beside what the job made: the status has no field
// for it, and a second truth in the controller's memory would not survive it.
const (
	// noteRestart and a retry count lead to the scope of a partial restart whose
	// old pods are not all gone yet.
	noteRestart = "restart-"
	// noteCommand leads to the UID of the last Command that was carried out.
	noteCommand = "command"
	// noteGeneration leads to the generation of the spec that was last looked
	// at; only jobs with a policy for JobUpdated have it.
	noteGeneration = "generation"
	// noteSince, an event and a task lead to when something began that no object
	// shows the time of, and that a policy with a timeout waits for.
	noteSince = "since-"
)

// memory is these notes, decoded.
type memory struct {
	restarts   []scope
	command    types.UID
	generation int64 // 0 when not noted
	since      map[string]time.Time
}

// scope is the part of a job that an action restarts: a task, a partition of it,
// or one pod. Pods that were made before the retry are to go.
type scope struct {
	action bus.Action
	task   string
	number int32 // of the partition or pod within the task
	retry  int32
}

func (s scope) covers(m *member) bool {
	if m.task != s.task || m.retry >= s.retry {
		return false
	}
	switch s.action {
	case bus.RestartPodAction:
		return m.index == s.number
	case bus.RestartPartitionAction:
		return m.partition == s.number
	default:
		return true
	}
}

func (s scope) String() string {
	if s.action == bus.RestartTaskAction {
		return fmt.Sprintf("%s %s", s.action, s.task)
	}
	return fmt.Sprintf("%s %s/%d", s.action, s.task, s.number)
}

func parseScope(key, value string) (s scope, ok bool) {
	retry, err := strconv.ParseInt(strings.TrimPrefix(key, noteRestart), 10, 32)
	action, rest, found := strings.Cut(value, " ")
	if err != nil || !found {
		return scope{}, false
	}
	s = scope{action: bus.Action(action), task: rest, retry: int32(retry)}
	if s.action == bus.RestartTaskAction {
		return s, true
	}
	task, number, found := strings.Cut(rest, "/")
	n, err := strconv.ParseInt(number, 10, 32)
	s.task, s.number = task, int32(n)
	return s, found && err == nil
}

func recall(st *batch.JobStatus) memory {
	m := memory{since: map[string]time.Time{}}
	for _, key := range slices.Sorted(maps.Keys(st.ControlledResources)) {
		value := st.ControlledResources[key]
		switch {
		case strings.HasPrefix(key, noteRestart):
			if s, ok := parseScope(key, value); ok {
				m.restarts = append(m.restarts, s)
			}
		case key == noteCommand:
			m.command = types.UID(value)
		case key == noteGeneration:
			m.generation, _ = strconv.ParseInt(value, 10, 64) // an unreadable one is none
		case strings.HasPrefix(key, noteSince):
			if at, err := time.Parse(time.RFC3339, value); err == nil {
				m.since[strings.TrimPrefix(key, noteSince)] = at
			}
		}
	}
	return m
}

// isNote tells notes from the resources that a job made.
func isNote(key string) bool {
	return key == noteCommand || key == noteGeneration || strings.HasPrefix(key, noteRestart) || strings.HasPrefix(key, noteSince)
}

// writeTo keeps resources, and the notes in place of all earlier ones.
func (m memory) writeTo(st *batch.JobStatus, resources map[string]string) {
	out := map[string]string{}
	if len(resources) == 0 { // a job with problems keeps what is known of it
		resources = st.ControlledResources
	}
	for k, v := range resources {
		if !isNote(k) {
			out[k] = v
		}
	}
	for _, s := range m.restarts {
		out[noteRestart+strconv.Itoa(int(s.retry))] = s.String()
	}
	if m.command != "" {
		out[noteCommand] = string(m.command)
	}
	if m.generation != 0 {
		out[noteGeneration] = strconv.FormatInt(m.generation, 10)
	}
	for k, at := range m.since {
		out[noteSince+k] = at.UTC().Format(time.RFC3339)
	}
	if len(out) == 0 && len(st.ControlledResources) == 0 {
		return
	}
	st.ControlledResources = out
}

// restarted says that a partial restart has done with the pod: its successor
// takes its place, and what happens to it is no event any more.
func (m memory) restarted(who *member) bool {
	return slices.ContainsFunc(m.restarts, func(s scope) bool { return s.covers(who) })
}

// forget drops the restarts whose old pods are all gone.
func (m *memory) forget(members []member) {
	m.restarts = slices.DeleteFunc(m.restarts, func(s scope) bool {
		return !slices.ContainsFunc(members, func(who member) bool { return s.covers(&who) })
	})
}

// retryOf reads the retry during which a pod was made, 0 when it does not say.
func retryOf(pod *corev1.Pod) int32 {
	n, err := strconv.ParseInt(pod.Annotations[batch.JobRetryCountKey], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}
