package tracing

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/effect"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
)

// traced are the effects that have a span, with its name. Writes of a status are
// left out: they are many, and each says only what other spans say.
var traced = map[string]string{
	string(lifecycle.WriteIntent): "intent",
	string(lifecycle.Stage):       "stage",
	string(lifecycle.Submit):      "submit",
	string(lifecycle.Record):      "record",
	string(lifecycle.Release):     "release",
	string(lifecycle.Cancel):      "cancel",
	string(lifecycle.Halt):        "stop",
}

// gate is an effect.Gate that makes a span of each effect on a gang.
type gate struct {
	next   effect.Gate
	tracer *Tracer
}

// Gate traces what passes on its way to next. Effects whose context names no
// gang have no span.
func (t *Tracer) Gate(next effect.Gate) effect.Gate {
	if t == nil {
		return next
	}
	return &gate{next: next, tracer: t}
}

// Do performs fn through the next gate. fn does not see the span: nothing that
// it calls changes because of it.
func (g *gate) Do(ctx context.Context, name string, fn func(context.Context) error) error {
	span := g.tracer.begin(ctx, name)
	if span == nil {
		return g.next.Do(ctx, name, fn)
	}
	err := g.next.Do(ctx, name, fn)
	s, _ := ctx.Value(scopeKey{}).(*scope)
	if id := s.job.get(); id != "" {
		span.SetAttributes(attribute.String(attrJob, string(id)))
	}
	if err != nil {
		span.SetAttributes(attribute.String("error.type", effect.Class(err)))
		span.SetStatus(codes.Error, "") // a text may hold what a user wrote
	}
	span.End(trace.WithTimestamp(g.tracer.now()))
	return err
}

// begin gives the effect's span, nil when it has none.
func (t *Tracer) begin(ctx context.Context, effect string) trace.Span {
	s, ok := ctx.Value(scopeKey{}).(*scope)
	name := traced[effect]
	if !ok || name == "" {
		return nil
	}
	pod, ok := s.target()
	if !ok {
		return nil
	}
	_, span := t.tracer.Start(trace.ContextWithSpanContext(ctx, rootOf(s.gang.Key, pod.UID)), name,
		trace.WithTimestamp(t.now()), trace.WithAttributes(identity(s.gang, pod, "")...))
	return span
}

const attrJob = "isthmus.job.id"

// identity are the attributes that every span of a pod has.
func identity(g Gang, p Pod, job backends.JobID) []attribute.KeyValue {
	out := []attribute.KeyValue{
		attribute.String("isthmus.gang.key", string(g.Key)),
		attribute.String("isthmus.partition", g.Partition),
		attribute.String("k8s.namespace.name", p.Namespace),
		attribute.String("k8s.pod.name", p.Name),
		attribute.String("k8s.pod.uid", p.UID),
	}
	if job != "" {
		out = append(out, attribute.String(attrJob, string(job)))
	}
	return out
}
