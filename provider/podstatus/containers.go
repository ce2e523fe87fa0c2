package podstatus

import (
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/restart"
)

const (
	maxMessage = 1024 // of pods, conditions and waiting containers, in bytes
	maxTermMsg = 4096 // of terminated containers, as a kubelet bounds it
	maxReason  = 128
	maxID      = 512
)

// addresses takes over where the pod runs. A pod of the host runtime has its
// host's address. The file is the user's, so a text that is no address is
// ignored: the API server would refuse the whole status for it.
func (w *writer) addresses() {
	if at := w.file.StartedAt; !at.IsZero() && w.s.StartTime == nil {
		w.s.StartTime = stamp(at.Time)
	}
	addr, err := netip.ParseAddr(w.file.HostIP)
	if err != nil || addr.Zone() != "" || addr.IsUnspecified() {
		return
	}
	ip := addr.Unmap().String()
	w.s.HostIP, w.s.HostIPs = ip, []corev1.HostIP{{IP: ip}}
	w.s.PodIP, w.s.PodIPs = ip, []corev1.PodIP{{IP: ip}}
}

// copyContainers takes over the container states of the file.
func (w *writer) copyContainers() {
	w.ensureStatuses()
	w.copyList(w.s.InitContainerStatuses, w.pod.Spec.InitContainers, w.file.InitContainers, true)
	w.copyList(w.s.ContainerStatuses, w.pod.Spec.Containers, w.file.Containers, false)
	w.copyEphemeral()
}

// copyEphemeral takes over what was added to the running pod. What has ended
// stays ended: the API server takes nothing else.
func (w *writer) copyEphemeral() {
	out := make([]corev1.ContainerStatus, 0, len(w.pod.Spec.EphemeralContainers))
	for _, spec := range w.pod.Spec.EphemeralContainers {
		st := corev1.ContainerStatus{
			Name: spec.Name, Image: spec.Image, Started: ptr(false),
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}},
		}
		for _, old := range w.s.EphemeralContainerStatuses {
			if old.Name == spec.Name {
				st = old
			}
		}
		for i := range w.file.Ephemeral {
			if c := &w.file.Ephemeral[i]; c.Name == spec.Name && st.State.Terminated == nil {
				st = w.fromFile(st, c)
				st.Ready, st.RestartCount = false, 0
			}
		}
		out = append(out, st)
	}
	if len(out) > 0 {
		w.s.EphemeralContainerStatuses = out
	}
}

func (w *writer) copyList(statuses []corev1.ContainerStatus, specs []corev1.Container, from []manifest.Container, init bool) {
	for i := range statuses {
		for j := range from {
			if from[j].Name != statuses[i].Name {
				continue
			}
			next := w.fromFile(statuses[i], &from[j])
			if keepsTerminated(w.pod, specs[i], init, statuses[i], next) {
				break
			}
			statuses[i] = next
			break
		}
	}
}

// keepsTerminated reports whether the API server would refuse to let the
// container leave its terminated state. Such a container stays as it is until
// the pod ends.
func keepsTerminated(pod *corev1.Pod, spec corev1.Container, init bool, old, next corev1.ContainerStatus) bool {
	t := old.State.Terminated
	if t == nil || next.State.Terminated != nil {
		return false
	}
	return !restart.Again(pod.Spec.RestartPolicy, &spec, init && !restart.IsSidecar(&spec), t.ExitCode)
}

func (w *writer) fromFile(old corev1.ContainerStatus, c *manifest.Container) corev1.ContainerStatus {
	next := old
	next.State = tidy(c.State)
	if c.LastState.Terminated != nil {
		next.LastTerminationState = tidy(c.LastState)
	}
	next.Ready = c.Ready && (next.State.Running != nil || next.State.Terminated != nil)
	next.Started = ptr(c.Started && next.State.Running != nil)
	next.ContainerID = clipTo(c.ContainerID, maxID)
	next.ImageID = clipTo(c.ImageID, maxID)
	// Each requeue of the batch job restarts all containers. The runner counts on
	// from the run before, and from zero where that left no status.
	next.RestartCount = max(old.RestartCount, c.RestartCount, int32(min(max(w.file.Restart, 0), 1<<20)))
	return next
}

