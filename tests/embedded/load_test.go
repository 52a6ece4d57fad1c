package embedded_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// Not parallel: it measures, and go test runs it before those that are.
func TestI1I3I4TenThousandCheckoutsEndAndMemoryStaysFlat(t *testing.T) {
	const checkouts, inFlight, warm = 10_000, 64, 1_000
	p := harness.StartProcesses(t, harness.WithoutProxies)
	articles := []string{"CHAIR-OAK", "TABLE-OAK", "LAMP-BRASS", "BENCH-PINE", "STOOL-BIRCH", "DESK-OAK", "BED-ASH", "RUG-JUTE"}
	for _, sku := range articles {
		p.SetStock(t, sku, 1_000_000)
	}
	order := func(i int) harness.Order {
		o := harness.Order{ID: fmt.Sprintf("load-%d", i), Items: []*checkoutv1.Item{
			{Sku: articles[i%len(articles)], Quantity: int32(1 + i%3)},
			{Sku: articles[(i+3)%len(articles)], Quantity: 1},
		}}
		switch {
		case i%10 == 0:
			o.Method = "tok_declined"
		case i%20 == 1:
			o.Items[1] = &checkoutv1.Item{Sku: "SOFA-LINEN", Quantity: 9_999}
		}
		return o
	}

	var rssWarm int64
	began := time.Now()
	deadline := began.Add(10 * time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for started := 0; ; {
		require.True(t, time.Now().Before(deadline), "%d checkouts were started in 10 minutes", started)
		open, err := p.Judge.Open(t.Context())
		require.NoError(t, err)
		if started == checkouts && open == 0 {
			break
		}
		n := min(inFlight-open, checkouts-started)
		failures := make(chan error, max(n, 0))
		var starting sync.WaitGroup
		for i := range max(n, 0) {
			starting.Go(func() {
				if _, err := p.TryStart(t.Context(), order(started+i)); err != nil {
					failures <- err
				}
			})
		}
		starting.Wait()
		close(failures)
		require.NoError(t, <-failures)
		if started += max(n, 0); rssWarm == 0 && started >= warm {
			rssWarm = p.OrchestratorProcess.RSS(t)
			t.Logf("RSS of the orchestrator after %d checkouts: %d MB", started, rssWarm>>20)
		}
		<-tick.C
	}
	took := time.Since(began)
	rssEnd := p.OrchestratorProcess.RSS(t)
	t.Logf("RSS of the orchestrator after %d checkouts: %d MB", checkouts, rssEnd>>20)
	t.Logf("%d checkouts in %s, %.0f a second; CPU of orchestrator %s, warehouse %s, payment %s", checkouts, took.Round(time.Millisecond),
		checkouts/took.Seconds(), p.OrchestratorProcess.CPU(t), p.WarehouseProcess.CPU(t), p.PaymentProcess.CPU(t))

	final, err := p.Judge.Final(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]int{"CONFIRMED": 8500, "REJECTED": 1500}, final)
	p.Audit(t)
	require.Less(t, rssEnd, rssWarm*3/2+50<<20, "memory grows with the number of checkouts that ended")
}
