package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
)

func TestActsWithoutProofAreToldInPagesOldestFirst(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	s := newStore(pool)
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 5 {
		// Two at each moment, on orders that may no longer be kept, and one with proof, which is not told.
		_, err := pool.Exec(t.Context(), `
			INSERT INTO commands (definition, key, at, kind, step, actor, reason, outcome, without_proof)
			SELECT 'checkout', $1, $2, 'resolve done', step, 'ann', 'r', 'done', step <> 'commit-stock'
			FROM unnest(ARRAY['release-stock', 'void-authorization', 'commit-stock']) AS step`, fmt.Sprintf("ord-%d", i), began.Add(time.Duration(i)*time.Hour))
		require.NoError(t, err)
	}
	var told []store.Act
	for after := (store.Act{}); ; {
		page, err := s.ActsSince(t.Context(), checkout.Definition, began.Add(time.Hour), after, 3)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		told, after = append(told, page...), page[len(page)-1]
	}
	require.Len(t, told, 8)
	for i, act := range told {
		require.Equal(t, fmt.Sprintf("ord-%d", 1+i/2), act.Saga.Key)
		require.Equal(t, began.Add(time.Duration(1+i/2)*time.Hour), act.At.UTC())
		require.NotEqual(t, "commit-stock", act.Step)
		require.Equal(t, "ann", act.Actor)
	}
	of, err := s.ActsOn(t.Context(), checkout.Definition, []string{"ord-3", "ord-0"})
	require.NoError(t, err)
	require.Len(t, of, 4)
	require.Equal(t, "ord-0", of[0].Saga.Key)
}
