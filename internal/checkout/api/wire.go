package api

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	sagaapi "github.com/checkoutsaga/orchestrator/internal/sagas/api"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

func toWire(c orders.Checkout) *checkoutv1.Checkout {
	out := &checkoutv1.Checkout{
		OrderId: c.Key, Status: checkoutv1.Status(sagaapi.StatusNumber(c.Status)), Phase: string(c.Phase), Coordination: c.Coordination(),
		Engine: c.Engine, Run: int32(c.Run), CustomerId: c.CustomerID, Amount: toWireMoney(c.Amount),
		StartedAt: timestamppb.New(c.StartedAt), UpdatedAt: timestamppb.New(c.UpdatedAt), EndedAt: toWireTime(c.EndedAt),
		Deadline: timestamppb.New(c.Deadline), Reason: c.Reason, Held: held(c),
		ReasonCode: c.ReasonCode, ApprovalDeadline: toWireTime(c.ApprovalDeadline),
	}
	if a := c.Attention; a != nil {
		out.Attention = &checkoutv1.Attention{
			Step: a.Step, Cause: a.Cause, Since: timestamppb.New(a.Since), Attempts: int32(a.Attempts), LastError: a.LastError,
			Code: string(a.Code), Advice: advice(c),
		}
		if !a.Next.IsZero() {
			out.Attention.Next = timestamppb.New(a.Next)
		}
	}
	for _, s := range c.Steps {
		out.Steps = append(out.Steps, &checkoutv1.Step{
			Name: s.Name, Participant: s.Participant, State: s.State, Attempts: int32(s.Attempts),
			StartedAt: toWireTime(s.StartedAt), EndedAt: toWireTime(s.EndedAt), Error: s.Error, Compensation: s.CompensationState,
		})
	}
	return out
}

// held is what the participants hold for the order as far as the row knows: what a step did and its compensation has not
// made undone.
func held(c orders.Checkout) *checkoutv1.Held {
	out := &checkoutv1.Held{}
	if inPlace(c, checkout.ReserveStock) {
		for _, item := range c.Items {
			out.Stock = append(out.Stock, &checkoutv1.Item{Sku: item.SKU, Quantity: item.Quantity})
		}
	}
	switch {
	case inPlace(c, checkout.CapturePayment):
		out.Captured = toWireMoney(c.Amount) // Capturing ends the authorization.
	case inPlace(c, checkout.AuthorizePayment) && !captured(c):
		out.Authorized = toWireMoney(c.Amount)
		out.AuthorizedUntil = toWireTime(step(c, checkout.AuthorizePayment).ValidUntil)
	}
	return out
}

func inPlace(c orders.Checkout, name string) bool {
	s := step(c, name)
	return s.InPlace()
}

// captured tells whether the authorization was used up, whatever became of the money since.
func captured(c orders.Checkout) bool {
	s := step(c, checkout.CapturePayment)
	return s.State == journal.StateDone || s.State == journal.StateResolved
}

// step is the checkout's step of a name; the zero step where it has none.
func step(c orders.Checkout, name string) journal.Step {
	for _, s := range c.Steps {
		if s.Name == name {
			return s
		}
	}
	return journal.Step{}
}

func toWireMoney(m checkout.Money) *operationv1.Money {
	return &operationv1.Money{Currency: m.Currency, MinorUnits: m.MinorUnits}
}

func toWireTime(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}
