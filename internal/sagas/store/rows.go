package store

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// rows are the rows of sagas as a table of shared transactions: whatever changes one, and whatever inserts one, is made with one
// statement for all that the transaction changes or inserts.
type rows struct {
	guest func(definition string) Guest

	mu sync.Mutex
	// known is what never changes of sagas that are open and were seen lately, so that it need not be read with every attempt.
	known map[saga.ID]*fixed
}

// maxKnown bounds what is kept of sagas, some kilobytes each.
const maxKnown = 4096

// change is one change of a row.
type change struct {
	// ctx is its caller's, for the trace that events are in.
	ctx    context.Context
	id     saga.ID
	decide func(*row) (changed bool)

	row     *row
	was     past
	changed bool
}

// Read implements commit.Table.
func (t *rows) Read(batch *pgx.Batch, changes []*commit.Change, wait bool) {
	var toChange, toAccept []*commit.Change
	seen := make(map[saga.ID]bool, len(changes))
	for _, c := range changes {
		var id saga.ID
		switch what := c.What.(type) {
		case *change:
			id = what.id
			toChange = append(toChange, c)
		case *acceptance:
			id = what.ID()
			toAccept = append(toAccept, c)
		}
		if seen[id] {
			c.Err = commit.ErrBusy // One saga is decided once in a transaction.
		}
		seen[id] = true
	}
	// Sagas are locked before any is inserted: nobody waits for this transaction's insertions who holds a lock that it wants.
	t.lock(batch, commit.WithoutError(toChange), wait)
	t.insert(batch, commit.WithoutError(toAccept))
}

// lockSagas is told of which sagas the fixed columns are known.
const lockSagas = `
	SELECT ` + sagaColumns + `
	       CASE WHEN NOT w.known THEN s.input END, CASE WHEN NOT w.known THEN s.requests END, CASE WHEN NOT w.known THEN s.plan END,
	       w.n
	FROM unnest($1::text[], $2::text[], $3::boolean[]) WITH ORDINALITY AS w (definition, key, known, n)
	JOIN sagas s ON s.definition = w.definition AND s.key = w.key
	FOR UPDATE OF s`

// lock queues the locking of the rows that change.
func (t *rows) lock(batch *pgx.Batch, changes []*commit.Change, wait bool) {
	if len(changes) == 0 {
		return
	}
	query := lockSagas
	if !wait {
		query += " SKIP LOCKED"
	}
	definitions, keys, isKnown := make([]string, len(changes)), make([]string, len(changes)), make([]bool, len(changes))
	known := make([]*fixed, len(changes))
	for i, c := range changes {
		id := c.What.(*change).id
		definitions[i], keys[i] = id.Definition, id.Key
		known[i] = t.knows(id)
		isKnown[i] = known[i] != nil
		c.Err = fmt.Errorf("%w: %s", ErrNotFound, id) // Until it is found.
		if !wait {
			c.Err = commit.ErrBusy // Or it is not there.
		}
	}
	batch.Queue(query, definitions, keys, isKnown).Query(func(found pgx.Rows) error {
		for found.Next() {
			var n int
			r, err := scanKnown(found, func() *fixed { return known[n-1] }, &n)
			if err != nil {
				return fmt.Errorf("read row of a saga: %w", err)
			}
			c := changes[n-1].What.(*change)
			c.row, changes[n-1].Err = r, nil
		}
		return found.Err()
	})
}

// knows is what is known of a saga; nil where it is not.
func (t *rows) knows(id saga.ID) *fixed {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.known[id]
}

// know keeps what never changes of a saga that is open, and forgets it with its end.
func (t *rows) know(r *row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.Phase == journal.Final {
		delete(t.known, r.ID())
		return
	}
	for id := range t.known {
		if len(t.known) < maxKnown {
			break
		}
		delete(t.known, id) // Any of them: it is read again.
	}
	t.known[r.ID()] = &r.fixed
}

