package ledger

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// Table is the operations as a table of shared transactions (package commit). All operations of a transaction are read with one statement
// and written with one.
type Table struct{}

// NewTable returns the operations of one database, for the committer of that database.
func NewTable() *Table { return new(Table) }

// Change is one operation in a shared transaction. Tables that are named after the ledger's find in Op what is recorded, put the effect in
// place unless Known is true, and set Op's sides. What differs then from what was read is written.
type Change struct {
	// Op is the operation; but for its ID it is zero until somebody has asked for it.
	Op Operation
	// Known says that Op has the answer, so that there is nothing to do.
	Known bool

	id participant.ID
	// begin is the rule of what is asked for; nil for none.
	begin func(*Operation) (known bool, err error)
	// was is what was read.
	was Operation
}

// Doing is the change of a request to do a step, by the rule of Operation.BeginDoing. It fails with ErrConflict if the step was asked for
// with another digest, and with ErrForgotten if its saga was forgotten.
func (t *Table) Doing(id participant.ID, digest string) (*Change, *commit.Change) {
	return t.change(id, func(op *Operation) (bool, error) { return op.BeginDoing(digest) })
}

// Undoing is the change of a request to undo a step, by the rule of Operation.BeginUndoing. It fails with ErrForgotten if the step's saga
// was forgotten.
func (t *Table) Undoing(id participant.ID) (*Change, *commit.Change) {
	return t.change(id, func(op *Operation) (bool, error) { return op.BeginUndoing(), nil })
}

// Seeing is a change that sees the operation as it stands, such as one that records what a started effect came to. It is never Known.
func (t *Table) Seeing(id participant.ID) (*Change, *commit.Change) {
	return t.change(id, func(*Operation) (bool, error) { return false, nil })
}

func (t *Table) change(id participant.ID, begin func(*Operation) (bool, error)) (*Change, *commit.Change) {
	c := &Change{id: id, begin: begin}
	return c, &commit.Change{Of: t, What: c}
}

// Read implements commit.Table. It locks the sagas, alone: their operations may have no rows yet, and what else is recorded of a saga is
// kept by whoever keeps its operations.
func (t *Table) Read(batch *pgx.Batch, changes []*commit.Change, wait bool) {
	keepApart(changes)
	changes = commit.WithoutError(changes)
	names := column(changes, func(c *Change) string { return lockName(c.id.Definition, c.id.Key) })
	if wait {
		// Sorted, so that no two transactions wait for each other.
		const lock = `
			SELECT pg_advisory_xact_lock($1, hash)
			FROM (SELECT hashtext(name) AS hash FROM unnest($2::text[]) AS sagas (name) ORDER BY hash) AS sorted`
		batch.Queue(lock, sagaLocks, names)
	} else {
		const lock = `SELECT pg_try_advisory_xact_lock($1, hashtext(name)) FROM unnest($2::text[]) WITH ORDINALITY AS sagas (name, n) ORDER BY n`
		batch.Queue(lock, sagaLocks, names).Query(func(rows pgx.Rows) error {
			for i := 0; rows.Next(); i++ {
				var locked bool
				if err := rows.Scan(&locked); err != nil {
					return fmt.Errorf("lock sagas: %w", err)
				}
				if !locked {
					changes[i].Err = commit.ErrBusy
				}
			}
			return rows.Err()
		})
	}
	t.read(batch, changes)
}

// keepApart leaves one caller's changes of a saga in the transaction, and has the others decided by themselves: each must see what those
// before it have made of the saga.
func keepApart(changes []*commit.Change) {
	first := make(map[string]*commit.Change, len(changes))
	seen := make(map[participant.ID]bool, len(changes))
	for _, c := range changes {
		id := c.What.(*Change).id
		saga := lockName(id.Definition, id.Key)
		switch {
		case first[saga] == nil:
			first[saga] = c
		case !first[saga].With(c):
			c.Err = commit.ErrBusy
			continue
		case seen[id]:
			c.Err = fmt.Errorf("%s of %s is changed twice in a transaction", id.Step, id.Key)
			continue
		}
		seen[id] = true
	}
}

// read queues the reading of operations whose sagas are locked.
func (t *Table) read(batch *pgx.Batch, changes []*commit.Change) {
	const (
		asked     = ` FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS asked (of_definition, of_key, of_step, n) `
		forgotten = `SELECT n` + asked + `WHERE EXISTS (SELECT FROM forgotten_sagas WHERE definition = of_definition AND key = of_key)`
		recorded  = `SELECT ` + columns + `, n` + asked + `JOIN operations ON definition = of_definition AND key = of_key AND step = of_step`
	)
	definitions := column(changes, func(c *Change) string { return c.id.Definition })
	keys := column(changes, func(c *Change) string { return c.id.Key })
	steps := column(changes, func(c *Change) string { return c.id.Step })
	for _, c := range changes {
		c := c.What.(*Change)
		c.was = Operation{ID: c.id, Do: Side{State: None}, Undo: Side{State: None}}
	}
	batch.Queue(forgotten, definitions, keys, steps).Query(func(rows pgx.Rows) error {
		var n int
		_, err := pgx.ForEachRow(rows, []any{&n}, func() error {
			changes[n-1].Err = fmt.Errorf("%s of %s: %w", steps[n-1], keys[n-1], ErrForgotten)
			return nil
		})
		return err
	})
	batch.Queue(recorded, definitions, keys, steps).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var n int
			op, err := scan(rows, &n)
			if err != nil {
				return fmt.Errorf("read operations: %w", err)
			}
			changes[n-1].What.(*Change).was = op
		}
		return rows.Err()
	})
}

