// Package retention forgets what is over: the workflows of finished sagas soon, finished sagas with their operations at
// the participants when they are as old as configured, or never. It trusts the row alone: only of a saga that is final
// anything is ever forgotten, and a final row never changes again.
//
// Every act may be repeated, so a process that dies between two leaves nothing half done: the next round does the rest.
package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/pause"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/sagas/runs"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

const (
	// interval is how long nothing is looked for after a round.
	interval = time.Minute
	// batch bounds what is done without a rest, and how many orders a participant forgets in one transaction.
	batch = 100
	// minRest is the shortest rest after a batch. A rest is as long as its batch took, so that at most half of the time something
	// is purged, one after the other, whatever the load.
	minRest = 50 * time.Millisecond
	// engineBudget bounds one question to the engine, callBudget one to a participant.
	engineBudget = 3 * time.Second
	callBudget   = 10 * time.Second
)

// leaderLock is the key of the advisory lock that makes one process the one that forgets; one for each engine.
var leaderLock = map[string]int64{"dapr": 0x63686b6f75740011, "embedded": 0x63686b6f75740012}

// Config is what a Retention works with. All but KeepSagas is required; the last two only where sagas are ever forgotten.
type Config struct {
	// KeepWorkflows is how long an engine keeps a workflow after its saga ended. Too little leaves nothing to look at where the
	// engine is suspected of a mistake; too much costs room and makes the engine's own queries slower.
	KeepWorkflows time.Duration
	// KeepSagas is how long a saga is kept after its end, with its operations; 0 is for ever. Too little makes whoever asks
	// about it, a chargeback say, meet nothing. It must be longer than outboxes and inboxes keep events (node sees to it), or an
	// event that is sent again would meet a participant that knows nothing of the order any more.
	KeepSagas time.Duration

	Pool   *pgxpool.Pool
	Store  *store.Store
	Engine engine.Engine
	Log    *slog.Logger
	// Participants by name; all that keep records are asked to forget.
	Participants map[string]participant.Participant
	// OpenDeadLetters returns those of the keys that an open dead letter is about: it may be replayed. While it fails, nothing is
	// forgotten.
	OpenDeadLetters func(ctx context.Context, keys []string) ([]string, error)
}

// Validate tells all that is wrong.
func (c Config) Validate() error {
	var bad []error
	if c.KeepWorkflows <= 0 {
		bad = append(bad, errors.New("how long workflows are kept must be more than 0"))
	}
	if c.KeepSagas < 0 {
		bad = append(bad, errors.New("how long sagas are kept must not be negative; 0 keeps them for ever"))
	}
	if c.KeepSagas > 0 && (len(c.Participants) == 0 || c.OpenDeadLetters == nil) {
		bad = append(bad, errors.New("to forget sagas, participants and whoever knows of dead letters must be asked"))
	}
	return errors.Join(bad...)
}

// Retention forgets what one engine's sagas leave. While it is not the leader it stands by.
type Retention struct{ Config }

// New returns a retention; Run runs it.
func New(c Config) (*Retention, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("retention: %w", err)
	}
	return &Retention{c}, nil
}

// Run forgets until ctx ends, or until this process can no longer lead, which is an error. What goes wrong in a round is logged and
// survived.
func (r *Retention) Run(ctx context.Context) error {
	return pg.Rounds(ctx, r.Pool, leaderLock[r.Engine.Name()], interval, r.Round, func(err error) {
		r.Log.Warn("a round of retention failed; the next one tries again", "error", err)
	})
}

// Round goes once through all that is old enough, in batches with rests between them. An error tells of the first thing that
// could not be done; what comes after it was done all the same.
func (r *Retention) Round(ctx context.Context) error {
	purging := r.each(ctx, r.Store.Unpurged, r.KeepWorkflows, r.purge)
	if r.KeepSagas == 0 {
		return purging
	}
	return errors.Join(purging, r.each(ctx, r.Store.Forgettable, r.KeepSagas, r.forget))
}

// list is a query of the store for what ended longer ago than a time.
type list func(ctx context.Context, engine string, olderThan time.Duration, after store.Finished, limit int) ([]store.Finished, error)

// each goes through a list. It goes on behind each batch, because what cannot be forgotten yet would otherwise be all that is ever
// looked at.
func (r *Retention) each(ctx context.Context, list list, olderThan time.Duration, handle func(context.Context, []store.Finished) error) error {
	var first error
	for after := (store.Finished{}); ctx.Err() == nil; {
		began := time.Now()
		ended, err := list(ctx, r.Engine.Name(), olderThan, after, batch)
		if err != nil {
			return errors.Join(first, err)
		}
		if len(ended) == 0 {
			return first
		}
		if err := handle(ctx, ended); err != nil && first == nil {
			first = err
		}
		after = ended[len(ended)-1]
		if len(ended) < batch {
			return first
		}
		pause.For(ctx, max(minRest, time.Since(began)))
	}
	return first
}

