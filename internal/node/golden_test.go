package node_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/checkout/api"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/node"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
	"github.com/checkoutsaga/orchestrator/internal/testing/eventtest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestEveryConsumerReadsEveryPayloadEverPublished(t *testing.T) {
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	for _, kind := range node.Kinds(func(string) string { return "" }) {
		if len(event.ConsumedBy(kind.Name)) == 0 {
			continue
		}
		t.Run(kind.Name, func(t *testing.T) {
			service, err := kind.Open(t.Context(), pgtest.URL(t), log)
			require.NoError(t, err)
			defer service.Close()
			subscriptions, err := service.Inbox().Subscriptions()
			require.NoError(t, err)
			eventtest.ReadsEveryGolden(t, kind.Name, subscriptions)
		})
	}

	t.Run("orchestrator", func(t *testing.T) {
		pool := pgtest.Pool(t)
		require.NoError(t, pg.Migrate(t.Context(), pool, checkouttest.Migrations()...))
		s := checkouttest.Store(pool)
		in := inbox.New("orchestrator", pool, log)
		api.Hear(in, s, checkouttest.Orders(pool))
		subscriptions, err := in.Subscriptions()
		require.NoError(t, err)
		handlers := make(map[string]bus.Handler)
		for _, subscription := range subscriptions {
			handlers[subscription.Topic] = subscription.Handle
		}
		for _, g := range eventtest.Goldens(t, "orchestrator") {
			t.Run(g.Name, func(t *testing.T) {
				// It takes events about orders that it has accepted; of others it can make nothing.
				about := strings.ReplaceAll(g.Name, "/", "-")
				start := checkouttest.Start(checkouttest.Order(about, 1))
				start.Elsewhere = true
				_, _, err := s.Accept(t.Context(), start)
				require.NoError(t, err)
				require.Equal(t, bus.Success, handlers[g.Topic](t.Context(), g.Delivery(t, about)))
			})
		}
	})
}
