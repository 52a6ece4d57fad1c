// Package ledger holds a participant's recorded operations: one row for each step of each saga, for doing and for undoing it.
//
// New makes a participant of what each of its steps does in a transaction, and keeps the promises for it; most participants need no
// more. One that does more in that transaction, or has an effect outside the database, calls the functions below itself. They work
// in the caller's transaction, so that the row and the effect it tells of are committed together or not at all. One whose operations
// share transactions has a Table of them. The ledger knows neither articles nor money accounts, and calls nobody.
//
// Both directions begin by locking that one row, or that there is none yet. So the second to come waits until the first has committed,
// and then sees what the first has done. That settles a release that races with its reservation.
//
// Operations may be removed (Forget), but not that a saga once was: what comes late for a forgotten saga is refused.
//
// The tables are in the participant's own database. Migrate makes them, beside whatever the participant's own migrations make.
package ledger

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations make the ledger's tables, apart from the participant's own.
func Migrations() pg.Migrations { return pg.EmbeddedMigrations(files, "ledger_migrations") }

// Migrate brings the ledger's tables in the database of pool to the newest form. Several processes may call it at once.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	if err := pg.Migrate(ctx, pool, Migrations()); err != nil {
		return fmt.Errorf("migrate ledger: %w", err)
	}
	return nil
}

// The ledger's errors; see participant for the first two.
var (
	ErrConflict  = participant.ErrConflict
	ErrForgotten = participant.ErrForgotten
	// ErrNotFound: nothing is known of this step of this saga.
	ErrNotFound = errors.New("no such operation")
)

// State is the state of one direction. Legal moves of doing: none → applied | rejected | started | undone-before, started → applied
// | rejected. Of undoing: none → applied | rejected | started | wanted, wanted → applied | started, started → applied.
type State string

// The states, as they stand in rows.
const (
	// None: not asked for yet.
	None State = "none"
	// Started: the effect is outside this database; it was or will be asked for with the direction's key, and its outcome is
	// not known yet.
	Started State = "started"
	// Wanted, of undoing only: doing is started; whoever learns its outcome undoes it.
	Wanted State = "wanted"
	// Applied: the effect is in place, or gone for good.
	Applied State = "applied"
	// Rejected: refused for a business reason, for ever.
	Rejected State = "rejected"
	// UndoneBefore, of doing only: undone before it arrived, so refused for ever.
	UndoneBefore State = "undone-before"
)

// Unseen is the reason of an undoing that is applied though its step never came. If the step was once confirmed, this participant
// has lost what it recorded.
const Unseen = participant.Unseen

// MaxDetail is where sentences are cut, in bytes.
const MaxDetail = participant.MaxDetail

// firstAsk is how long the starter of an effect has to learn its outcome before the participant's own recovery asks.
const firstAsk = 3 * time.Second

// Side is one direction of an operation: doing it, or undoing it.
type Side struct {
	State State
	// Reason is a word for programs, Detail a sentence for people.
	Reason, Detail string
	// Reference is the participant's own, for people to search by.
	Reference string
	// Key is the idempotency key of a started effect in the outer system.
	Key string
}

// Apply records that the effect is in place, or gone.
func (s *Side) Apply(reference string) {
	s.State, s.Reason, s.Detail, s.Reference = Applied, "", "", reference
}

// Reject records a refusal.
func (s *Side) Reject(reason, detail string) {
	s.State, s.Reason, s.Detail = Rejected, reason, pg.Text(detail, MaxDetail)
}

// Start records that an effect outside the database is about to be asked for with a key.
func (s *Side) Start(key string) {
	s.State, s.Key = Started, key
}

// Await says what a started effect waits for. It is not recorded.
func (s *Side) Await(detail string) { s.Detail = pg.Text(detail, MaxDetail) }

// Amount is money that an operation concerns. The zero value means none.
type Amount struct {
	Currency   string
	MinorUnits int64
}

