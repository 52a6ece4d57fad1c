package telemetry

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.34.0"
)

// flushTimeout bounds sending the last spans when the process stops.
const flushTimeout = 5 * time.Second

// Tracing is a process's tracing.
type Tracing struct{ provider *sdktrace.TracerProvider }

// StartTracing makes this process part of the traces that reach it: W3C trace context is taken in and passed on. Spans are sent to
// OTEL_EXPORTER_OTLP_ENDPOINT, if it is set; OpenTelemetry's other variables hold too.
func StartTracing(ctx context.Context, service string, getenv func(string) string) (*Tracing, error) {
	options := []sdktrace.TracerProviderOption{
		sdktrace.WithResource(resource.NewSchemaless(semconv.ServiceName(service))),
	}
	if getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
		// Nobody collects, so nothing is recorded but what must be passed on.
		options = append(options, sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())))
	} else {
		exporter, err := otlptracehttp.New(ctx)
		if err != nil {
			return nil, fmt.Errorf("start tracing: %w", err)
		}
		options = append(options, sdktrace.WithBatcher(exporter))
	}
	t := &Tracing{provider: sdktrace.NewTracerProvider(options...)}
	otel.SetTracerProvider(t.provider)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	return t, nil
}

// Stop sends what is left.
func (t *Tracing) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	return t.provider.Shutdown(ctx)
}
