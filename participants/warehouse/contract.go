package warehouse

import (
	"context"
	"fmt"

	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// By the contract the warehouse does its steps for a saga of any definition.
var (
	_ participant.Participant = (*Service)(nil)
	_ participant.Keeper      = (*Service)(nil)
	_ participant.Bound       = (*Service)(nil)
)

// reservationInput is what reserve-stock is asked with. To ship or to release it, no more need be said than whose it is.
type reservationInput struct {
	Lines []struct {
		SKU      string `json:"sku"`
		Quantity int32  `json:"quantity"`
	} `json:"lines"`
}

// Does is participant.Bound's.
func (s *Service) Does(_, step string) (does, undoes bool) {
	return step == stepReserve || step == stepCommit, step == stepReserve
}

// Do is participant.Participant's.
func (s *Service) Do(ctx context.Context, r participant.Request) (participant.Result, error) {
	if err := r.Check(); err != nil {
		return participant.Result{}, err
	}
	var op ledger.Operation
	var err error
	switch r.Step {
	case stepReserve:
		op, err = s.doReserve(ctx, r)
	case stepCommit:
		if err = r.Read(&struct{}{}); err == nil {
			op, err = s.store.do(ctx, s.store.committing(ctx, ownerOf(r), r.Digest))
		}
	default:
		err = fmt.Errorf("%w: there is no step %s here", participant.ErrBadRequest, r.Step)
	}
	if err != nil {
		return participant.Result{}, err
	}
	return op.Answer(ledger.Doing), nil
}

func (s *Service) doReserve(ctx context.Context, r participant.Request) (ledger.Operation, error) {
	var input reservationInput
	if err := r.Read(&input); err != nil {
		return ledger.Operation{}, err
	}
	same := &warehousev1.ReserveRequest{OrderId: r.Key}
	for _, l := range input.Lines {
		same.Lines = append(same.Lines, &warehousev1.Line{Sku: l.SKU, Quantity: l.Quantity})
	}
	if err := ledger.BadInput(same); err != nil {
		return ledger.Operation{}, err
	}
	return s.reserve(ctx, ownerOf(r), same.Lines, r.Digest)
}

// Undo is participant.Participant's. What is undone is known by whose it is, so that the input is not looked at.
func (s *Service) Undo(ctx context.Context, r participant.Request) (participant.Result, error) {
	if err := r.Check(); err != nil {
		return participant.Result{}, err
	}
	if r.Step != stepReserve {
		return participant.Result{}, fmt.Errorf("%w: there is no step %s here that can be undone", participant.ErrBadRequest, r.Step)
	}
	op, err := s.store.do(ctx, s.store.releasing(ctx, ownerOf(r), ""))
	if err != nil {
		return participant.Result{}, err
	}
	return op.Answer(ledger.Undoing), nil
}

func ownerOf(r participant.Request) owner { return owner{r.Definition, r.Key} }
