package main

import (
	"encoding/json"
	"time"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/cli/sagaverbs"
)

// The views are what -o json and -o yaml print. Scripts rely on them: fields are added, never changed; what is not there
// is null or empty, but named.

type itemView struct {
	SKU      string `json:"sku"`
	Quantity int32  `json:"quantity"`
}

type checkoutView struct {
	OrderID          string                   `json:"order_id"`
	Status           string                   `json:"status"`
	Phase            string                   `json:"phase"`
	Coordination     string                   `json:"coordination"`
	Engine           string                   `json:"engine"`
	Run              int32                    `json:"run"`
	CustomerID       string                   `json:"customer_id"`
	Amount           *cli.MoneyView           `json:"amount"`
	StartedAt        *time.Time               `json:"started_at"`
	UpdatedAt        *time.Time               `json:"updated_at"`
	EndedAt          *time.Time               `json:"ended_at"`
	Deadline         *time.Time               `json:"deadline"`
	ApprovalDeadline *time.Time               `json:"approval_deadline"`
	Reason           string                   `json:"reason"`
	ReasonCode       string                   `json:"reason_code"`
	Held             heldView                 `json:"held"`
	Attention        *sagaverbs.AttentionView `json:"attention"`
	Steps            []sagaverbs.StepView     `json:"steps"`
	// What a verb did, where it did something.
	*sagaverbs.Done
}

type heldView struct {
	Stock           []itemView     `json:"stock"`
	Authorized      *cli.MoneyView `json:"authorized"`
	AuthorizedUntil *time.Time     `json:"authorized_until"`
	Captured        *cli.MoneyView `json:"captured"`
}

// orderView is order.json: what `start -f` reads and `history` shows.
type orderView struct {
	OrderID          string     `json:"order_id"`
	CustomerID       string     `json:"customer_id"`
	Currency         string     `json:"currency"`
	Items            []itemView `json:"items"`
	PaymentMethod    string     `json:"payment_method"`
	Deadline         string     `json:"deadline,omitempty"`
	ApprovalDeadline string     `json:"approval_deadline,omitempty"`
	Coordination     string     `json:"coordination,omitempty"`
}

type historyView struct {
	OrderID    string          `json:"order_id"`
	Request    orderView       `json:"request"`
	Prices     []priceView     `json:"prices"`
	Entries    []entryView     `json:"entries"`
	Operations []operationView `json:"operations"`
	// Unreachable names the processes whose events are missing among the entries.
	Unreachable []string      `json:"unreachable"`
	Checkout    *checkoutView `json:"checkout"`
}

type priceView struct {
	SKU       string         `json:"sku"`
	UnitPrice *cli.MoneyView `json:"unit_price"`
}

type entryView struct {
	At         *time.Time `json:"at"`
	Kind       string     `json:"kind"`
	Step       string     `json:"step"`
	Attempt    int32      `json:"attempt"`
	Actor      string     `json:"actor"`
	Reason     string     `json:"reason"`
	Topic      string     `json:"topic"`
	EventID    string     `json:"event_id"`
	DurationMS int64      `json:"duration_ms"`
	Outcome    string     `json:"outcome"`
	Error      string     `json:"error"`
	// Data is what an event says; null for other kinds.
	Data json.RawMessage `json:"data"`
}

type operationView struct {
	Participant string         `json:"participant"`
	Step        string         `json:"step"`
	Do          string         `json:"do"`
	Undo        string         `json:"undo"`
	Reference   string         `json:"reference"`
	Reason      string         `json:"reason"`
	Amount      *cli.MoneyView `json:"amount"`
	CreatedAt   *time.Time     `json:"created_at"`
	UpdatedAt   *time.Time     `json:"updated_at"`
}

func viewCheckout(c *checkoutv1.Checkout) checkoutView {
	return checkoutView{
		OrderID: c.GetOrderId(), Status: sagaverbs.StatusWord(c.GetStatus()), Phase: c.GetPhase(), Coordination: c.GetCoordination(),
		Engine: c.GetEngine(), Run: c.GetRun(), CustomerID: c.GetCustomerId(), Amount: cli.ViewMoney(c.GetAmount()),
		StartedAt: cli.ViewTime(c.GetStartedAt()), UpdatedAt: cli.ViewTime(c.GetUpdatedAt()), EndedAt: cli.ViewTime(c.GetEndedAt()),
		Deadline: cli.ViewTime(c.GetDeadline()), ApprovalDeadline: cli.ViewTime(c.GetApprovalDeadline()),
		Reason: c.GetReason(), ReasonCode: c.GetReasonCode(),
		Held: heldView{
			Stock: viewItems(c.GetHeld().GetStock()), Authorized: cli.ViewMoney(c.GetHeld().GetAuthorized()),
			AuthorizedUntil: cli.ViewTime(c.GetHeld().GetAuthorizedUntil()), Captured: cli.ViewMoney(c.GetHeld().GetCaptured()),
		},
		Attention: sagaverbs.ViewAttention(c.GetAttention()), Steps: sagaverbs.ViewSteps(c.GetSteps()),
	}
}

func viewHistory(h *checkoutv1.HistoryResponse) historyView {
	request := h.GetRequest()
	view := historyView{
		OrderID: h.GetOrderId(),
		Request: orderView{
			OrderID: request.GetOrderId(), CustomerID: request.GetCustomerId(), Currency: request.GetCurrency(),
			Items: viewItems(request.GetItems()), PaymentMethod: request.GetPaymentMethod(), Coordination: request.GetCoordination(),
		},
		Prices: []priceView{}, Entries: []entryView{}, Operations: []operationView{}, Unreachable: append([]string{}, h.GetUnreachable()...),
	}
	if h.GetCheckout() != nil {
		checkout := viewCheckout(h.Checkout)
		view.Checkout = &checkout
	}
	if d := request.GetDeadline(); d != nil {
		view.Request.Deadline = d.AsDuration().String()
	}
	if d := request.GetApprovalDeadline(); d != nil {
		view.Request.ApprovalDeadline = d.AsDuration().String()
	}
	for _, p := range h.GetPrices() {
		view.Prices = append(view.Prices, priceView{SKU: p.Sku, UnitPrice: cli.ViewMoney(p.UnitPrice)})
	}
	for _, e := range h.GetEntries() {
		view.Entries = append(view.Entries, viewEntry(e))
	}
	for _, o := range h.GetOperations() {
		view.Operations = append(view.Operations, operationView{
			Participant: o.Participant, Step: o.Step, Do: o.Do, Undo: o.Undo, Reference: o.Reference,
			Reason: o.Reason, Amount: cli.ViewMoney(o.Amount), CreatedAt: cli.ViewTime(o.CreatedAt), UpdatedAt: cli.ViewTime(o.UpdatedAt),
		})
	}
	return view
}

func viewEntry(e *checkoutv1.Entry) entryView {
	view := entryView{
		At: cli.ViewTime(e.At), Kind: e.Kind, Step: e.Step, Attempt: e.Attempt, Actor: e.Actor, Reason: e.Reason, Topic: e.Topic,
		EventID: e.EventId, DurationMS: e.DurationMs, Outcome: e.Outcome, Error: e.Error, Data: json.RawMessage("null"),
	}
	if json.Valid([]byte(e.Data)) {
		view.Data = json.RawMessage(e.Data)
	}
	return view
}

func viewItems(items []*checkoutv1.Item) []itemView {
	views := make([]itemView, len(items))
	for i, item := range items {
		views[i] = itemView{SKU: item.Sku, Quantity: item.Quantity}
	}
	return views
}
