// Package dapr runs workflows on Dapr Workflow, through the gRPC API of the sidecar beside this process.
package dapr

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	runtime "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/client"
	"github.com/dapr/durabletask-go/task"
	sdk "github.com/dapr/go-sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/sidecar"
)

// Config says which sidecar an engine uses.
type Config struct {
	// Address is the sidecar's gRPC API, 127.0.0.1:$DAPR_GRPC_PORT.
	Address string
	// Token is DAPR_API_TOKEN; empty where the sidecar asks for none.
	Token string
	// Registry holds the workflows and activities. An engine only reads it.
	Registry *task.TaskRegistry
	// Log receives what durabletask-go says.
	Log *slog.Logger
}

const (
	// sidecarTimeout is how long Run waits for the sidecar's API. Under `dapr run` both start together.
	sidecarTimeout = time.Minute
	// drainTimeout is how long a stop waits for activities in hand, cancelTimeout how long after cancelling them.
	drainTimeout  = 10 * time.Second
	cancelTimeout = 2 * time.Second
	// settleTime is how long the stream outlives the last report: the sidecar answers a report before it has stored the
	// result, and forgets what it has not stored when the stream closes, so that the activity would run again.
	settleTime = 500 * time.Millisecond
	// callTimeout bounds calls whose caller set no deadline: while no worker is connected the sidecar repeats a start without
	// end.
	callTimeout = 10 * time.Second
)

// Engine is engine.Engine on Dapr. A sidecar may go and come back while it is in use: the worker connects again by
// itself, and meanwhile the other methods fail.
type Engine struct {
	config Config
	conn   *grpc.ClientConn
	hub    *client.TaskHubGrpcClient
	sdk    sdk.Client
	hand   *hand
}

var _ engine.Engine = (*Engine)(nil)

// New returns an engine that connects when it is used. The caller closes it.
func New(config Config) (*Engine, error) {
	h := &hand{}
	wire := &wire{hand: h}
	conn, err := sidecar.Dial(config.Address, config.Token,
		grpc.WithChainUnaryInterceptor(wire.unary), grpc.WithChainStreamInterceptor(wire.stream))
	if err != nil {
		return nil, err
	}
	return &Engine{
		config: config,
		conn:   conn,
		hub:    client.NewTaskHubGrpcClient(conn, engine.Logger(config.Log)),
		sdk:    sdk.NewClientWithConnection(conn),
		hand:   h,
	}, nil
}

// Close cuts the connection to the sidecar.
func (e *Engine) Close() { _ = e.conn.Close() }

// Client is this process's one client of the sidecar, for what else it does there. It lives as long as the engine.
func (e *Engine) Client() sdk.Client { return e.sdk }

// Name implements engine.Engine.
func (e *Engine) Name() string { return "dapr" }

// Run implements engine.Engine.
//
// On ctx's end it takes no further activity but keeps the stream to the sidecar, which cannot be half closed: closing it makes
// the sidecar forget the activities in hand and run them again. An activity that arrives meanwhile is left unanswered, and the
// sidecar gives it to whoever connects next. Turns of workflows, which are quick and touch nothing, go on until the end.
func (e *Engine) Run(ctx context.Context) error {
	if err := e.waitForSidecar(ctx); err != nil {
		return err
	}
	e.hand.open()
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	// From here on the listener connects again for ever; only its context ends it.
	if err := e.hub.StartWorkItemListener(work, e.config.Registry); err != nil {
		return fmt.Errorf("listen for work from Dapr sidecar: %w", err)
	}
	<-ctx.Done()

	empty := e.hand.close()
	select {
	case <-empty:
		<-time.After(time.Until(e.hand.lastPut().Add(settleTime)))
		return nil
	case <-time.After(drainTimeout):
	}
	cancel()
	select {
	case <-empty:
		return nil
	case <-time.After(cancelTimeout):
		return errors.New("stop work for Dapr: an activity ignores that it is cancelled")
	}
}

func (e *Engine) waitForSidecar(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sidecarTimeout)
	defer cancel()
	_, err := e.sdk.GrpcClient().GetMetadata(ctx, &runtime.GetMetadataRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("reach Dapr sidecar at %s: %w", e.config.Address, err)
	}
	return nil
}

