package outbox

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// BenchmarkWriting writes an event about an order of its own each, so many in a transaction.
func BenchmarkWriting(b *testing.B) {
	for _, together := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("%d in a transaction", together), func(b *testing.B) {
			o, orders := setup(b), 0
			for b.Loop() {
				require.NoError(b, pg.InTx(b.Context(), o.pool, func(tx pgx.Tx) error {
					told := make([]Told, together)
					for i := range told {
						told[i] = Told{Subject: Order(fmt.Sprint("ord-", orders), event.Orchestrated), Message: reserved("A")}
						orders++
					}
					batch := new(pgx.Batch)
					if err := o.QueueAll(batch, told); err != nil {
						return err
					}
					return tx.SendBatch(b.Context(), batch).Close()
				}))
			}
			b.ReportMetric(float64(orders)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
