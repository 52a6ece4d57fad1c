package store_test

import (
	"testing"

	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
)

func TestTheMeterCountsWhatEventsTold(t *testing.T) {
	t.Parallel()
	t.Run("confirmed, without a duration of steps whose begin nobody saw", func(t *testing.T) {
		t.Parallel()
		s := choreographed(t)
		s.learn(orders.PaymentCompleted, "")
		s.learn(orders.StockCommitted, "")
		s.learnsNothing(orders.StockCommitted)
		requireCounted(t, s.store, `
			saga_duration_seconds{status=CONFIRMED} 1 times
			sagas_ended_total{reason=,status=CONFIRMED} 1
			step_duration_seconds{state=done,step=commit-stock} 1 times`)
	})
	t.Run("a compensation that turns out to be no use, because payment has captured", func(t *testing.T) {
		t.Parallel()
		s := choreographed(t)
		s.learn(orders.StockReserved, "")
		s.expire()
		s.takeOver(true)
		s.learn(orders.PaymentCompleted, "")
		requireCounted(t, s.store, `
			compensations_total{state=not-needed,step=release-stock} 1
			compensations_total{state=not-needed,step=void-authorization} 1
			compensations_total{state=pending,step=release-stock} 1
			compensations_total{state=pending,step=void-authorization} 1
			step_duration_seconds{state=done,step=authorize-payment} 1 times`)
	})
}