// Operation is one step of one saga.
type Operation struct {
	participant.ID
	// Digest is that of the request to do it; empty until that comes.
	Digest   string
	Do, Undo Side
	// Output is what doing it gave back, as JSON; nil for nothing.
	Output json.RawMessage
	// ValidUntil is when the effect ends by itself; zero if it does not.
	ValidUntil time.Time
	Amount     Amount
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

// Direction of an operation.
type Direction = participant.Direction

// The directions.
const (
	Doing   = participant.Doing
	Undoing = participant.Undoing
)

// Side returns one direction of the operation.
func (o *Operation) Side(d Direction) *Side {
	if d == Undoing {
		return &o.Undo
	}
	return &o.Do
}

// UnderWay tells in which direction to ask an outer system next; false if there is nothing to ask.
func (o *Operation) UnderWay() (Direction, bool) {
	if o.Do.State == Started {
		return Doing, true
	}
	return Undoing, o.Undo.State == Started
}

// Digest identifies what a request asks for: a version and a hash over named business fields in fixed order, given as name, value,
// name, value. Lengths in front keep two different lists from giving the same digest.
func Digest(version int, namesAndValues ...string) string {
	h := sha256.New()
	for _, s := range namesAndValues {
		fmt.Fprintf(h, "%d:", len(s))
		io.WriteString(h, s)
	}
	return fmt.Sprintf("%d:%s", version, hex.EncodeToString(h.Sum(nil)))
}

// BeginDoing is the rule of a request to do it. If known is true, o.Do has the answer: the recorded outcome, or undone-before, which is
// recorded now. Otherwise whoever asks does the step: applies or starts the effect, and sets o.Do. It returns ErrConflict if the step
// was asked for with another digest.
func (o *Operation) BeginDoing(digest string) (known bool, err error) {
	if o.Do.State != None {
		if o.Digest != digest {
			return false, fmt.Errorf("do %s of %s: %w", o.Step, o.Key, ErrConflict)
		}
		return true, nil
	}
	o.Digest = digest
	if o.Undo.State == None {
		return false, nil
	}
	o.Do.State = UndoneBefore
	return true, nil
}

// BeginUndoing is the rule of a request to undo it. If known is true, o.Undo has the answer: the recorded outcome or, recorded now,
// applied because there is nothing to undo, or wanted because doing is under way. Otherwise the step was applied, and whoever asks
// undoes it and sets o.Undo.
func (o *Operation) BeginUndoing() (known bool) {
	if o.Undo.State != None {
		return true
	}
	switch o.Do.State {
	case None:
		o.Undo.Apply("")
		o.Undo.Reason = Unseen
	case Rejected:
		o.Undo.Apply("")
	case Started:
		o.Undo.State = Wanted
	default:
		return false
	}
	return true
}

// BeginDoing inserts or locks the operation's row, and says by its rule (Operation.BeginDoing) whether op.Do has the answer. Otherwise
// the caller does the step, sets op.Do, and calls Save, all in this transaction. It returns ErrConflict if the step was asked for with
// another digest, and ErrForgotten if the saga was forgotten; the caller then rolls back.
func BeginDoing(ctx context.Context, tx pgx.Tx, id participant.ID, digest string) (op Operation, known bool, err error) {
	op, err = insertOrLock(ctx, tx, id)
	if err != nil {
		return op, false, err
	}
	was := op.Do.State
	known, err = op.BeginDoing(digest)
	if op.Do.State != was {
		err = Save(ctx, tx, &op)
	}
	return op, known, err
}

// BeginUndoing inserts or locks the operation's row, and says by its rule (Operation.BeginUndoing) whether op.Undo has the answer.
// Otherwise the caller undoes the step, sets op.Undo, and calls Save, all in this transaction. It returns ErrForgotten if the saga was
// forgotten; the caller then rolls back.
func BeginUndoing(ctx context.Context, tx pgx.Tx, id participant.ID) (op Operation, known bool, err error) {
	op, err = insertOrLock(ctx, tx, id)
	if err != nil {
		return op, false, err
	}
	was := op.Undo.State
	known = op.BeginUndoing()
	if op.Undo.State != was {
		err = Save(ctx, tx, &op)
	}
	return op, known, err
}

// Lock locks the row of an operation that exists.
func Lock(ctx context.Context, tx pgx.Tx, id participant.ID) (op Operation, err error) {
	const query = `SELECT ` + columns + ` FROM operations WHERE definition = $1 AND key = $2 AND step = $3 FOR UPDATE`
	batch := &pgx.Batch{}
	queueShare(batch, id)
	batch.Queue(query, id.Definition, id.Key, id.Step).QueryRow(func(row pgx.Row) (err error) {
		op, err = scan(row)
		return err
	})
	return op, tx.SendBatch(ctx, batch).Close()
}

const columns = `
	definition, key, step, coalesce(digest, ''),
	do_state, do_reason, do_detail, do_reference, do_key,
	undo_state, undo_reason, undo_detail, undo_reference, undo_key,
	output, valid_until, coalesce(currency, ''), coalesce(minor_units, 0), created_at, updated_at`

// queueShare queues the sharing of a saga's lock (sagaLocks).
func queueShare(batch *pgx.Batch, id participant.ID) {
	batch.Queue(`SELECT pg_advisory_xact_lock_shared($1, hashtext($2))`, sagaLocks, lockName(id.Definition, id.Key))
}

// insertOrLock makes sure that this transaction alone holds the row. The insert waits for another transaction's insert of the same
// row to commit. The select then sees that row, because each statement of a READ COMMITTED transaction sees what is committed when
// it begins. So it also sees whether the saga was forgotten: until this transaction ends, the shared lock keeps Forget from the
// saga. All three statements go to the database together, so that nobody waits for the question.
func insertOrLock(ctx context.Context, tx pgx.Tx, id participant.ID) (op Operation, err error) {
	const (
		insert = `INSERT INTO operations (definition, key, step) VALUES ($1, $2, $3) ON CONFLICT (definition, key, step) DO NOTHING`
		lock   = `
			SELECT ` + columns + `, EXISTS (SELECT FROM forgotten_sagas AS f WHERE (f.definition, f.key) = (operations.definition, operations.key))
			FROM operations WHERE definition = $1 AND key = $2 AND step = $3 FOR UPDATE`
	)
	var forgotten bool
	batch := &pgx.Batch{}
	queueShare(batch, id)
	batch.Queue(insert, id.Definition, id.Key, id.Step)
	batch.Queue(lock, id.Definition, id.Key, id.Step).QueryRow(func(row pgx.Row) (err error) {
		op, err = scan(row, &forgotten)
		return err
	})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return op, fmt.Errorf("lock operation %s of %s: %w", id.Step, id.Key, err)
	}
	if forgotten {
		return op, fmt.Errorf("%s of %s: %w", id.Step, id.Key, ErrForgotten)
	}
	return op, nil
}

