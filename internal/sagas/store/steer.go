package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// CancelAnswer is the answer to a cancel.
type CancelAnswer struct {
	Outcome journal.CancelOutcome
	Saga    Saga
	// CommandID is set with journal.CancelAccepted; it is what wakes the run.
	CommandID string
}

// Cancel asks for a saga to be undone. Every request is kept with its actor and its reason, even one that came too late.
func (s *Store) Cancel(ctx context.Context, id saga.ID, reason, actor string) (CancelAnswer, error) {
	answer := CancelAnswer{CommandID: uuid.NewString()}
	var err error
	answer.Saga, err = s.change(ctx, id, func(r *row) bool {
		answer.Outcome = r.Cancel(reason)
		r.Commands = append(r.Commands, journal.Command{
			ID: answer.CommandID, Kind: journal.CommandCancel, Actor: actor, Reason: reason, Outcome: string(answer.Outcome),
		})
		return answer.Outcome == journal.CancelAccepted || len(r.Entries) > 0
	})
	if err != nil {
		return CancelAnswer{}, fmt.Errorf("cancel %s: %w", id, err)
	}
	return answer, nil
}

// WouldCancel tells what Cancel would answer now. It changes nothing.
func (s *Store) WouldCancel(ctx context.Context, id saga.ID) (CancelAnswer, error) {
	r, err := s.read(ctx, id)
	if err != nil {
		return CancelAnswer{}, fmt.Errorf("look at %s: %w", id, err)
	}
	answer := CancelAnswer{Saga: r.saga()}
	answer.Saga.Steps = slices.Clone(answer.Saga.Steps) // As they stand: the rule changes the row's.
	answer.Outcome = r.Cancel("")
	return answer, nil
}

// MarkStarted notes that the engine has started a run. The first fence of a saga notes it too.
func (s *Store) MarkStarted(ctx context.Context, id saga.ID, run int) error {
	if _, err := s.pool.Exec(ctx, `UPDATE sagas SET started_run = $3 WHERE definition = $1 AND key = $2 AND started_run < $3`,
		id.Definition, id.Key, run); err != nil {
		return fmt.Errorf("mark run %d of %s as started: %w", run, id, err)
	}
	return nil
}

// Overdue is a saga that wrote nothing for longer than expected.
type Overdue struct {
	ID  saga.ID
	Run int
	// Phase is the one in which the run begins, and Plan what it carries out.
	Phase saga.Phase
	Plan  saga.Plan
	// Started says that the engine is known to have started the run.
	Started bool
	// Pokes counts the sweeper's wake-up calls since anything happened.
	Pokes int
	// Elsewhere says that its participants drive it, until a run takes over.
	Elsewhere bool
}

const selectOverdue = `
	SELECT key, run, phase, plan, progress, started_run >= run, pokes, elsewhere
	FROM sagas
	WHERE engine = $1 AND check_at <= now() -- not clock_timestamp(), with which no index could be used
	ORDER BY check_at
	LIMIT $2`

// Overdue lists the engine's sagas that the sweeper must look at, longest overdue first.
func (s *Store) Overdue(ctx context.Context, engine string, limit int) ([]Overdue, error) {
	rows, err := s.pool.Query(ctx, selectOverdue, engine, limit)
	if err != nil {
		return nil, fmt.Errorf("read overdue sagas: %w", err)
	}
	overdue, err := pgx.CollectRows(rows, scanOverdue)
	if err != nil {
		return nil, fmt.Errorf("read overdue sagas: %w", err)
	}
	return overdue, nil
}

func scanOverdue(from pgx.CollectableRow) (o Overdue, err error) {
	c := journal.Saga{}
	var steps []storedStep
	if err := from.Scan(&c.Key, &o.Run, &c.Phase, &c.Plan, &steps, &o.Started, &o.Pokes, &o.Elsewhere); err != nil {
		return Overdue{}, err
	}
	c.Steps = progressOf(c.Plan, steps)
	o.ID, o.Phase, o.Plan = c.ID(), c.RunPhase(), c.Plan
	return o, nil
}

// Now is the time by the database's clock, which is the only judge of deadlines.
func (s *Store) Now(ctx context.Context) (now time.Time, err error) {
	if err := s.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now); err != nil {
		return time.Time{}, fmt.Errorf("read database's clock: %w", err)
	}
	return now, nil
}

