package store_test

import (
	"testing"

	"github.com/checkoutsaga/orchestrator/internal/orchestrator/store"
)

func TestTheMeterCountsWhatEventsTold(t *testing.T) {
	t.Parallel()
	t.Run("confirmed, without a duration of steps whose begin nobody saw", func(t *testing.T) {
		t.Parallel()
		s := choreographed(t)
		s.learn(store.PaymentCompleted, "")
		s.learn(store.StockCommitted, "")
		s.learnsNothing(store.StockCommitted)
		requireCounted(t, s.store, `
			checkout_duration_seconds{status=CONFIRMED} 1 times
			checkouts_ended_total{reason=,status=CONFIRMED} 1
			step_duration_seconds{state=done,step=commit-stock} 1 times`)
	})
	t.Run("a compensation that turns out to be no use, because payment has captured", func(t *testing.T) {
		t.Parallel()
		s := choreographed(t)
		s.learn(store.StockReserved, "")
		s.expire()
		s.takeOver(true)
		s.learn(store.PaymentCompleted, "")
		requireCounted(t, s.store, `
			compensations_total{state=not-needed,step=release-stock} 1
			compensations_total{state=not-needed,step=void-authorization} 1
			compensations_total{state=pending,step=release-stock} 1
			compensations_total{state=pending,step=void-authorization} 1
			step_duration_seconds{state=done,step=authorize-payment} 1 times`)
	})
}