// Decide implements commit.Table.
func (t *rows) Decide(changes []*commit.Change) {
	for _, c := range changes {
		if what, is := c.What.(*change); is {
			what.was = pastOf(what.row)
			what.changed = what.decide(what.row)
		}
	}
}

// Write implements commit.Table.
func (t *rows) Write(ctx context.Context, batch *pgx.Batch, changes []*commit.Change) error {
	var changed []*change
	var accepted []Told
	for _, c := range changes {
		switch what := c.What.(type) {
		case *acceptance:
			if what.forgotten {
				return &Conflict{With: WasForgotten}
			}
			if what.created {
				accepted = append(accepted, Told{what.ctx, what.saga()})
			}
		case *change:
			// Before what follows from them, so that a history tells them in this order.
			for _, asked := range what.row.Commands {
				batch.Queue(insertCommand, asked.ID, what.id.Definition, what.id.Key, asked.Kind, asked.Step, asked.Actor, asked.Reason,
					asked.Outcome, asked.WithoutProof)
			}
			if what.changed {
				changed = append(changed, what)
			}
		}
	}
	if err := t.save(batch, changed); err != nil {
		return err
	}
	return t.tell(batch, accepted, changed)
}

// tell has the guests queue what they write with sagas that were accepted or have ended, one guest after the other in the order of
// their names: what they lock is locked in one order.
func (t *rows) tell(batch *pgx.Batch, accepted []Told, changed []*change) error {
	type told struct{ accepted, ended []Told }
	byDefinition := make(map[string]told)
	for _, s := range accepted {
		of := byDefinition[s.Plan.Definition]
		of.accepted = append(of.accepted, s)
		byDefinition[s.Plan.Definition] = of
	}
	for _, c := range changed {
		if definition := c.row.Plan.Definition; c.row.Ended {
			of := byDefinition[definition]
			of.ended = append(of.ended, Told{c.ctx, c.row.saga()})
			byDefinition[definition] = of
		}
	}
	for _, definition := range slices.Sorted(maps.Keys(byDefinition)) {
		of := byDefinition[definition]
		if err := t.guest(definition).Write(batch, of.accepted, of.ended); err != nil {
			return err
		}
	}
	return nil
}

