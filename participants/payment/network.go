package payment

import (
	"context"

	"github.com/checkoutsaga/orchestrator/participants/payment/sandbox"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// Action is what a card network is asked to do.
type Action string

// The actions.
const (
	Authorize Action = "authorize"
	Capture   Action = "capture"
	Void      Action = "void"
	Refund    Action = "refund"
)

// Charge is one effect that a card network is asked for.
type Charge struct {
	Action Action
	// Key is the idempotency key. The network applies at most one effect for it, whoever asks how often.
	Key string
	// OrderID is what the network is told that it is about.
	OrderID       string
	PaymentMethod string
	Amount        ledger.Amount
}

// Network is the seam to the card network. Ask asks for one effect and waits, as long as ctx allows, for what became of it. It
// may be called any number of times, and from many goroutines, with the same charge.
//
// An empty refusal means that the effect is in place; of Void also that there is nothing to void any more. A refusal of
// Authorize or Capture is final and means that nothing was applied. A refusal of Void or Refund is not: the money has to move
// in the end, so payment goes on asking. An error says nothing about the effect: it may be in place.
type Network interface {
	Ask(ctx context.Context, c Charge) (refusal string, err error)
}

// sandboxNetwork speaks to the sandbox gateway as to any provider: in the gateway's words.
type sandboxNetwork struct{ gateway *sandbox.Gateway }

func (n sandboxNetwork) Ask(ctx context.Context, c Charge) (string, error) {
	return n.gateway.Charge(ctx, sandbox.Request{
		Kind: sandbox.Kind(c.Action), Key: c.Key, OrderID: c.OrderID, PaymentMethod: c.PaymentMethod,
		Currency: c.Amount.Currency, MinorUnits: c.Amount.MinorUnits,
	})
}
