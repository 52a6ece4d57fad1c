package warehouse

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// BenchmarkReserve tells how many orders a second are reserved, and what CPU each costs the database, where everybody buys the same
// article and where nobody does.
func BenchmarkReserve(b *testing.B) {
	for name, sku := range map[string]func(n int64) string{
		"one article":   func(int64) string { return "CHAIR-OAK" },
		"many articles": func(n int64) string { return fmt.Sprintf("A-%d", n%1000) },
	} {
		for _, inFlight := range []int64{64, 256} {
			b.Run(fmt.Sprintf("%s/%d in flight", name, inFlight), func(b *testing.B) {
				service, err := Open(b.Context(), Config{DatabaseURL: pgtest.URL(b)}, slog.New(slog.DiscardHandler))
				require.NoError(b, err)
				defer service.Close()
				const stock = `
					INSERT INTO stock (sku, on_hand) SELECT 'A-' || n, 2000000000 FROM generate_series(0, 999) n
					UNION SELECT 'CHAIR-OAK', 2000000000 ON CONFLICT (sku) DO UPDATE SET on_hand = excluded.on_hand`
				_, err = service.store.pool.Exec(b.Context(), stock)
				require.NoError(b, err)

				var next atomic.Int64
				run := func(orders int64) {
					last := next.Load() + orders
					var all sync.WaitGroup
					for range inFlight {
						all.Go(func() {
							for n := next.Add(1); n <= last; n = next.Add(1) {
								res, err := service.Reserve(b.Context(), connect.NewRequest(&warehousev1.ReserveRequest{
									OrderId: fmt.Sprintf("ord-%d", n), Lines: []*warehousev1.Line{pieces(sku(n), 1)},
								}))
								if err != nil || res.Msg.Result.Outcome != applied {
									b.Errorf("reserve: %v: %v", res, err)
								}
							}
						})
					}
					all.Wait()
				}
				run(inFlight) // So that connections are open and statements are known.
				before := pgtest.CPU(b, service.store.pool)
				b.ResetTimer()
				run(int64(b.N))
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "orders/s")
				b.ReportMetric(float64((pgtest.CPU(b, service.store.pool)-before).Milliseconds())/float64(b.N), "database-cpu-ms/order")
			})
		}
	}
}
