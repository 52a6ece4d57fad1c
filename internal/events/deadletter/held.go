package deadletter

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// Held is an event that is a dead letter.
type Held struct {
	EventID, Topic string
	// Archived says that somebody archived it.
	Archived bool
	// failedAt are the consumers that failed; empty if unknown.
	failedAt []string
}

// For tells whether it is a dead letter because this consumer failed, as far as that is known.
func (h Held) For(consumer string) bool {
	return len(h.failedAt) == 0 || slices.Contains(h.failedAt, consumer)
}

// HeldOf returns those of the events that are dead letters and were not replayed.
func (s *Service) HeldOf(ctx context.Context, eventIDs []string) ([]Held, error) {
	if len(eventIDs) == 0 {
		return nil, nil
	}
	selected := selection{state: all, eventIDs: eventIDs}
	found, err := s.letters.list(ctx, selected, 0, len(eventIDs)+maxPage)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(found, func(l letter) bool { return len(l.unasked) > 0 }) {
		s.learnCauses(ctx)
		if found, err = s.letters.list(ctx, selected, 0, len(eventIDs)+maxPage); err != nil {
			return nil, err
		}
	}
	var held []Held
	for _, l := range found {
		if l.state != replayed {
			held = append(held, Held{EventID: l.eventID, Topic: l.topic, Archived: l.state == archived, failedAt: l.consumers()})
		}
	}
	return held, nil
}

// OpenAbout returns those of the orders that have an open letter: a replay may still bring its event.
func (s *Service) OpenAbout(ctx context.Context, orderIDs []string) ([]string, error) {
	const query = `SELECT DISTINCT order_id FROM dead_letters WHERE state = 'open' AND order_id = ANY($1)`
	return pg.Rows(ctx, s.letters.pool, "look for dead letters of orders", pgx.RowTo[string], query, orderIDs)
}