// Save writes an operation that this transaction has locked.
func Save(ctx context.Context, tx pgx.Tx, op *Operation) error {
	batch := &pgx.Batch{}
	QueueSave(batch, op)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("save operation %s of %s: %w", op.Step, op.Key, err)
	}
	return nil
}

// QueueSave queues Save, for a caller that sends it together with the effect.
func QueueSave(batch *pgx.Batch, op *Operation) {
	queueUpdate(batch, []*Operation{op}, []*time.Time{nil})
}

// ClaimUnderWay returns at most limit operations whose outer effect should be known by now. It puts each off by a wait that doubles
// up to 5 minutes, so that several processes share the work and an outer system that is down is not flooded. The claim commits at
// once: no lock is held while the outer system is asked.
func ClaimUnderWay(ctx context.Context, pool *pgxpool.Pool, limit int) ([]Operation, error) {
	const query = `
		UPDATE operations
		SET asks = asks + 1,
		    ask_at = clock_timestamp() + least(interval '3 seconds' * power(2, least(asks, 10)), interval '5 minutes')
		WHERE (definition, key, step) IN (
			SELECT definition, key, step FROM operations
			WHERE ask_at <= clock_timestamp()
			   OR ask_at > clock_timestamp() + interval '6 minutes' -- the clock was set back since
			ORDER BY ask_at
			LIMIT $1
			FOR UPDATE SKIP LOCKED)
		RETURNING ` + columns
	return list(ctx, pool, query, limit)
}

