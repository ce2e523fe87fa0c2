package tracing

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	// queueSize bounds the spans that wait for the collector; what is above it is
	// dropped.
	queueSize = 8192
	// exportTime bounds one delivery with its repetitions.
	exportTime = 10 * time.Second
)

// Config makes a Tracer.
type Config struct {
	// Endpoint of the collector: http(s)://host:port, OTLP over HTTP.
	Endpoint string
	// Service and Instance say who sends, for example "isthmus-vnode" and the
	// BatchCluster's name. Instance may be empty.
	Service, Instance string
	// Now is time.Now when nil.
	Now func() time.Time
	Log logr.Logger
}

// Tracer sends spans. All methods may be called on nil, which traces nothing.
// None waits for the collector but Close.
type Tracer struct {
	now      func() time.Time
	tracer   trace.Tracer
	provider *sdktrace.TracerProvider
	cut      context.CancelFunc
	client   *http.Client
}

// New gives a Tracer that sends in the background; it does no I/O itself. The
// error is about the endpoint.
func New(ctx context.Context, c Config) (*Tracer, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Port() == "" || u.Hostname() == "" || u.User != nil ||
		u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" {
		return nil, errors.New("the address of a collector has the form http://HOST:PORT or https://HOST:PORT; give credentials in the environment, as OTEL_EXPORTER_OTLP_HEADERS")
	}
	transport, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, errors.New("make the client of the collector: the default transport was replaced")
	}
	client := &http.Client{Transport: transport.Clone(), Timeout: exportTime}
	exporter, err := otlptracehttp.New(ctx,
		otlptracehttp.WithEndpointURL(u.Scheme+"://"+u.Host+"/v1/traces"), otlptracehttp.WithHTTPClient(client),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: exportTime}))
	if err != nil {
		return nil, fmt.Errorf("make the exporter of traces: %w", err)
	}
	attributes := []attribute.KeyValue{attribute.String("service.name", c.Service)}
	if c.Instance != "" {
		attributes = append(attributes, attribute.String("service.instance.id", c.Instance))
	}
	life, cut := context.WithCancel(context.WithoutCancel(ctx))
	t := &Tracer{now: c.Now, cut: cut, client: client}
	if t.now == nil {
		t.now = time.Now
	}
	t.provider = sdktrace.NewTracerProvider(
		sdktrace.WithResource(resource.NewSchemaless(attributes...)),
		sdktrace.WithIDGenerator(generator{}),
		sdktrace.WithSampler(sdktrace.AlwaysSample()),
		sdktrace.WithBatcher(&patient{SpanExporter: exporter, life: life, log: c.Log},
			sdktrace.WithMaxQueueSize(queueSize), sdktrace.WithExportTimeout(exportTime)),
	)
	t.tracer = t.provider.Tracer("github.com/isthmus-hpc/isthmus/provider")
	return t, nil
}

// Close sends what waits until ctx ends, and ends the Tracer. What was not sent
// by then is dropped.
func (t *Tracer) Close(ctx context.Context) {
	if t == nil {
		return
	}
	defer t.client.CloseIdleConnections()
	defer t.cut()
	defer context.AfterFunc(ctx, t.cut)()
	// With a context that ended, the SDK would leave its goroutine behind. What it
	// waits for ends with the cut.
	_ = t.provider.Shutdown(context.WithoutCancel(ctx)) // the exporter has told of its failure
}

// patient is an exporter whose failures are told once, not with every batch.
type patient struct {
	sdktrace.SpanExporter
	life   context.Context
	log    logr.Logger
	failed atomic.Bool
}

// ExportSpans gives no error: the SDK would write each to the process's output.
func (p *patient) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.life, cancel)()
	err := p.SpanExporter.ExportSpans(ctx, spans)
	switch was := p.failed.Swap(err != nil); {
	case err != nil && !was:
		p.log.Info("traces are dropped: the collector takes none", "error", err.Error())
	case err == nil && was:
		p.log.Info("the collector takes traces again")
	}
	return nil
}