// purge has the engine forget all runs of each saga. It tells the first trouble of the batch.
func (r *Retention) purge(ctx context.Context, ended []store.Finished) error {
	var first error
	open := 0
	for _, c := range ended {
		purged, err := r.purgeRuns(ctx, c)
		if purged > c.PurgedRuns {
			if marking := r.Store.MarkPurged(ctx, c.ID, purged); marking != nil {
				return errors.Join(err, marking)
			}
		}
		switch {
		case errors.Is(err, errNotEnded):
			open++
		case errors.Is(err, errEngineAway):
			return err // The others would wait for it as long.
		case err != nil && first == nil:
			first = err
		}
	}
	if open > 0 {
		r.Log.Info("workflows of finished sagas had not ended; they were woken and are purged later", "sagas", open)
	}
	return first
}

// What can keep a run from being purged beside an error of its own.
var (
	errNotEnded   = errors.New("the workflow has not ended")
	errEngineAway = errors.New("the engine cannot be asked")
)

// purgeRuns purges the runs of a saga that are not purged yet, and returns the newest of which all before it are purged too.
func (r *Retention) purgeRuns(ctx context.Context, c store.Finished) (purged int, err error) {
	purged = c.PurgedRuns
	for run := c.PurgedRuns + 1; run <= c.Run; run++ {
		failed := r.purgeRun(ctx, c.ID, run)
		if errors.Is(failed, errEngineAway) {
			return purged, failed
		}
		if failed == nil && err == nil {
			purged = run
		}
		if err == nil {
			err = failed
		}
	}
	return purged, err
}

// purgeRun purges a run, or wakes it so that it ends: a run that was superseded while it waited to try again learns only at its
// next attempt that nothing is left to do.
func (r *Retention) purgeRun(ctx context.Context, id saga.ID, run int) error {
	ctx, cancel := context.WithTimeout(ctx, engineBudget)
	defer cancel()
	instance := runs.ID(id, run)
	failed := r.Engine.Purge(ctx, instance)
	if failed == nil {
		return nil
	}
	found, err := r.Engine.Inspect(ctx, instance)
	switch {
	case errors.Is(err, engine.ErrGone):
		return nil
	case err != nil:
		return fmt.Errorf("purge run %d of %s: %w: %w", run, id, errEngineAway, err)
	case found.State != engine.Running && found.State != engine.Stalled:
		return failed
	}
	err = r.Engine.Raise(ctx, instance, saga.CommandEvent, saga.Command{ID: uuid.NewString(), Kind: journal.CommandRetry})
	if err != nil && !errors.Is(err, engine.ErrGone) {
		return fmt.Errorf("wake run %d of %s: %w", run, id, err)
	}
	return errNotEnded
}

// forget forgets those of the sagas that no dead letter is about and that every participant has forgotten.
func (r *Retention) forget(ctx context.Context, ended []store.Finished) error {
	byDefinition, participants := make(map[string][]string), make(map[string][]string)
	for _, c := range ended {
		byDefinition[c.Definition] = append(byDefinition[c.Definition], c.Key)
		participants[c.Definition] = append(participants[c.Definition], c.Participants...)
	}
	var first error
	for _, definition := range slices.Sorted(maps.Keys(byDefinition)) {
		forgotten, err := r.forgetOf(ctx, definition, participants[definition], byDefinition[definition])
		if forgotten > 0 {
			r.Log.Info("old sagas were forgotten", "saga", definition, "count", forgotten, "last_ended_at", ended[len(ended)-1].EndedAt)
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// forgetOf forgets sagas of one definition, whose plans name some participants. A participant that keeps one keeps the saga; the others have forgotten it then and say so
// again when they are asked again.
func (r *Retention) forgetOf(ctx context.Context, definition string, participants, keys []string) (forgotten int, err error) {
	open, err := r.OpenDeadLetters(ctx, keys)
	if err != nil {
		return 0, fmt.Errorf("ask for open dead letters: %w", err)
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return slices.Contains(open, key) })
	for _, name := range slices.Compact(slices.Sorted(slices.Values(participants))) {
		if len(keys) == 0 {
			return 0, nil
		}
		keeper, keeps := r.Participants[name].(participant.Keeper)
		if !keeps {
			continue
		}
		if keys, err = r.forgotten(ctx, name, keeper, definition, keys); err != nil {
			return 0, err
		}
	}
	return r.Store.Forget(ctx, definition, keys)
}

// forgotten asks a participant to forget sagas and returns the keys of those that it has forgotten.
func (r *Retention) forgotten(ctx context.Context, name string, keeper participant.Keeper, definition string, keys []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callBudget)
	defer cancel()
	answer, err := keeper.Forget(ctx, definition, keys)
	if errors.Is(err, errors.ErrUnsupported) {
		return keys, nil // It keeps no records that could be forgotten, or keeps them for ever.
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s to forget: %w", name, err)
	}
	for _, k := range answer.Kept {
		r.Log.Warn("a finished saga is kept because a participant still needs it", "saga", definition, "key", k.Key, "participant", name, "reason", k.Why)
	}
	// Only what was asked for counts, whatever was answered.
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return !slices.Contains(answer.Keys, key) }), nil
}
