package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"connectrpc.com/connect"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/sagas/audit"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
)

// Audit compares final sagas with what their participants have on record. What differs is looked at twice.
func (s *Service) Audit(ctx context.Context, req *connect.Request[sagav1.AuditRequest], stream *connect.ServerStream[sagav1.AuditResponse]) error {
	definitions := slices.DeleteFunc(slices.Sorted(maps.Keys(s.definitions)), func(name string) bool {
		_, has := s.starters[name]
		return has // It has an audit of its own, which knows more of it.
	})
	if req.Msg.Definition != "" {
		if _, known := s.definitions[req.Msg.Definition]; !known {
			return s.noSuchDefinition(req.Msg.Definition)
		}
		definitions = []string{req.Msg.Definition}
	} else if req.Msg.Key != "" {
		return contract.BadInput(contract.BadField("definition", "is missing; it is what the key is a key of"))
	}
	a := audit.Audit{Store: s.desk.Store, Participants: s.desk.Participants}
	var checked int64
	report := func(n int, found []audit.Violation) error {
		checked += int64(n)
		answer := &sagav1.AuditResponse{Checked: checked}
		for _, v := range found {
			answer.Violations = append(answer.Violations, &sagav1.Violation{Definition: v.Saga.Definition, Key: v.Saga.Key, Invariant: v.Invariant, What: v.What})
		}
		return stream.Send(answer)
	}
	if req.Msg.Key != "" {
		id := saga.ID{Definition: req.Msg.Definition, Key: req.Msg.Key}
		err := a.One(ctx, id, report)
		if errors.Is(err, store.ErrNotFound) {
			return s.noSuch(id)
		}
		return asked(err)
	}
	since := req.Msg.Since.AsTime()
	for _, definition := range definitions {
		if err := a.All(ctx, definition, since, report); err != nil {
			return asked(err)
		}
	}
	return report(0, nil)
}

// asked gives the error of an audit its code: without a participant's answer nothing can be said.
func asked(err error) error {
	if unreachable := new(audit.UnreachableError); errors.As(err, &unreachable) {
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("the audit is not complete: %w", unreachable))
	}
	return err
}
