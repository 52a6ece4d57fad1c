package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/node"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// approvedInUSD lets every order in USD, and none in EUR, await approval.
var approvedInUSD = node.Amounts{"USD": 0}

const (
	paymentHeldBack = `participant_held_back{participant="payment"}`
	paymentOpened   = `participant_breaker_opened_total{participant="payment"}`
)

func TestI3AParticipantThatIsDownForAllIsOneAlarm(t *testing.T) {
	t.Parallel()
	const atAuthorize, atCapture = 50, 10
	s := harness.StartShop(t)
	s.Config.ApprovalAbove = approvedInUSD
	s.Open(t)
	s.WatchSums(t)

	// These are approved while payment is down, so that what is held back is the pivot.
	pivots := startMany(t, s.System, "pivot", atCapture, inUSD)
	for _, id := range pivots {
		s.AwaitStatus(t, id, checkoutv1.Status_STATUS_AWAITING_APPROVAL)
	}
	s.PaymentProxy.Down()
	orders := startMany(t, s.System, "down", atAuthorize, harness.Order{})
	noticed := harness.Within(t, time.Minute, "payment to be held back", func(ctx context.Context) error {
		return isMetric(ctx, s, paymentHeldBack, "1")
	})
	t.Logf("it was noticed %s after the last order", noticed.Round(time.Millisecond))
	for _, id := range pivots {
		approve(t, s.System, id)
	}
	harness.Eventually(t, "all to be held back", func(ctx context.Context) error {
		for _, id := range append(orders, pivots...) {
			c, err := s.Get(ctx, id)
			if err != nil {
				return err
			}
			at := c.Steps[1]
			if strings.HasPrefix(id, "pivot") {
				at = c.Steps[3]
			}
			if !strings.HasPrefix(at.Error, "held back: payment has not answered since ") {
				return fmt.Errorf("%s: %s: %q", id, harness.Steps(c), at.Error)
			}
			if at.State != "failing" || c.Phase != "forward" {
				return fmt.Errorf("%s is in phase %s, and its step is %s", id, c.Phase, at.State)
			}
		}
		return nil
	})

	// The one alarm, in both places where somebody looks.
	finding := findingOf(t, s.System, "held back")
	require.False(t, finding.Ok)
	require.Contains(t, finding.Detail, "payment is not called")
	require.Contains(t, finding.Mend, "mend payment")

	// The wish is granted at once, though nothing can be undone before payment says what it did.
	cancelled := append(orders[:3:3], pivots[:3]...)
	for _, id := range cancelled {
		_, err := s.Cancel(t.Context(), id)
		require.NoError(t, err)
	}
	harness.Within(t, 10*time.Second, "the cancels to be seen", func(ctx context.Context) error {
		for _, id := range cancelled {
			if c, err := s.Get(ctx, id); err != nil || c.Phase != "undoing" {
				return errors.Join(err, fmt.Errorf("%s is in phase %s", id, c.GetPhase()))
			}
		}
		return nil
	})

	s.PaymentProxy.Up(t)
	// Each would ask again after two minutes by itself.
	took := s.AwaitAllEnded(t, time.Minute)
	t.Logf("all %d had ended %s after payment was back", atAuthorize+atCapture, took.Round(time.Millisecond))
	for _, id := range append(orders, pivots...) {
		want := harness.Confirmed
		if slices.Contains(cancelled, id) {
			want = harness.Cancelled
		}
		require.EqualValues(t, 1, s.AwaitEnd(t, id, want).Run, "no run is spent on what is no fault of the checkout's")
	}
	require.Zero(t, query[int](t, s.System, `SELECT count(*) FROM entries WHERE kind = 'status' AND outcome = 'NEEDS_ATTENTION'`), "it was one alarm, not sixty")
	require.NoError(t, isMetric(t.Context(), s, paymentHeldBack, "0"))
	require.True(t, findingOf(t, s.System, "held back").Ok)
	s.Audit(t)
}

func TestI3APoisonOrderHoldsBackNoOther(t *testing.T) {
	t.Parallel()
	s := harness.StartShop(t)
	s.Open(t)
	var faults []*harness.Armed
	for i := range 4 {
		id := fmt.Sprintf("poison-%d", i)
		faults = append(faults, s.Arm(t, harness.Fault{Kind: harness.Fail, Procedure: "Authorize", OrderID: id}))
		s.Start(t, harness.Order{ID: id})
	}
	// Nobody else calls payment meanwhile, so no answer to another speaks for it.
	for i := range 4 {
		awaitAttempts(t, s.System, fmt.Sprintf("poison-%d", i), "authorize-payment", 5)
	}
	for _, id := range startMany(t, s.System, "sound", 40, harness.Order{}) {
		s.AwaitEnd(t, id, harness.Confirmed)
	}
	require.NoError(t, isMetric(t.Context(), s, paymentOpened, "0"))
	for _, fault := range faults {
		fault.Lift()
	}
	s.AwaitAllEnded(t, time.Minute)
	s.Audit(t)
}

// inUSD is an order that somebody has to approve, where approvedInUSD is so.
var inUSD = harness.Order{Currency: "USD"}

// startMany starts n orders, named for what they are.
func startMany(t *testing.T, s *harness.System, name string, n int, order harness.Order) (ids []string) {
	t.Helper()
	for i := range n {
		order.ID = fmt.Sprintf("%s-%02d", name, i)
		s.Start(t, order)
		ids = append(ids, order.ID)
	}
	return ids
}

func approve(t *testing.T, s *harness.System, orderID string) {
	t.Helper()
	_, err := s.Checkouts.Approve(t.Context(), connect.NewRequest(&checkoutv1.ApproveRequest{OrderId: orderID, Reason: "it is fine", Actor: "test"}))
	require.NoError(t, err)
}

func isMetric(ctx context.Context, s *harness.Shop, series, want string) error {
	value, err := s.Metric(ctx, series)
	if err == nil && value != want {
		err = fmt.Errorf("%s is %s", series, value)
	}
	return err
}

// findingOf is what doctor says of one check.
func findingOf(t *testing.T, s *harness.System, check string) *checkoutv1.Finding {
	t.Helper()
	answer, err := s.Checkouts.Doctor(t.Context(), connect.NewRequest(&checkoutv1.DoctorRequest{}))
	require.NoError(t, err)
	for _, f := range answer.Msg.Findings {
		if f.Check == check {
			return f
		}
	}
	require.Failf(t, "doctor does not look", "at %q: %v", check, answer.Msg.Findings)
	return nil
}

// query reads one value from the orchestrator's database.
func query[T any](t *testing.T, s *harness.System, sql string, args ...any) (value T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.Databases["orchestrator"])
	require.NoError(t, err)
	defer conn.Close(t.Context())
	require.NoError(t, conn.QueryRow(t.Context(), sql, args...).Scan(&value))
	return value
}
