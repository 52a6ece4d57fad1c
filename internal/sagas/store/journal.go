package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// Fence tells whether an attempt may call its participant now, and claims what the step claims.
func (s *Store) Fence(ctx context.Context, a journal.Attempt) (journal.Pass, error) {
	if pass, has := s.passes.take(a); has {
		return pass, nil
	}
	var pass journal.Pass
	if !a.Claims && a.HeldBack == "" {
		// Most attempts claim nothing, so a look without a lock answers them. Record and the next fence catch what changes right
		// after it.
		r, err := s.read(ctx, a.Saga())
		if err != nil {
			return journal.Pass{}, fmt.Errorf("fence %s of %s: %w", a.Step, a.Saga(), err)
		}
		var claimed bool
		if pass, claimed = r.fence(a); !claimed {
			return pass, nil
		}
	}
	if _, err := s.change(ctx, a.Saga(), func(r *row) (changed bool) {
		pass, changed = r.fence(a)
		return changed
	}); err != nil {
		return journal.Pass{}, fmt.Errorf("claim %s of %s: %w", a.Step, a.Saga(), err)
	}
	return pass, nil
}

// Record writes what an attempt taught, and all that follows from it, and returns what the run is told. Where mayCall says that the
// participant of the next step may be called, the first attempt at that is fenced in the same transaction, unless it claims the pivot:
// as long as nobody has asked for that, a cancel may win. mayCall may be nil.
func (s *Store) Record(ctx context.Context, a journal.Attempt, l journal.Learned, mayCall func(participant string) bool) (saga.Reply, error) {
	var riders []commit.Rider
	if rider := commit.RiderOf(ctx); rider != nil {
		riders = append(riders, rider)
	}
	var reply saga.Reply
	var next journal.Attempt
	var pass journal.Pass
	if _, err := s.change(ctx, a.Saga(), func(r *row) bool {
		before := r.Phase
		pass = journal.Pass{} // An earlier decision, of which nothing was committed, may have handed one out.
		standing := r.Record(a, l)
		reply = standing.Reply(a, l)
		for _, rider := range riders {
			rider.Answered(reply)
		}
		var has bool
		if next, has = r.Next(a); has && !next.Claims && mayCall != nil && mayCall(next.Participant) {
			pass, _ = r.fence(next)
		}
		return standing != journal.Over || r.Phase != before
	}, riders...); err != nil {
		return saga.Reply{}, fmt.Errorf("record %s of %s: %w", a.Step, a.Saga(), err)
	}
	if pass.Leave == journal.Go {
		s.passes.give(next, pass)
	}
	return reply, nil
}

// Observe lets decide look at a saga of which something was heard, under the saga's lock and in the caller's transaction. If decide
// says that this was news, the row is written. It returns ErrNotFound if there is no such saga. The caller calls observed once the
// transaction has committed: it tells watchers, the meter and the guest. It is nil if there was no news.
func (s *Store) Observe(ctx context.Context, tx pgx.Tx, id saga.ID, decide func(*journal.Row) (news bool)) (observed func(), err error) {
	r, err := scanSaga(tx.QueryRow(ctx, selectSaga+" FOR UPDATE", id.Definition, id.Key))
	if err != nil {
		return nil, notFound(err, id)
	}
	was := pastOf(r)
	if news := decide(&r.Row); !news {
		return nil, nil
	}
	writes := &pgx.Batch{}
	changed := []*change{{ctx: ctx, row: r}}
	if err := errors.Join(s.rows.save(writes, changed), s.rows.tell(writes, nil, changed)); err != nil {
		return nil, err
	}
	if err := tx.SendBatch(ctx, writes).Close(); err != nil {
		return nil, fmt.Errorf("write %s: %w", id, err)
	}
	return func() { s.committed(was, r) }, nil
}

// change lets decide look at a saga under its lock, in a transaction that other changes share; if decide says that it changed the row,
// the row is written. It may decide more than once, each time by the row as it is then. Riders go along; decide tells them the answer
// that they wait for.
func (s *Store) change(ctx context.Context, id saga.ID, decide func(*row) (changed bool), riders ...commit.Rider) (Saga, error) {
	c := &change{ctx: ctx, id: id, decide: decide}
	together := []*commit.Change{{Of: s.rows, What: c}}
	for _, rider := range riders {
		together = append(together, rider.Change())
	}
	if err := s.committer.Do(ctx, together...); err != nil {
		return Saga{}, fmt.Errorf("change %s: %w", id, err)
	}
	if c.changed {
		s.committed(c.was, c.row)
	}
	return c.row.saga(), nil
}

// committed tells of a changed row whose transaction has committed.
func (s *Store) committed(was past, r *row) {
	s.rows.know(r)
	s.passes.drop(r.ID())
	s.meter.committed(was, r)
	s.watchers.changed(r.ID(), kindOf(r.Status), r.ended())
	if r.Ended {
		s.guest(r.Plan.Definition).Committed()
	}
}

// kindOf is the kind of a change to this status.
func kindOf(status journal.Status) Interest {
	if status.IsSettled() {
		return Settled
	}
	return AnyChange
}

// read reads a saga, or returns ErrNotFound.
func (s *Store) read(ctx context.Context, id saga.ID) (*row, error) {
	r, err := scanSaga(s.pool.QueryRow(ctx, selectSaga, id.Definition, id.Key))
	if err != nil {
		return nil, notFound(err, id)
	}
	return r, nil
}

func notFound(err error, id saga.ID) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return fmt.Errorf("read %s: %w", id, err)
}
