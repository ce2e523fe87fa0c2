package provider

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
	"github.com/isthmus-hpc/isthmus/provider/podstatus"
	"github.com/isthmus-hpc/isthmus/provider/tracing"
)

// traced says whose the effects under ctx are, when somebody wants to know.
func (b *Bridge) traced(ctx context.Context, g *lifecycle.Gang, pods map[string]*corev1.Pod) context.Context {
	if b.Tracer == nil {
		return ctx
	}
	return tracing.With(ctx, b.identityOf(g, pods), g.JobID)
}

// identityOf is the gang as its trace names it.
func (b *Bridge) identityOf(g *lifecycle.Gang, pods map[string]*corev1.Pod) tracing.Gang {
	out := tracing.Gang{Key: g.Key, Partition: b.partitionOf(g, pods)}
	for _, mem := range g.Members {
		out.Pods = append(out.Pods, tracing.Pod{Namespace: mem.Namespace, Name: mem.Name, UID: mem.UID})
	}
	return out
}

// ended tells the life of a pod that has ended, from what is known of it.
func (b *Bridge) ended(ctx context.Context, g *lifecycle.Gang, pod *corev1.Pod, ev podstatus.Evidence) {
	if b.Tracer == nil || g.Key == "" {
		return
	}
	of := b.identityOf(g, map[string]*corev1.Pod{string(pod.UID): pod})
	b.Tracer.Ended(ctx, of, g.JobID, pod, ev.Job, ev.File, b.Clock.Now())
}