// Start implements engine.Engine.
//
// Dapr runs a completed id again from an empty history, so this looks first. The look costs one query, 0.9 ms of the 5.5 ms that a
// start takes. It cannot see an instance that another process starts and ends between the two calls. That is harmless: the
// orchestrator's row gives each instance id to one run only, and activities ask this row before they act.
func (e *Engine) Start(ctx context.Context, workflow, id string, input any) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := e.Inspect(ctx, id)
	if err == nil || strings.Contains(err.Error(), halfRead) {
		return engine.ErrExists
	}
	if !errors.Is(err, engine.ErrGone) {
		return fmt.Errorf("start workflow %s: %w", id, err)
	}
	// With a start time the sidecar answers when it has stored the instance; without, when its first turn has run, which is
	// twice as late and not at all while no worker is connected. The instance itself is not slower for it.
	_, err = e.hub.ScheduleNewWorkflow(ctx, workflow, api.WithInstanceID(api.InstanceID(id)), api.WithInput(input), api.WithStartTime(time.Now()))
	if status.Code(err) == codes.AlreadyExists {
		return engine.ErrExists
	}
	if err != nil {
		return fmt.Errorf("start workflow %s: %w", id, err)
	}
	return nil
}

// Raise implements engine.Engine.
func (e *Engine) Raise(ctx context.Context, id, event string, payload any) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	err := e.hub.RaiseEvent(ctx, api.InstanceID(id), event, api.WithEventPayload(payload))
	if says(err, api.ErrInstanceNotFound) {
		return engine.ErrGone
	}
	if err != nil {
		return fmt.Errorf("raise %s to workflow %s: %w", event, id, err)
	}
	return nil
}

// halfRead is in the error that Dapr 1.18.2 may give for a moment for an instance that exists and is well: it reads an
// instance's rows in several queries, and a turn may end between them.
const halfRead = "declared in metadata"

// Inspect implements engine.Engine. It may fail with halfRead.
func (e *Engine) Inspect(ctx context.Context, id string) (engine.Instance, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	metadata, err := e.hub.FetchWorkflowMetadata(ctx, api.InstanceID(id))
	if errors.Is(err, api.ErrInstanceNotFound) {
		return engine.Instance{}, engine.ErrGone
	}
	if err != nil {
		return engine.Instance{}, fmt.Errorf("inspect workflow %s: %w", id, err)
	}
	return engine.InstanceOf(metadata), nil
}

// History implements engine.Engine.
func (e *Engine) History(ctx context.Context, id string) ([]*protos.HistoryEvent, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	history, err := e.hub.GetInstanceHistory(ctx, api.InstanceID(id))
	if status.Code(err) == codes.NotFound {
		return nil, engine.ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("read history of workflow %s: %w", id, err)
	}
	return history.GetEvents(), nil
}

// Purge implements engine.Engine.
func (e *Engine) Purge(ctx context.Context, id string) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	err := e.hub.PurgeWorkflowState(ctx, api.InstanceID(id))
	if err != nil && !says(err, api.ErrInstanceNotFound) {
		return fmt.Errorf("purge workflow %s: %w", id, err)
	}
	return nil
}

// Check implements engine.Engine.
func (e *Engine) Check(ctx context.Context) error {
	s, err := e.Sidecar(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("Dapr's sidecar at %s does not answer: %w", e.config.Address, err)
	case s.Workers == 0:
		return fmt.Errorf("Dapr's sidecar of %s has no workflow worker connected", s.AppID)
	case !s.Placement:
		return fmt.Errorf("Dapr's sidecar of %s is not connected to placement", s.AppID)
	case !s.Scheduler:
		return fmt.Errorf("Dapr's sidecar of %s is not connected to a scheduler", s.AppID)
	}
	return nil
}

// Sidecar is what a sidecar says of itself.
type Sidecar struct {
	AppID, Version string
	// Workers counts the connected workflow workers; one that is connected is this process, or a replica.
	Workers int
	// Placement and Scheduler: is the sidecar connected to them?
	Placement, Scheduler bool
}

// Sidecar asks the sidecar.
func (e *Engine) Sidecar(ctx context.Context) (Sidecar, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	m, err := e.sdk.GrpcClient().GetMetadata(ctx, &runtime.GetMetadataRequest{})
	if err != nil {
		return Sidecar{}, err
	}
	return Sidecar{
		AppID:     m.GetId(),
		Version:   m.GetRuntimeVersion(),
		Workers:   int(m.GetWorkflows().GetConnectedWorkers()),
		Placement: m.GetActorRuntime().GetHostReady(),
		Scheduler: len(m.GetScheduler().GetConnectedAddresses()) > 0,
	}, nil
}

// says reports whether err, which came over the wire as text, is that error of durabletask-go.
func says(err, of error) bool {
	return err != nil && (errors.Is(err, of) || strings.Contains(err.Error(), of.Error()))
}

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, callTimeout)
}
