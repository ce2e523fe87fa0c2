package tracing

import (
	"context"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// skew is how far clocks of compute hosts and of the batch system may be off
// before what they say is not believed.
const skew = time.Hour

// Ended tells the life of a pod that has ended: pod is the object with its last
// status, job and file are the evidence, each nil when there is none. Times that
// cannot be are left out with what they would have told. Telling it again, as
// after a restart, makes the same spans.
func (t *Tracer) Ended(ctx context.Context, g Gang, id backends.JobID, pod *corev1.Pod, job *backends.Job, file *manifest.Status, now time.Time) {
	if t == nil {
		return
	}
	l := life{t: t, ctx: ctx, gang: g, job: id, pod: Pod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}}
	l.begin = bound(pod, job, now)
	l.end = now
	started, ended := l.run(job, file)
	if !ended.IsZero() && !ended.Before(l.begin) {
		l.end = ended
	}
	root := rootOf(g.Key, l.pod.UID)
	if job != nil {
		if from, to := job.Submitted, cmpTime(job.Started, started); l.plausible(from, to) {
			l.span(root, "queued", spanID(g.Key, "queued", l.pod.UID), from, to, false)
		}
	}
	parent := root
	if l.plausible(started, ended) {
		running := spanID(g.Key, "running", l.pod.UID)
		l.span(root, "running", running, started, ended, false)
		parent = root.WithSpanID(running)
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			l.container(parent, &list[i])
		}
	}
	l.span(trace.SpanContext{}, "pod", root.SpanID(), l.begin, l.end, pod.Status.Phase == corev1.PodFailed, attribute.String("k8s.pod.phase", string(pod.Status.Phase)))
}

// life is one pod's, as it is told.
type life struct {
	t          *Tracer
	ctx        context.Context
	gang       Gang
	job        backends.JobID
	pod        Pod
	begin, end time.Time
}

// bound is when the pod was bound to its node.
func bound(pod *corev1.Pod, job *backends.Job, now time.Time) time.Time {
	at := pod.CreationTimestamp.Time
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionTrue && !c.LastTransitionTime.IsZero() {
			at = c.LastTransitionTime.Time
		}
	}
	if at.IsZero() && job != nil {
		at = job.Submitted
	}
	if at.IsZero() || at.After(now) {
		return now
	}
	return at
}

// run is when the pod ran: its runner's word comes before the batch system's.
func (l *life) run(job *backends.Job, file *manifest.Status) (started, ended time.Time) {
	if file != nil && l.plausible(file.StartedAt.Time, file.FinishedAt.Time) {
		return file.StartedAt.Time, file.FinishedAt.Time
	}
	if job != nil && l.plausible(job.Started, job.Ended) {
		return job.Started, job.Ended
	}
	return time.Time{}, time.Time{}
}

// cmpTime gives the first time that is known.
func cmpTime(times ...time.Time) time.Time {
	i := slices.IndexFunc(times, func(t time.Time) bool { return !t.IsZero() })
	if i < 0 {
		return time.Time{}
	}
	return times[i]
}

// plausible reports whether something of the pod's life can have lasted so long.
func (l *life) plausible(from, to time.Time) bool {
	return !from.Before(l.begin.Add(-skew)) && !to.Before(from) && !to.After(l.end.Add(skew))
}

// container tells the last runs of one container.
func (l *life) container(parent trace.SpanContext, c *corev1.ContainerStatus) {
	tell := func(end *corev1.ContainerStateTerminated, restart int32) {
		if end == nil || restart < 0 || !l.plausible(end.StartedAt.Time, end.FinishedAt.Time) {
			return
		}
		l.span(parent, "container "+c.Name, spanID(l.gang.Key, "container", l.pod.UID, c.Name, strconv.Itoa(int(restart))),
			end.StartedAt.Time, end.FinishedAt.Time, end.ExitCode != 0,
			attribute.String("k8s.container.name", c.Name), attribute.Int("k8s.container.restart_count", int(restart)),
			attribute.Int("process.exit.code", int(end.ExitCode)))
	}
	if c.State.Terminated != nil {
		tell(c.LastTerminationState.Terminated, c.RestartCount-1)
	}
	tell(c.State.Terminated, c.RestartCount)
}

// span tells one span; one without a parent is a root.
func (l *life) span(parent trace.SpanContext, name string, id trace.SpanID, from, to time.Time, failed bool, more ...attribute.KeyValue) {
	ctx := fixed(l.ctx, rootOf(l.gang.Key, l.pod.UID).WithSpanID(id))
	options := []trace.SpanStartOption{trace.WithTimestamp(from), trace.WithAttributes(append(identity(l.gang, l.pod, l.job), more...)...)}
	if parent.IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, parent)
	} else {
		options = append(options, trace.WithNewRoot())
	}
	_, span := l.t.tracer.Start(ctx, name, options...)
	if failed {
		span.SetStatus(codes.Error, "")
	}
	span.End(trace.WithTimestamp(to))
}
