package api_test

import (
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
)

// takenAsDone notes that an operator took a step as done without proof.
func (f *fixture) takenAsDone(t *testing.T, orderID, step string, at time.Time) {
	t.Helper()
	_, err := f.pool.Exec(t.Context(), `
		INSERT INTO commands (definition, key, at, kind, step, actor, reason, outcome, without_proof)
		VALUES ('checkout', $1, $2, 'resolve', $3, 'ann', 'counted by hand', 'done', true)`, orderID, at, step)
	require.NoError(t, err)
}

func TestWhatAnOperatorTookAsDoneIsToldAndNoViolation(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		orderID, step string
		breakIt       func(*fixture)
		accepted      string
		violations    []string
	}{
		"a compensation": {
			orderID: "declined", step: checkout.ReleaseStock,
			breakIt:  func(f *fixture) { f.warehouse.operations[opKey("declined", checkout.ReserveStock)].Undo = 0 },
			accepted: "declined release-stock by ann (counted by hand): the warehouse still holds its stock (reserve-stock applied)",
		},
		"a step": {
			orderID: "confirmed", step: checkout.CommitStock,
			breakIt:  func(f *fixture) { delete(f.warehouse.operations, opKey("confirmed", checkout.CommitStock)) },
			accepted: "confirmed commit-stock by ann (counted by hand): the warehouse has not committed its stock (reserve-stock applied, commit-stock not on record)",
		},
		"a step in which nothing differs": {
			orderID: "confirmed", step: checkout.CommitStock, breakIt: func(*fixture) {},
			accepted: "confirmed commit-stock by ann (counted by hand): ",
		},
		"a step, and another one is wrong": {
			orderID: "confirmed", step: checkout.CommitStock,
			breakIt: func(f *fixture) {
				delete(f.warehouse.operations, opKey("confirmed", checkout.CommitStock))
				delete(f.payment.operations, opKey("confirmed", checkout.CapturePayment))
			},
			accepted:   "confirmed commit-stock by ann (counted by hand): the warehouse has not committed its stock (reserve-stock applied, commit-stock not on record)",
			violations: []string{"confirmed I1: CONFIRMED, but payment has captured nothing of 129.97 EUR (capture-payment not on record)"},
		},
		"a step, and the same is wrong with another order": {
			orderID: "cancelled", step: checkout.ReleaseStock,
			breakIt:    func(f *fixture) { f.warehouse.operations[opKey("declined", checkout.ReserveStock)].Undo = 0 },
			accepted:   "cancelled release-stock by ann (counted by hand): ",
			violations: []string{"declined I1: REJECTED, but the warehouse still holds its stock (reserve-stock applied)"},
		},
		"a step of an open checkout": {
			orderID: "open", step: checkout.AuthorizePayment, breakIt: func(*fixture) {},
			accepted: "open authorize-payment by ann (counted by hand): its checkout is RUNNING in phase forward: it is compared once it has ended",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := ended(t)
			c.breakIt(f)
			f.takenAsDone(t, c.orderID, c.step, now)
			h := f.auditAll(t, &checkoutv1.AuditRequest{})
			require.Equal(t, []string{c.accepted}, h.accepted)
			require.Equal(t, c.violations, h.violations)
			h = f.auditAll(t, &checkoutv1.AuditRequest{OrderId: c.orderID})
			require.Equal(t, []string{c.accepted}, h.accepted)
		})
	}
}

func TestWhatWasTakenAsDoneIsToldAlsoWhereTheCheckoutIsNoLongerKept(t *testing.T) {
	t.Parallel()
	f := ended(t)
	_, err := f.pool.Exec(t.Context(), `INSERT INTO forgotten_sagas (definition, key, idempotency_key, status, ended_at) VALUES ('checkout', 'old', 'old', 'CANCELLED', '2020-01-02Z')`)
	require.NoError(t, err)
	f.takenAsDone(t, "old", checkout.ReleaseStock, time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC))
	const old = "old release-stock by ann (counted by hand): its checkout is no longer kept: it ended CANCELLED at 2020-01-02T00:00:00Z"
	require.Equal(t, []string{old}, f.auditAll(t, &checkoutv1.AuditRequest{}).accepted)

	h := f.auditAll(t, &checkoutv1.AuditRequest{OrderId: "old"})
	require.Equal(t, []string{old}, h.accepted)
	require.Contains(t, h.notes, "old is no longer kept: it ended CANCELLED at 2020-01-02T00:00:00Z")
	_, _, err = f.audit(t, "never")
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
}

func TestAnAuditSinceATimeTellsWhatWasTakenAsDoneSince(t *testing.T) {
	t.Parallel()
	f := ended(t)
	now := time.Now()
	f.takenAsDone(t, "open", checkout.ReserveStock, now.Add(-2*time.Hour))
	f.takenAsDone(t, "open", checkout.AuthorizePayment, now)
	since := func(d time.Duration) []string {
		return f.auditAll(t, &checkoutv1.AuditRequest{Since: timestamppb.New(now.Add(-d))}).accepted
	}
	require.Len(t, since(3*time.Hour), 2)
	require.Len(t, since(time.Hour), 1)
	require.Empty(t, since(-time.Hour))
}

// What a participant has lost, with its record, and an operator took as done: the event that it had told of it is no violation.
func TestI5WhatWasToldOfAStepThatAnOperatorTookAsDoneIsNoViolation(t *testing.T) {
	t.Parallel()
	w := endings(t)
	delete(w.fixture.warehouse.operations, opKey("confirmed", checkout.CommitStock))
	violations, _ := w.audited(t)
	require.Len(t, violations, 2)
	w.takenAsDone(t, "confirmed", checkout.CommitStock, time.Now())
	h := w.auditAll(t, &checkoutv1.AuditRequest{})
	require.Empty(t, h.violations)
	require.Equal(t, []string{"confirmed commit-stock by ann (counted by hand): the warehouse has not committed its stock (reserve-stock applied, " +
		"commit-stock not on record); commit-stock is not on record, and warehouse has written warehouse.inventory.committed all the same"}, h.accepted)
}