// tidy leaves one state only and bounds its texts.
func tidy(s corev1.ContainerState) corev1.ContainerState {
	switch {
	case s.Terminated != nil:
		t := *s.Terminated
		t.Reason, t.Message, t.ContainerID = clipTo(t.Reason, maxReason), clipTo(t.Message, maxTermMsg), clipTo(t.ContainerID, maxID)
		return corev1.ContainerState{Terminated: &t}
	case s.Running != nil:
		r := *s.Running
		return corev1.ContainerState{Running: &r}
	case s.Waiting != nil:
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
			Reason: clipTo(s.Waiting.Reason, maxReason), Message: clip(s.Waiting.Message)}}
	}
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}
}

// waiting makes all containers wait. After a requeue what ran before becomes
// the last state, as far as the API server allows.
func (w *writer) waiting(reason, message string, again bool) {
	w.ensureStatuses()
	restarts := int32(0)
	if w.ev.Job != nil {
		restarts = int32(min(max(w.ev.Job.Restarts, 0), 1<<20))
	}
	w.waitList(w.s.InitContainerStatuses, w.pod.Spec.InitContainers, true, reason, message, again, restarts)
	why := reason
	if len(w.pod.Spec.InitContainers) > 0 && reason == "ContainerCreating" {
		why = "PodInitializing"
	}
	w.waitList(w.s.ContainerStatuses, w.pod.Spec.Containers, false, why, message, again, restarts)
}

func (w *writer) waitList(statuses []corev1.ContainerStatus, specs []corev1.Container, init bool, reason, message string, again bool, restarts int32) {
	for i := range statuses {
		c := statuses[i]
		if last := lastOf(c.State, w.now); last != nil && again {
			c.LastTerminationState = corev1.ContainerState{Terminated: last}
		}
		c.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
		c.Ready, c.Started = false, ptr(false)
		c.RestartCount = max(c.RestartCount, restarts)
		if !keepsTerminated(w.pod, specs[i], init, statuses[i], c) {
			statuses[i] = c
		}
	}
}

// images tells the containers that wait for an image so.
func (w *writer) images() {
	for _, list := range [][]corev1.ContainerStatus{w.s.InitContainerStatuses, w.s.ContainerStatuses} {
		for i := range list {
			for _, img := range w.ev.Images {
				if img.Image == list[i].Image && !img.Done && img.Reason != "" && list[i].State.Waiting != nil {
					list[i].State.Waiting = &corev1.ContainerStateWaiting{Reason: clipTo(img.Reason, maxReason), Message: clip(img.Message)}
				}
			}
		}
	}
}

// lastOf is what a container's state becomes when its batch job is requeued.
func lastOf(s corev1.ContainerState, now time.Time) *corev1.ContainerStateTerminated {
	switch {
	case s.Terminated != nil:
		return s.Terminated.DeepCopy()
	case s.Running != nil:
		return &corev1.ContainerStateTerminated{
			ExitCode: 143, Reason: "Requeued", Message: "the batch system requeued the job",
			StartedAt: s.Running.StartedAt, FinishedAt: *stamp(now),
		}
	}
	return nil
}

// ensureStatuses makes one status a container, in the order of the spec, and
// keeps what is known.
func (w *writer) ensureStatuses() {
	w.s.InitContainerStatuses = inOrder(w.pod.Spec.InitContainers, w.s.InitContainerStatuses)
	w.s.ContainerStatuses = inOrder(w.pod.Spec.Containers, w.s.ContainerStatuses)
}

func inOrder(specs []corev1.Container, have []corev1.ContainerStatus) []corev1.ContainerStatus {
	if len(specs) == 0 {
		return have
	}
	out := make([]corev1.ContainerStatus, 0, len(specs))
next:
	for _, spec := range specs {
		for _, c := range have {
			if c.Name == spec.Name {
				out = append(out, c)
				continue next
			}
		}
		out = append(out, corev1.ContainerStatus{
			Name: spec.Name, Image: spec.Image, Started: ptr(false),
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}},
		})
	}
	return out
}

func stamp(t time.Time) *metav1.Time {
	s := metav1.NewTime(t.UTC().Truncate(time.Second))
	return &s
}

func ptr[T any](v T) *T { return &v }

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return clipTo(s, maxReason)
}

func clip(s string) string { return clipTo(s, maxMessage) }

// clipTo bounds a text at a rune's edge.
func clipTo(s string, most int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= most {
		return s
	}
	cut := most - 3
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "..."
}