const insertCommand = `
	INSERT INTO commands (id, definition, key, kind, step, actor, reason, outcome, without_proof) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

const updateSagas = `
	UPDATE sagas s SET
	    run = w.run, started_run = w.started_run, phase = w.phase, status = w.status, verdict = nullif(w.verdict, ''), reason = w.reason,
	    touched_at   = CASE WHEN w.touched THEN coalesce(s.touched_at, clock_timestamp()) END,
	    cancelled_at = CASE WHEN w.cancelled THEN coalesce(s.cancelled_at, clock_timestamp()) END, cancel_reason = w.cancel_reason,
	    check_at = w.check_at, pokes = w.pokes, fruitless_runs = w.fruitless_runs, attention = w.attention::jsonb,
	    progress = w.progress::jsonb, ended_at = w.ended_at, reason_code = w.reason_code, at_step = w.at_step, deadline = w.deadline,
	    approval_deadline = w.approval_deadline, engine = w.engine, updated_at = w.updated_at
	FROM unnest($1::text[], $2::text[], $3::integer[], $4::integer[], $5::text[], $6::text[], $7::text[], $8::text[],
	            $9::boolean[], $10::boolean[], $11::text[], $12::timestamptz[], $13::integer[], $14::integer[], $15::text[], $16::text[],
	            $17::timestamptz[], $18::text[], $19::text[], $20::timestamptz[], $21::timestamptz[], $22::text[], $23::timestamptz[])
	     AS w (definition, key, run, started_run, phase, status, verdict, reason,
	           touched, cancelled, cancel_reason, check_at, pokes, fruitless_runs, attention, progress,
	           ended_at, reason_code, at_step, deadline, approval_deadline, engine, updated_at)
	WHERE s.definition = w.definition AND s.key = w.key`

const insertEntries = `
	INSERT INTO entries (definition, key, kind, step, attempt, actor, reason, duration_ms, outcome, error)
	SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::text[], $7::text[], $8::bigint[], $9::text[], $10::text[])`

// save queues what writes changed rows, with what is told about them.
func (t *rows) save(batch *pgx.Batch, changed []*change) error {
	if len(changed) == 0 {
		return nil
	}
	progress, attention := make([]string, len(changed)), make([]*string, len(changed))
	var entries []entry
	for i, c := range changed {
		c.row.UpdatedAt = c.row.Now
		text, err := storedSteps(c.row.Steps)
		if err != nil {
			return fmt.Errorf("write steps of %s: %w", c.row.ID(), err)
		}
		progress[i] = string(text)
		if c.row.Attention != nil {
			text, err := json.Marshal(c.row.Attention)
			if err != nil {
				return fmt.Errorf("write attention of %s: %w", c.row.ID(), err)
			}
			attention[i] = new(string(text))
		}
		for _, e := range c.row.Entries {
			entries = append(entries, entry{c.row, e})
		}
	}
	batch.Queue(updateSagas,
		pg.Column(changed, func(c *change) string { return c.row.Plan.Definition }),
		pg.Column(changed, func(c *change) string { return c.row.Key }),
		pg.Column(changed, func(c *change) int32 { return int32(c.row.Run) }),
		pg.Column(changed, func(c *change) int32 { return int32(c.row.StartedRun) }),
		pg.Column(changed, func(c *change) string { return string(c.row.Phase) }),
		pg.Column(changed, func(c *change) string { return string(c.row.Status) }),
		pg.Column(changed, func(c *change) string { return string(c.row.Verdict) }),
		pg.Column(changed, func(c *change) string { return c.row.Reason }),
		pg.Column(changed, func(c *change) bool { return c.row.Touched }),
		pg.Column(changed, func(c *change) bool { return c.row.Cancelled }),
		pg.Column(changed, func(c *change) string { return c.row.CancelReason }),
		pg.Column(changed, func(c *change) *time.Time { return c.row.checkAt() }),
		pg.Column(changed, func(c *change) int32 { return int32(c.row.Pokes) }),
		pg.Column(changed, func(c *change) int32 { return int32(c.row.FruitlessRuns) }),
		attention,
		progress,
		pg.Column(changed, func(c *change) *time.Time { return c.row.EndedAt }),
		pg.Column(changed, func(c *change) string { return c.row.ReasonCode }),
		pg.Column(changed, func(c *change) string { return c.row.AtStep() }),
		pg.Column(changed, func(c *change) time.Time { return c.row.Deadline }),
		pg.Column(changed, func(c *change) *time.Time { return c.row.ApprovalDeadline }),
		pg.Column(changed, func(c *change) string { return c.row.Engine }),
		pg.Column(changed, func(c *change) time.Time { return c.row.UpdatedAt }))
	if len(entries) > 0 {
		batch.Queue(insertEntries,
			pg.Column(entries, func(e entry) string { return e.of.Plan.Definition }),
			pg.Column(entries, func(e entry) string { return e.of.Key }),
			pg.Column(entries, func(e entry) string { return e.Kind }),
			pg.Column(entries, func(e entry) string { return e.Step }),
			pg.Column(entries, func(e entry) int32 { return int32(e.Attempt) }),
			pg.Column(entries, func(e entry) string { return e.Actor }),
			pg.Column(entries, func(e entry) string { return e.Reason }),
			pg.Column(entries, func(e entry) int64 { return e.Duration.Milliseconds() }),
			pg.Column(entries, func(e entry) string { return e.Outcome }),
			pg.Column(entries, func(e entry) string { return e.Error }))
	}
	return nil
}

// entry is one entry of a row's history.
type entry struct {
	of *row
	journal.Entry
}

// checkAt is when the sweeper looks at the row; nil once it is final.
func (r *row) checkAt() *time.Time {
	if r.Phase == journal.Final {
		return nil
	}
	return &r.CheckAt
}
