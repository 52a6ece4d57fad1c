package main

import (
	"encoding/json"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
)

// The views are what -o json and -o yaml print. Scripts rely on them: fields are added, never changed; what is not there
// is null or empty, but named.

type moneyView struct {
	Currency   string `json:"currency"`
	MinorUnits int64  `json:"minor_units"`
}

type itemView struct {
	SKU      string `json:"sku"`
	Quantity int32  `json:"quantity"`
}

type checkoutView struct {
	OrderID          string         `json:"order_id"`
	Status           string         `json:"status"`
	Phase            string         `json:"phase"`
	Coordination     string         `json:"coordination"`
	Engine           string         `json:"engine"`
	Run              int32          `json:"run"`
	CustomerID       string         `json:"customer_id"`
	Amount           *moneyView     `json:"amount"`
	StartedAt        *time.Time     `json:"started_at"`
	UpdatedAt        *time.Time     `json:"updated_at"`
	EndedAt          *time.Time     `json:"ended_at"`
	Deadline         *time.Time     `json:"deadline"`
	ApprovalDeadline *time.Time     `json:"approval_deadline"`
	Reason           string         `json:"reason"`
	ReasonCode       string         `json:"reason_code"`
	Held             heldView       `json:"held"`
	Attention        *attentionView `json:"attention"`
	Steps            []stepView     `json:"steps"`
}

type heldView struct {
	Stock           []itemView `json:"stock"`
	Authorized      *moneyView `json:"authorized"`
	AuthorizedUntil *time.Time `json:"authorized_until"`
	Captured        *moneyView `json:"captured"`
}

type attentionView struct {
	Step      string     `json:"step"`
	Cause     string     `json:"cause"`
	Since     *time.Time `json:"since"`
	Attempts  int32      `json:"attempts"`
	LastError string     `json:"last_error"`
	// Next is what an operator can do, in words; NextAttempt is when it is tried again by itself.
	Next        string     `json:"next"`
	NextAttempt *time.Time `json:"next_attempt"`
	Code        string     `json:"code"`
}

type stepView struct {
	Name         string     `json:"name"`
	Participant  string     `json:"participant"`
	State        string     `json:"state"`
	Attempts     int32      `json:"attempts"`
	StartedAt    *time.Time `json:"started_at"`
	EndedAt      *time.Time `json:"ended_at"`
	Error        string     `json:"error"`
	Compensation string     `json:"compensation"`
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
	SKU       string     `json:"sku"`
	UnitPrice *moneyView `json:"unit_price"`
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
	Participant string     `json:"participant"`
	Step        string     `json:"step"`
	Do          string     `json:"do"`
	Undo        string     `json:"undo"`
	Reference   string     `json:"reference"`
	Reason      string     `json:"reason"`
	Amount      *moneyView `json:"amount"`
	CreatedAt   *time.Time `json:"created_at"`
	UpdatedAt   *time.Time `json:"updated_at"`
}

func viewCheckout(c *checkoutv1.Checkout) checkoutView {
	view := checkoutView{
		OrderID: c.GetOrderId(), Status: statusWord(c.GetStatus()), Phase: c.GetPhase(), Coordination: c.GetCoordination(),
		Engine: c.GetEngine(), Run: c.GetRun(), CustomerID: c.GetCustomerId(), Amount: viewMoney(c.GetAmount()),
		StartedAt: viewTime(c.GetStartedAt()), UpdatedAt: viewTime(c.GetUpdatedAt()), EndedAt: viewTime(c.GetEndedAt()),
		Deadline: viewTime(c.GetDeadline()), ApprovalDeadline: viewTime(c.GetApprovalDeadline()),
		Reason: c.GetReason(), ReasonCode: c.GetReasonCode(),
		Held: heldView{
			Stock: viewItems(c.GetHeld().GetStock()), Authorized: viewMoney(c.GetHeld().GetAuthorized()),
			AuthorizedUntil: viewTime(c.GetHeld().GetAuthorizedUntil()), Captured: viewMoney(c.GetHeld().GetCaptured()),
		},
		Steps: []stepView{},
	}
	if a := c.GetAttention(); a != nil {
		view.Attention = &attentionView{
			Step: a.Step, Cause: a.Cause, Since: viewTime(a.Since), Attempts: a.Attempts, LastError: a.LastError,
			Next: a.Advice, NextAttempt: viewTime(a.Next), Code: a.Code,
		}
	}
	for _, s := range c.GetSteps() {
		view.Steps = append(view.Steps, stepView{
			Name: s.Name, Participant: s.Participant, State: s.State, Attempts: s.Attempts,
			StartedAt: viewTime(s.StartedAt), EndedAt: viewTime(s.EndedAt), Error: s.Error, Compensation: s.Compensation,
		})
	}
	return view
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
		view.Prices = append(view.Prices, priceView{SKU: p.Sku, UnitPrice: viewMoney(p.UnitPrice)})
	}
	for _, e := range h.GetEntries() {
		view.Entries = append(view.Entries, viewEntry(e))
	}
	for _, o := range h.GetOperations() {
		view.Operations = append(view.Operations, operationView{
			Participant: o.Participant, Step: o.Step, Do: o.Do, Undo: o.Undo, Reference: o.Reference,
			Reason: o.Reason, Amount: viewMoney(o.Amount), CreatedAt: viewTime(o.CreatedAt), UpdatedAt: viewTime(o.UpdatedAt),
		})
	}
	return view
}

func viewEntry(e *checkoutv1.Entry) entryView {
	view := entryView{
		At: viewTime(e.At), Kind: e.Kind, Step: e.Step, Attempt: e.Attempt, Actor: e.Actor, Reason: e.Reason, Topic: e.Topic,
		EventID: e.EventId, DurationMS: e.DurationMs, Outcome: e.Outcome, Error: e.Error, Data: json.RawMessage("null"),
	}
	if json.Valid([]byte(e.Data)) {
		view.Data = json.RawMessage(e.Data)
	}
	return view
}

func viewMoney(m *operationv1.Money) *moneyView {
	if m == nil {
		return nil
	}
	return &moneyView{Currency: m.Currency, MinorUnits: m.MinorUnits}
}

func viewItems(items []*checkoutv1.Item) []itemView {
	views := make([]itemView, len(items))
	for i, item := range items {
		views[i] = itemView{SKU: item.Sku, Quantity: item.Quantity}
	}
	return views
}

func viewTime(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	utc := t.AsTime()
	return &utc
}

// statusWord is a status as people and scripts read it.
func statusWord(s checkoutv1.Status) string {
	return strings.TrimPrefix(s.String(), "STATUS_")
}
