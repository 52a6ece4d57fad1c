package embedded

import (
	"context"
	"time"

	"github.com/dapr/durabletask-go/api/protos"
	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/engine"
)

// turn is what one transaction adds to an instance. Whoever commits it holds the instance.
type turn struct {
	runner   *runner
	instance *instance
	// happened is what the turn takes in. Without it the turn adds nothing to the log: the instance is only noted as lasting.
	happened []*protos.HistoryEvent
	// brought is the row of the inbox that it came by; 0 where there is none.
	brought int64
	// answer makes of the transaction what happened; nil where that is known before.
	answer func() (*protos.HistoryEvent, error)

	// next is the history after the turn, row what it adds to the log.
	next history
	row  []byte
	// written says that it was put into a transaction.
	written bool
}

// isOpen tells whether it is not known if the turn was committed: change, of which nobody has heard that it was, is what it was put
// into a transaction by.
func (t *turn) isOpen(change *commit.Change) bool { return t.written && change.Err == nil }

// take takes the turn, as far as it is known what happened.
func (t *turn) take() (err error) {
	t.next, t.row, err = t.instance.history.turn(t.runner.code, t.happened)
	return err
}

// lowWater is the key below which no instance goes on that is not noted as lasting.
type lowWater struct {
	runner *runner
	key    int64
}

// table is the engine's part of the transactions that it shares: a *turn or a *lowWater is one change.
type table struct{}

const (
	// By an index, because transactions are told to use indexes: PostgreSQL takes anything else for so costly that it compiles it first.
	sqlEpoch         = `SELECT epoch FROM engine.owner WHERE one FOR SHARE`
	sqlEpochAtOnce   = `SELECT epoch FROM engine.owner WHERE one FOR SHARE SKIP LOCKED`
	sqlStartedBefore = `
		SELECT id FROM engine.log WHERE id = ANY($1)
		UNION ALL
		SELECT id FROM engine.inbox WHERE starts AND id = ANY($1) AND n <> ALL($2)`
	sqlAddToLog = `
		INSERT INTO engine.log (key, seq, id, status, events)
		SELECT key, seq, NULLIF(id, ''), status, events FROM unnest($1::bigint[], $2::int[], $3::text[], $4::smallint[], $5::bytea[]) AS turns (key, seq, id, status, events)`
	sqlNoteLasting = `
		INSERT INTO engine.lasting (id, key, busy, wake)
		SELECT * FROM unnest($1::text[], $2::bigint[], $3::boolean[], $4::timestamptz[])
		ON CONFLICT (id) DO UPDATE SET key = excluded.key, busy = excluded.busy, wake = excluded.wake`
	sqlForgetLasting = `DELETE FROM engine.lasting WHERE id = ANY($1)`
	sqlTaken         = `DELETE FROM engine.inbox WHERE n = ANY($1)`
	sqlLowWater      = `UPDATE engine.low_water SET key = $1 WHERE one`
)

// Read implements commit.Table: nothing is written for a process that another one has taken over from, nor for the start of an id that
// was started before.
func (*table) Read(batch *pgx.Batch, changes []*commit.Change, wait bool) {
	epoch := sqlEpochAtOnce
	if wait {
		epoch = sqlEpoch
	}
	batch.Queue(epoch).Query(func(rows pgx.Rows) error {
		epochs, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return err
		}
		for _, c := range changes {
			switch {
			case len(epochs) == 0: // Somebody takes over, or looks for what became of a transaction.
				c.Err = commit.ErrBusy
			case epochs[0] != runnerOf(c).epoch:
				c.Err = ErrLost
			}
		}
		return nil
	})

	var ids []string
	brought := []int64{}
	starts := make(map[string]*commit.Change)
	for _, c := range changes {
		if t, is := c.What.(*turn); is && t.instance.history.rows == 0 && t.row != nil {
			ids, brought = append(ids, t.instance.id), append(brought, t.brought)
			starts[t.instance.id] = c
		}
	}
	if len(ids) == 0 {
		return
	}
	batch.Queue(sqlStartedBefore, ids, brought).Query(func(rows pgx.Rows) error {
		before, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, id := range before {
			if c := starts[id]; c.Err == nil {
				c.Err = engine.ErrExists
			}
		}
		return nil
	})
}

func runnerOf(c *commit.Change) *runner {
	if t, is := c.What.(*turn); is {
		return t.runner
	}
	return c.What.(*lowWater).runner
}

// Decide implements commit.Table. What is known beforehand was decided beforehand, so that nobody waits for it with a transaction
// open; a turn that takes in an answer of the same transaction is taken here.
func (*table) Decide(changes []*commit.Change) {
	for _, c := range changes {
		t, is := c.What.(*turn)
		if !is || t.answer == nil {
			continue
		}
		answered, err := t.answer()
		if err == nil {
			t.happened = []*protos.HistoryEvent{answered}
			err = t.take()
		}
		c.Err = err
	}
}

// Write implements commit.Table.
func (*table) Write(_ context.Context, batch *pgx.Batch, changes []*commit.Change) error {
	var (
		log struct {
			keys     []int64
			numbers  []int32
			ids      []string
			statuses []status
			events   [][]byte
		}
		lasting struct {
			ids   []string
			keys  []int64
			busy  []bool
			wakes []*time.Time
		}
		ended []string
		taken []int64
		low   int64
	)
	for _, c := range changes {
		t, is := c.What.(*turn)
		if !is {
			low = c.What.(*lowWater).key
			continue
		}
		t.written = true
		if t.row != nil {
			id := ""
			if t.next.rows == 1 {
				id = t.next.id
			}
			log.keys, log.numbers, log.ids = append(log.keys, t.next.key), append(log.numbers, t.next.rows-1), append(log.ids, id)
			log.statuses, log.events = append(log.statuses, t.next.status()), append(log.events, t.row)
		}
		if t.brought != 0 {
			taken = append(taken, t.brought)
		}
		switch {
		case !t.instance.noted:
		case t.next.end != nil:
			ended = append(ended, t.next.id)
		default:
			lasting.ids, lasting.keys = append(lasting.ids, t.next.id), append(lasting.keys, t.next.key)
			lasting.busy, lasting.wakes = append(lasting.busy, len(t.next.tasks) > 0), append(lasting.wakes, nullable(t.next.wake()))
		}
	}
	if len(log.keys) > 0 {
		batch.Queue(sqlAddToLog, log.keys, log.numbers, log.ids, log.statuses, log.events)
	}
	if len(lasting.ids) > 0 {
		batch.Queue(sqlNoteLasting, lasting.ids, lasting.keys, lasting.busy, lasting.wakes)
	}
	if len(ended) > 0 {
		batch.Queue(sqlForgetLasting, ended)
	}
	if len(taken) > 0 {
		batch.Queue(sqlTaken, taken)
	}
	if low != 0 {
		batch.Queue(sqlLowWater, low)
	}
	return nil
}

func nullable(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
