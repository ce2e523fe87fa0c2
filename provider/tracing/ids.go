package tracing

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"go.opentelemetry.io/otel/trace"

	"github.com/isthmus-hpc/isthmus/backends"
)

// traceID is the gang attempt's; every daemon finds the same.
func traceID(key backends.Key) trace.TraceID {
	sum := sha256.Sum256([]byte("isthmus trace\x00" + string(key)))
	return trace.TraceID(sum[:16])
}

// spanID is that of something which happens once in a gang attempt.
func spanID(key backends.Key, what ...string) trace.SpanID {
	h := sha256.New()
	h.Write([]byte("isthmus span\x00" + string(key))) // a hash takes every write
	for _, w := range what {
		h.Write([]byte("\x00" + w))
	}
	return trace.SpanID(h.Sum(nil)[:8])
}

// rootOf is the span of the whole life of a pod.
func rootOf(key backends.Key, uid string) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: traceID(key), SpanID: spanID(key, "pod", uid), TraceFlags: trace.FlagsSampled, Remote: true,
	})
}

// Parent is the value of TRACEPARENT for the containers of a pod, as W3C Trace
// Context writes it: what they trace lies below the pod. It is "" when nothing
// is traced.
func (t *Tracer) Parent(key backends.Key, uid string) string {
	if t == nil || key == "" {
		return ""
	}
	root := rootOf(key, uid)
	return fmt.Sprintf("00-%s-%s-%s", root.TraceID(), root.SpanID(), root.TraceFlags())
}

type fixedKey struct{}

// fixed makes the next span under ctx have these ids.
func fixed(ctx context.Context, ids trace.SpanContext) context.Context {
	return context.WithValue(ctx, fixedKey{}, ids)
}

// generator gives the ids that fixed asks for, and random ones else.
type generator struct{}

// NewIDs implements the SDK's IDGenerator.
func (g generator) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if ids, ok := ctx.Value(fixedKey{}).(trace.SpanContext); ok {
		return ids.TraceID(), ids.SpanID()
	}
	var id trace.TraceID
	_, _ = rand.Read(id[:]) // it never fails, says its documentation
	return id, g.NewSpanID(ctx, id)
}

// NewSpanID implements the SDK's IDGenerator.
func (generator) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if ids, ok := ctx.Value(fixedKey{}).(trace.SpanContext); ok {
		return ids.SpanID()
	}
	var id trace.SpanID
	_, _ = rand.Read(id[:]) // as above
	return id
}