// LookAtTheFuture makes those sagas of an engine overdue whose last write is in the future, and returns how many they are. It
// leaves out those that are driven elsewhere: they are waited for until their deadline.
func (s *Store) LookAtTheFuture(ctx context.Context, engine string) (sagas int64, err error) {
	const query = `
		UPDATE sagas SET check_at = now()
		WHERE engine = $1 AND check_at > now() AND updated_at > clock_timestamp() AND NOT (elsewhere AND started_run < run)`
	done, err := s.pool.Exec(ctx, query, engine)
	if err != nil {
		return 0, fmt.Errorf("look at sagas from before the clock was set back: %w", err)
	}
	return done.RowsAffected(), nil
}

// TakeOver prepares a saga that is driven elsewhere for a run of its own, if its time has come. It returns false if events may
// still bring it to its end; then it sets when to look again.
func (s *Store) TakeOver(ctx context.Context, o Overdue) (next Overdue, takenOver bool, err error) {
	if _, err := s.change(ctx, o.ID, func(r *row) bool {
		if r.Run != o.Run || r.Phase == journal.Final {
			return false
		}
		takenOver = r.TakeOver()
		next = Overdue{ID: r.ID(), Run: r.Run, Phase: r.RunPhase(), Plan: r.Plan, Elsewhere: r.Elsewhere}
		return true
	}); err != nil {
		return Overdue{}, false, fmt.Errorf("take over %s: %w", o.ID, err)
	}
	return next, takenOver, nil
}

// Postpone sets when the sweeper looks at an overdue saga again. With poked it counts a wake-up call. It does nothing if the run
// has changed.
func (s *Store) Postpone(ctx context.Context, o Overdue, poked bool) error {
	if _, err := s.change(ctx, o.ID, func(r *row) bool {
		if r.Run != o.Run || r.Phase == journal.Final {
			return false
		}
		r.LookAgain()
		if poked {
			r.Pokes++
		}
		return true
	}); err != nil {
		return fmt.Errorf("postpone %s: %w", o.ID, err)
	}
	return nil
}

// NextRun gives an overdue saga its next run, which the caller then starts. It returns false if the saga has moved since, or ended:
// there is nothing to start.
func (s *Store) NextRun(ctx context.Context, o Overdue, why string) (next Overdue, moved bool, err error) {
	if _, err := s.change(ctx, o.ID, func(r *row) bool {
		if moved = r.Run == o.Run && r.Phase != journal.Final && !r.CheckAt.After(r.Now); !moved {
			return false
		}
		r.NextRun(why)
		next = Overdue{ID: r.ID(), Run: r.Run, Phase: r.RunPhase(), Plan: r.Plan, Elsewhere: r.Elsewhere}
		return true
	}); err != nil {
		return Overdue{}, false, fmt.Errorf("hand %s to its next run: %w", o.ID, err)
	}
	return next, moved, nil
}

// Stopped calls an operator because the run of an overdue saga stopped. It returns false if that was called for before, so that the
// time for the next run has come, or if the saga has moved since.
func (s *Store) Stopped(ctx context.Context, o Overdue, why string) (news bool, err error) {
	if _, err := s.change(ctx, o.ID, func(r *row) bool {
		news = r.Run == o.Run && r.Phase != journal.Final && !r.CheckAt.After(r.Now) && r.Stopped(why)
		return news
	}); err != nil {
		return false, fmt.Errorf("note that run %d of %s stopped: %w", o.Run, o.ID, err)
	}
	return news, nil
}

// Driving is the run that drives a saga.
type Driving struct {
	saga.ID
	Run int
}

// Waiting lists the engine's open sagas that are at a step or compensation of one participant, by id, after one.
func (s *Store) Waiting(ctx context.Context, engine, participant string, after saga.ID, limit int) ([]Driving, error) {
	const query = `
		SELECT definition, key, run
		FROM sagas, jsonb_to_recordset(plan -> 'steps') AS step (name text, compensation text, participant text)
		WHERE engine = $1 AND ended_at IS NULL AND participant = $2 AND at_step IN (name, compensation) AND (definition, key) > ($3, $4)
		ORDER BY definition, key
		LIMIT $5`
	rows, err := s.pool.Query(ctx, query, engine, participant, after.Definition, after.Key, limit)
	if err != nil {
		return nil, fmt.Errorf("read waiting sagas: %w", err)
	}
	waiting, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Driving])
	if err != nil {
		return nil, fmt.Errorf("read waiting sagas: %w", err)
	}
	return waiting, nil
}

// SettleUntouched ends a saga about which no participant was asked, if it was cancelled or its deadline has passed. It needs no
// engine.
func (s *Store) SettleUntouched(ctx context.Context, id saga.ID) (settled bool, err error) {
	if _, err := s.change(ctx, id, func(r *row) bool {
		settled = r.SettleUntouched()
		return settled
	}); err != nil {
		return false, fmt.Errorf("settle %s: %w", id, err)
	}
	return settled, nil
}
