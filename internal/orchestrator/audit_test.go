package orchestrator_test

import (
	"errors"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
)

func (f *fixture) audit(t *testing.T, orderID string) (checked int64, violations []string, err error) {
	t.Helper()
	stream, err := f.api.Audit(t.Context(), connect.NewRequest(&checkoutv1.AuditRequest{OrderId: orderID}))
	require.NoError(t, err)
	for stream.Receive() {
		checked = stream.Msg().Checked
		for _, v := range stream.Msg().Violations {
			violations = append(violations, v.OrderId+" "+v.Invariant+": "+v.What)
		}
	}
	return checked, violations, stream.Err()
}

// ended is a world with a confirmed, a declined, a cancelled and an open checkout, all in order.
func ended(t *testing.T) *fixture {
	t.Helper()
	f := setup(t)
	for _, id := range []string{"confirmed", "declined", "cancelled", "open"} {
		f.start(t, order(withID(id)))
	}
	f.confirm(t, "confirmed")
	f.decline(t, "declined")
	_, err := f.cancel(t, &checkoutv1.CancelRequest{OrderId: "cancelled", Reason: "r"})
	require.NoError(t, err)
	f.do(t, "open", checkout.ReserveStock, false, checkout.Applied, "")
	return f
}

func TestI1AuditFindsNothingWhereNothingIsWrong(t *testing.T) {
	f := ended(t)
	checked, violations, err := f.audit(t, "")
	require.NoError(t, err)
	require.EqualValues(t, 3, checked)
	require.Empty(t, violations)
}

func TestI1AuditFindsEachWayToDisagree(t *testing.T) {
	const applied = operationv1.Outcome_OUTCOME_APPLIED
	key := func(order, step string) [2]string { return [2]string{order, step} }
	for name, c := range map[string]struct {
		breakIt func(*fixture)
		want    string
	}{
		"a confirmed order whose stock was not shipped": {
			func(f *fixture) { delete(f.warehouse.operations, key("confirmed", checkout.CommitStock)) },
			"confirmed I1: CONFIRMED, but the warehouse has not committed its stock",
		},
		"a confirmed order with other goods": {
			func(f *fixture) { f.warehouse.reservations["confirmed"][0].Quantity = 1 },
			"confirmed I1: CONFIRMED, but the warehouse has committed [CHAIR-OAK×1 LAMP-BRASS×1] and the order is for [CHAIR-OAK×2 LAMP-BRASS×1]",
		},
		"a confirmed order with too little money": {
			func(f *fixture) { f.payment.operations[key("confirmed", checkout.CapturePayment)].Amount.MinorUnits-- },
			"confirmed I1: CONFIRMED, but payment has captured 12996 EUR of 12997 EUR",
		},
		"a confirmed order whose money was given back": {
			func(f *fixture) { f.payment.operations[key("confirmed", checkout.CapturePayment)].Undo = applied },
			"confirmed I1: CONFIRMED, but payment has captured 0 EUR of 12997 EUR",
		},
		"a declined order that still holds stock": {
			func(f *fixture) { f.warehouse.operations[key("declined", checkout.ReserveStock)].Undo = 0 },
			"declined I1: REJECTED, but the warehouse still holds its stock",
		},
		"a declined order with a hold on the card": {
			func(f *fixture) { f.payment.operations[key("declined", checkout.AuthorizePayment)].Do = applied },
			"declined I1: REJECTED, but payment still holds its authorization",
		},
		"a declined order that payment is not sure of": {
			func(f *fixture) {
				f.payment.operations[key("declined", checkout.AuthorizePayment)].Do = operationv1.Outcome_OUTCOME_UNKNOWN
			},
			"declined I1: REJECTED, but payment still holds its authorization (authorize-payment unknown)",
		},
		"a cancelled order that was charged": {
			func(f *fixture) {
				f.payment.operations[key("cancelled", checkout.CapturePayment)] = &operationv1.Operation{
					OrderId: "cancelled", Step: checkout.CapturePayment, Do: applied, Amount: &operationv1.Money{Currency: "EUR", MinorUnits: 5},
				}
			},
			"cancelled I1: CANCELLED, but payment has captured 5 EUR and not given it back",
		},
		"an order that only a participant knows": {
			func(f *fixture) {
				f.warehouse.operations[key("stranger", checkout.ReserveStock)] = &operationv1.Operation{OrderId: "stranger", Step: checkout.ReserveStock}
			},
			"stranger I1: warehouse has a record of reserve-stock for an order that was never accepted here",
		},
		"an open order in which nothing happens": {
			func(f *fixture) {
				_, err := f.pool.Exec(t.Context(), `UPDATE checkouts SET updated_at = now() - interval '11 minutes' WHERE order_id = 'open'`)
				require.NoError(t, err)
			},
			"open I3: RUNNING in phase forward, and nothing has been written since",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := ended(t)
			c.breakIt(f)
			_, violations, err := f.audit(t, "")
			require.NoError(t, err)
			require.Len(t, violations, 1)
			require.Contains(t, violations[0], c.want)
		})
	}
}

func TestI1AnAuthorizationThatRanOutHoldsNothing(t *testing.T) {
	f := ended(t)
	f.payment.operations[[2]string{"declined", checkout.AuthorizePayment}].Do = operationv1.Outcome_OUTCOME_APPLIED
	capture := &operationv1.Operation{OrderId: "declined", Step: checkout.CapturePayment, Do: operationv1.Outcome_OUTCOME_REJECTED}
	f.payment.operations[[2]string{"declined", checkout.CapturePayment}] = capture
	_, violations, err := f.audit(t, "")
	require.NoError(t, err)
	require.Len(t, violations, 1, "refused for another reason, it stands")
	capture.Reason = "authorization_expired"
	_, violations, err = f.audit(t, "")
	require.NoError(t, err)
	require.Empty(t, violations)
}

func TestI1AuditOfOneOrder(t *testing.T) {
	f := ended(t)
	delete(f.warehouse.operations, [2]string{"confirmed", checkout.CommitStock})
	checked, violations, err := f.audit(t, "declined")
	require.NoError(t, err)
	require.EqualValues(t, 1, checked)
	require.Empty(t, violations, "others are not looked at")

	checked, _, err = f.audit(t, "open")
	require.NoError(t, err)
	require.Zero(t, checked, "an open checkout promises nothing yet")

	_, _, err = f.audit(t, "nope")
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
}

func TestAuditCannotJudgeWithoutAParticipant(t *testing.T) {
	f := ended(t)
	f.warehouse.down = connect.NewError(connect.CodeUnavailable, errors.New("connection refused"))
	_, violations, err := f.audit(t, "")
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
	require.ErrorContains(t, err, "ask warehouse")
	require.Empty(t, violations)
}