// Decide implements commit.Table.
func (t *Table) Decide(changes []*commit.Change) {
	for _, change := range changes {
		c := change.What.(*Change)
		c.Op = c.was
		c.Known, change.Err = c.begin(&c.Op)
	}
}

// Write implements commit.Table.
func (t *Table) Write(_ context.Context, batch *pgx.Batch, changes []*commit.Change) error {
	var first, changed []*Operation
	var seen []*time.Time
	for _, change := range changes {
		c := change.What.(*Change)
		switch {
		case reflect.DeepEqual(c.Op, c.was):
		case c.was.CreatedAt.IsZero():
			first = append(first, &c.Op)
		default:
			changed, seen = append(changed, &c.Op), append(seen, &c.was.UpdatedAt)
		}
	}
	if len(first) > 0 {
		queueInsert(batch, first)
	}
	if len(changed) > 0 {
		queueUpdate(batch, changed, seen)
	}
	return nil
}

// Of what is under way, ask_at says when recovery looks.
const (
	written = `
		unnest($1::text[], $2::text[], $3::text[], $4::text[],
		       $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
		       $10::text[], $11::text[], $12::text[], $13::text[], $14::text[],
		       $15::text[], $16::timestamptz[], $17::text[], $18::bigint[], $19::timestamptz[])
		AS w (definition, key, step, digest,
		      do_state, do_reason, do_detail, do_reference, do_key,
		      undo_state, undo_reason, undo_detail, undo_reference, undo_key,
		      output, valid_until, currency, minor_units, seen)`

	insertOperations = `
		INSERT INTO operations (definition, key, step, digest, do_state, do_reason, do_detail, do_reference, do_key,
		                        undo_state, undo_reason, undo_detail, undo_reference, undo_key, output, valid_until, currency, minor_units, ask_at)
		SELECT definition, key, step, nullif(digest, ''), do_state, do_reason, do_detail, do_reference, do_key,
		       undo_state, undo_reason, undo_detail, undo_reference, undo_key,
		       nullif(output, '')::json, valid_until, nullif(currency, ''), nullif(minor_units, 0),
		       CASE WHEN 'started' IN (do_state, undo_state) THEN clock_timestamp() + $20::interval END
		FROM ` + written

	updateOperations = `
		UPDATE operations AS o
		SET digest = nullif(w.digest, ''),
		    do_state = w.do_state, do_reason = w.do_reason, do_detail = w.do_detail, do_reference = w.do_reference, do_key = w.do_key,
		    undo_state = w.undo_state, undo_reason = w.undo_reason, undo_detail = w.undo_detail, undo_reference = w.undo_reference,
		    undo_key = w.undo_key,
		    output = nullif(w.output, '')::json, valid_until = w.valid_until,
		    currency = nullif(w.currency, ''), minor_units = nullif(w.minor_units, 0),
		    asks = 0,
		    ask_at = CASE WHEN 'started' IN (w.do_state, w.undo_state) THEN clock_timestamp() + $20::interval END,
		    updated_at = clock_timestamp()
		FROM ` + written + `
		WHERE o.definition = w.definition AND o.key = w.key AND o.step = w.step AND (w.seen IS NULL OR o.updated_at = w.seen)`
)

// queueInsert queues the first record of operations.
func queueInsert(batch *pgx.Batch, ops []*Operation) {
	batch.Queue(insertOperations, values(ops, make([]*time.Time, len(ops)))...)
}

// queueUpdate queues what operations have become. Where seen is not nil, it is when the operation had changed last as its reader saw it:
// whoever breaks the rule of sagaLocks (an older version of this program would) must not have its record overwritten.
func queueUpdate(batch *pgx.Batch, ops []*Operation, seen []*time.Time) {
	batch.Queue(updateOperations, values(ops, seen)...).Exec(func(tag pgconn.CommandTag) error {
		if int(tag.RowsAffected()) != len(ops) {
			return fmt.Errorf("%d operations written, not %d: somebody else has changed one meanwhile", tag.RowsAffected(), len(ops))
		}
		return nil
	})
}

func values(ops []*Operation, seen []*time.Time) []any {
	var args []any
	text := func(value func(*Operation) string) {
		column := make([]string, len(ops))
		for i, op := range ops {
			column[i] = value(op)
		}
		args = append(args, column)
	}
	text(func(o *Operation) string { return o.Definition })
	text(func(o *Operation) string { return o.Key })
	text(func(o *Operation) string { return o.Step })
	text(func(o *Operation) string { return o.Digest })
	for _, d := range []Direction{Doing, Undoing} {
		text(func(o *Operation) string { return string(o.Side(d).State) })
		text(func(o *Operation) string { return o.Side(d).Reason })
		text(func(o *Operation) string { return o.Side(d).Detail })
		text(func(o *Operation) string { return o.Side(d).Reference })
		text(func(o *Operation) string { return o.Side(d).Key })
	}
	text(func(o *Operation) string { return string(o.Output) })
	validUntil, minorUnits := make([]*time.Time, len(ops)), make([]int64, len(ops))
	for i, op := range ops {
		if !op.ValidUntil.IsZero() {
			validUntil[i] = &op.ValidUntil
		}
		minorUnits[i] = op.Amount.MinorUnits
	}
	args = append(args, validUntil)
	text(func(o *Operation) string { return o.Amount.Currency })
	return append(args, minorUnits, seen, firstAsk)
}

// column is one value of each change, as a statement over arrays takes it.
func column(changes []*commit.Change, value func(*Change) string) []string {
	values := make([]string, len(changes))
	for i, change := range changes {
		values[i] = value(change.What.(*Change))
	}
	return values
}
