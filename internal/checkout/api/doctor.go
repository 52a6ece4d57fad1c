package api

import (
	"context"
	"time"

	"connectrpc.com/connect"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/gen/event/v1/eventv1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/sagas/doctor"
)

// Components are the files that the sidecar's components are set by, for the doctor to look at.
type Components struct {
	// Folders are where they are.
	Folders []string
	// KeepWorkflows is how long the engine is to know a workflow that has ended; zero is for ever.
	KeepWorkflows time.Duration
}

// instruct tells the doctor what checkouts have beside their sagas, and how they are spoken of.
func (s *Service) instruct(d *doctor.Doctor, components Components) {
	d.Words = doctor.Words{Program: program, Command: "checkout", ID: "ID", One: "checkout", Many: "checkouts"}
	d.Beside = doctor.Beside{
		PubSubs: []string{eventsComponent, lettersComponent}, Subscriptions: subscriptions,
		Checks: []doctor.Check{s.checkBus}, Ask: make(map[string]func(context.Context) error),
	}
	if d.Sidecar.URL != "" {
		d.Checks = append(d.Checks, components.check)
	}
	for _, app := range producers() {
		d.Checks = append(d.Checks, doctor.One(func(ctx context.Context) doctor.Finding { return s.checkOutbox(ctx, app) }))
	}
	d.Checks = append(d.Checks, s.checkDeadLetters)
	for name, app := range s.events {
		if name != program {
			d.Ask[name] = func(ctx context.Context) error { return askEvents(ctx, app) }
		}
	}
}

// program is what people type, and this process's name among the apps that write and receive events.
const program = "orchestrator"

// probe is an event id that no event has: who can say that it has not received it, has its tables.
const probe = "doctor"

// askEvents asks an app for what it can answer only with its database, migrated: of the events that it writes, and of those that it
// receives.
func askEvents(ctx context.Context, app eventv1connect.EventServiceClient) error {
	if _, err := app.ListEvents(ctx, connect.NewRequest(&eventv1.ListEventsRequest{PageSize: 1})); err != nil {
		return err
	}
	_, err := app.CheckReceived(ctx, connect.NewRequest(&eventv1.CheckReceivedRequest{EventIds: []string{probe}}))
	return err
}

// Doctor looks at everything this process needs and says how to mend what is wrong. It is the doctor of all sagas, for whoever knows
// checkouts alone.
func (s *Service) Doctor(ctx context.Context, _ *connect.Request[checkoutv1.DoctorRequest]) (*connect.Response[checkoutv1.DoctorResponse], error) {
	answer := &checkoutv1.DoctorResponse{}
	for _, f := range s.doctor.Look(ctx) {
		answer.Findings = append(answer.Findings, &checkoutv1.Finding{Check: f.Check, Ok: f.OK, Detail: f.Detail, Mend: f.Mend})
	}
	for _, set := range s.doctor.Settings {
		answer.Settings = append(answer.Settings, &checkoutv1.Setting{Name: set.Name, Value: set.Value})
	}
	return connect.NewResponse(answer), nil
}

// ListOpenHistories sends the engine's history of every open checkout's run, by order id.
func (s *Service) ListOpenHistories(ctx context.Context, _ *connect.Request[checkoutv1.ListOpenHistoriesRequest],
	stream *connect.ServerStream[checkoutv1.ListOpenHistoriesResponse]) error {
	return s.doctor.Histories(ctx, func(h doctor.History) error {
		if h.Definition != checkout.Definition {
			return nil
		}
		return stream.Send(&checkoutv1.ListOpenHistoriesResponse{
			OrderId: h.Key, Run: int32(h.Run), InstanceId: h.InstanceID, Step: h.Step, Events: h.Events, Unreadable: h.Unreadable,
		})
	})
}