// Get returns an operation, or ErrNotFound, or ErrForgotten where nobody can tell any more.
func Get(ctx context.Context, pool *pgxpool.Pool, id participant.ID) (Operation, error) {
	const (
		query     = `SELECT ` + columns + ` FROM operations WHERE definition = $1 AND key = $2 AND step = $3`
		forgotten = `SELECT EXISTS (SELECT FROM forgotten_sagas WHERE definition = $1 AND key = $2)`
	)
	op, err := scan(pool.QueryRow(ctx, query, id.Definition, id.Key, id.Step))
	if !errors.Is(err, ErrNotFound) {
		return op, err
	}
	var gone bool
	if err := pool.QueryRow(ctx, forgotten, id.Definition, id.Key).Scan(&gone); err != nil {
		return op, fmt.Errorf("look for %s among the forgotten sagas: %w", id.Key, err)
	}
	if gone {
		return op, ErrForgotten
	}
	return op, ErrNotFound
}

// Place is where a page ended; the next begins after it. The zero value is the beginning.
type Place struct {
	UpdatedAt time.Time
	participant.ID
}

// ListByKeys returns at most limit operations of the sagas of a definition, by key and step, after a place.
func ListByKeys(ctx context.Context, pool *pgxpool.Pool, definition string, keys []string, since time.Time, after Place, limit int) ([]Operation, error) {
	const query = `
		SELECT ` + columns + ` FROM operations
		WHERE definition = $1 AND key = ANY($2) AND updated_at >= $3 AND (key, step) > ($4, $5)
		ORDER BY key, step
		LIMIT $6`
	return list(ctx, pool, query, definition, keys, since, after.Key, after.Step, limit)
}

// ListSince returns at most limit operations that changed at a time or later, by when they last changed, after a place; of every
// definition if none is named. A change whose transaction is still open is not seen and may turn up before a place already passed:
// a caller that follows along begins each round a little earlier than the last one ended.
func ListSince(ctx context.Context, pool *pgxpool.Pool, definition string, since time.Time, after Place, limit int) ([]Operation, error) {
	const query = `
		SELECT ` + columns + ` FROM operations
		WHERE updated_at >= $1 AND (updated_at, definition, key, step) > ($2, $3, $4, $5) AND ($6 = '' OR definition = $6)
		ORDER BY updated_at, definition, key, step
		LIMIT $7`
	return list(ctx, pool, query, since, after.UpdatedAt, after.Definition, after.Key, after.Step, definition, limit)
}

func list(ctx context.Context, pool *pgxpool.Pool, query string, args ...any) ([]Operation, error) {
	return pg.Rows(ctx, pool, "list operations", func(row pgx.CollectableRow) (Operation, error) { return scan(row) }, query, args...)
}

// scan reads the columns, and further ones of the query.
func scan(row pgx.Row, more ...any) (Operation, error) {
	var o Operation
	var validUntil *time.Time
	err := row.Scan(append([]any{&o.Definition, &o.Key, &o.Step, &o.Digest,
		&o.Do.State, &o.Do.Reason, &o.Do.Detail, &o.Do.Reference, &o.Do.Key,
		&o.Undo.State, &o.Undo.Reason, &o.Undo.Detail, &o.Undo.Reference, &o.Undo.Key,
		&o.Output, &validUntil, &o.Amount.Currency, &o.Amount.MinorUnits, &o.CreatedAt, &o.UpdatedAt}, more...)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return o, ErrNotFound
	}
	if validUntil != nil {
		o.ValidUntil = validUntil.UTC()
	}
	return o, err
}
