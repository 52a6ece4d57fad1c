package payment

import (
	"context"
	"fmt"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// By the contract payment does its steps for a saga of any definition.
var (
	_ participant.Participant = (*Service)(nil)
	_ participant.Keeper      = (*Service)(nil)
	_ participant.Bound       = (*Service)(nil)
)

// authorizationInput is what authorize-payment is asked with. To void it, no more need be said than whose it is.
type authorizationInput struct {
	CustomerID    string      `json:"customer_id"`
	Amount        amountInput `json:"amount"`
	PaymentMethod string      `json:"payment_method"`
}

// captureInput is what capture-payment is asked with: the whole of what was authorized. Giving it back needs no more than whose it is.
type captureInput struct {
	Amount amountInput `json:"amount"`
}

type amountInput struct {
	Currency   string `json:"currency"`
	MinorUnits int64  `json:"minor_units"`
}

func (a amountInput) message() *operationv1.Money {
	return &operationv1.Money{Currency: a.Currency, MinorUnits: a.MinorUnits}
}

// Does is participant.Bound's.
func (s *Service) Does(_, step string) (does, undoes bool) {
	has := step == stepAuthorize || step == stepCapture
	return has, has
}

// Do is participant.Participant's.
func (s *Service) Do(ctx context.Context, r participant.Request) (participant.Result, error) {
	if err := r.Check(); err != nil {
		return participant.Result{}, err
	}
	switch r.Step {
	case stepAuthorize:
		return s.doAuthorize(ctx, r)
	case stepCapture:
		return s.doCapture(ctx, r)
	}
	return participant.Result{}, noSuchStep(r)
}

func (s *Service) doAuthorize(ctx context.Context, r participant.Request) (participant.Result, error) {
	var input authorizationInput
	if err := r.Read(&input); err != nil {
		return participant.Result{}, err
	}
	if err := ledger.BadInput(&paymentv1.AuthorizeRequest{
		OrderId: r.Key, CustomerId: input.CustomerID, Amount: input.Amount.message(), PaymentMethod: input.PaymentMethod,
	}); err != nil {
		return participant.Result{}, err
	}
	return s.authorize(ctx, request{
		payer: payerOf(r.ID()), customerID: input.CustomerID, method: input.PaymentMethod, amount: ledger.Amount(input.Amount), digest: r.Digest,
	})
}

func (s *Service) doCapture(ctx context.Context, r participant.Request) (participant.Result, error) {
	var input captureInput
	if err := r.Read(&input); err != nil {
		return participant.Result{}, err
	}
	if err := ledger.BadInput(&paymentv1.CaptureRequest{OrderId: r.Key, Amount: input.Amount.message()}); err != nil {
		return participant.Result{}, err
	}
	return s.capture(ctx, payerOf(r.ID()), ledger.Amount(input.Amount), r.Digest)
}

// Undo is participant.Participant's. What is undone is known by whose it is, so that the input is not looked at.
func (s *Service) Undo(ctx context.Context, r participant.Request) (participant.Result, error) {
	if err := r.Check(); err != nil {
		return participant.Result{}, err
	}
	switch r.Step {
	case stepAuthorize:
		return s.void(ctx, payerOf(r.ID()))
	case stepCapture:
		return s.refund(ctx, payerOf(r.ID()))
	}
	return participant.Result{}, noSuchStep(r)
}

func noSuchStep(r participant.Request) error {
	return fmt.Errorf("%w: there is no step %s here", participant.ErrBadRequest, r.Step)
}
