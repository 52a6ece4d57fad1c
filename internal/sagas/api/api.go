// Package api answers saga.v1.SagaService: it starts, shows and steers sagas of any definition. Everything it says of a saga comes from
// the saga's row; it knows no workflow code and no SQL.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/gen/saga/v1/sagav1connect"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/sagas/doctor"
	"github.com/checkoutsaga/orchestrator/internal/sagas/operator"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
)

// Service answers saga.v1.SagaService. Its methods may be called from many goroutines.
type Service struct {
	desk        operator.Desk
	doctor      *doctor.Doctor
	definitions map[string]*saga.Definition
	// program is what people type.
	program string
	// starters start the sagas of definitions that are not accepted by their declaration alone.
	starters map[string]Starter
}

var _ sagav1connect.SagaServiceHandler = (*Service)(nil)

// Starter accepts and begins a saga of a definition that has more to do for it, such as to look something up. It gives its errors their codes.
type Starter func(ctx context.Context, req *sagav1.StartRequest, input json.RawMessage, idempotencyKey string) (accepted store.Saga, created bool, err error)

// New returns the service of some definitions. Its advice names the program by which people steer sagas. Definitions with a starter are
// started by that; they are audited by whoever knows more of them.
func New(desk operator.Desk, doctor *doctor.Doctor, definitions []*saga.Definition, program string, starters map[string]Starter) *Service {
	s := &Service{desk: desk, doctor: doctor, definitions: make(map[string]*saga.Definition), program: program, starters: starters}
	for _, d := range definitions {
		s.definitions[d.Name()] = d
	}
	return s
}

// ListDefinitions tells which definitions this process has.
func (s *Service) ListDefinitions(context.Context, *connect.Request[sagav1.ListDefinitionsRequest]) (*connect.Response[sagav1.ListDefinitionsResponse], error) {
	answer := &sagav1.ListDefinitionsResponse{}
	for _, name := range slices.Sorted(maps.Keys(s.definitions)) {
		d := s.definitions[name]
		plan := d.Plan()
		answer.Definitions = append(answer.Definitions, &sagav1.Definition{
			Name: name, Version: int32(plan.Version), Plan: planToWire(plan), Deadline: durationpb.New(d.Deadline()),
		})
	}
	return connect.NewResponse(answer), nil
}

// Get tells how one saga stands.
func (s *Service) Get(ctx context.Context, req *connect.Request[sagav1.GetRequest]) (*connect.Response[sagav1.GetResponse], error) {
	found, err := s.find(ctx, saga.ID{Definition: req.Msg.Definition, Key: req.Msg.Key})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&sagav1.GetResponse{Saga: s.toWire(found), Plan: planToWire(found.Plan)}), nil
}

// defaultPage is how many a page of a list has that does not say.
const defaultPage = 100

// List tells of the sagas that fit, newest first.
func (s *Service) List(ctx context.Context, req *connect.Request[sagav1.ListRequest]) (*connect.Response[sagav1.ListResponse], error) {
	m := req.Msg
	f := store.Filter{
		Definition: m.Definition, About: m.About, Step: m.Step, AmountOver: m.AmountOver, OlderThan: m.OlderThan.AsDuration(),
		Attention: m.Attention, ReasonCode: m.ReasonCode, Limit: int(m.Limit), PageToken: m.PageToken,
	}
	if m.Since != nil {
		f.Since = m.Since.AsTime()
	}
	if f.Limit == 0 {
		f.Limit = defaultPage
	}
	for _, wire := range m.Statuses {
		f.Statuses = append(f.Statuses, StatusOf(wire))
	}
	page, next, err := s.desk.Store.List(ctx, f)
	if errors.Is(err, store.ErrBadPageToken) {
		return nil, contract.BadInput(contract.BadField("page_token", "must be one that a page ended with"))
	}
	if err != nil {
		return nil, err
	}
	answer := &sagav1.ListResponse{NextPageToken: next}
	for _, found := range page {
		answer.Sagas = append(answer.Sagas, s.toWire(found))
	}
	return connect.NewResponse(answer), nil
}

// find reads a saga, or says that there is none, or no such definition.
func (s *Service) find(ctx context.Context, id saga.ID) (store.Saga, error) {
	found, err := s.desk.Store.Saga(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return found, s.noSuch(id)
	}
	return found, err
}

func (s *Service) noSuch(id saga.ID) error {
	if _, known := s.definitions[id.Definition]; !known {
		return s.noSuchDefinition(id.Definition)
	}
	return connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no %s %q", id.Definition, id.Key))
}

func (s *Service) noSuchDefinition(name string) error {
	return connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no saga %q here; this process has %v", name, slices.Sorted(maps.Keys(s.definitions))))
}

// Watch sends the saga now and after each change, until it is final or, where the caller wishes, needs attention.
func (s *Service) Watch(ctx context.Context, req *connect.Request[sagav1.WatchRequest], stream *connect.ServerStream[sagav1.WatchResponse]) error {
	id := saga.ID{Definition: req.Msg.Definition, Key: req.Msg.Key}
	return Watch(ctx, s.desk.Store, id, req.Msg, func() (store.Saga, error) { return s.find(ctx, id) },
		func(now store.Saga) (*sagav1.Saga, error) { return s.toWire(now), nil },
		func(now *sagav1.Saga) error { return stream.Send(&sagav1.WatchResponse{Saga: now}) })
}

// lookAgain bounds how late a watcher learns of a change whose notification was lost with a database connection.
const lookAgain = 5 * time.Second

// Watch sends a saga of any kind, as find finds it, now and after each change, until it is final or, where the caller wishes, needs
// attention.
func Watch[M proto.Message](ctx context.Context, from *store.Store, id saga.ID, wishes interface {
	GetUntilSettled() bool
	GetOnlySettled() bool
}, find func() (store.Saga, error), toWire func(store.Saga) (M, error), send func(M) error) error {
	interest := store.AnyChange
	if wishes.GetOnlySettled() {
		interest = store.Settled
	}
	var sent proto.Message
	return from.Watch(ctx, id, interest, lookAgain, func(ended *store.Saga) (done bool, err error) {
		var found store.Saga
		if ended != nil {
			found = *ended
		} else if found, err = find(); err != nil {
			return false, err
		}
		now, err := toWire(found)
		if err != nil {
			return false, err
		}
		settled := found.Status.IsSettled()
		wanted := sent == nil || settled || !wishes.GetOnlySettled()
		if wanted && !proto.Equal(now, sent) {
			if err := send(now); err != nil {
				return false, err
			}
			sent = now
		}
		return found.Status.IsFinal() || wishes.GetUntilSettled() && settled, nil
	})
}
