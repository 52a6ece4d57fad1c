package ledger_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger/ledgertest"
	"github.com/checkoutsaga/orchestrator/saga/participant/participanttest"
)

// airline is a whole participant.
func airline(pool *pgxpool.Pool) *ledger.Participant {
	return ledger.New(pool, map[string]ledger.Step{"book-flight": {
		Do: func(ctx context.Context, tx pgx.Tx, r participant.Request) (participant.Result, error) {
			var wish struct{ Seats int }
			if err := json.Unmarshal(r.Input, &wish); err != nil {
				return participant.Result{}, fmt.Errorf("%w: %w", participant.ErrBadRequest, err)
			}
			const book = `INSERT INTO bookings (trip, seats) VALUES ($1, $2)`
			if _, err := tx.Exec(ctx, book, r.Key, wish.Seats); err != nil {
				return participant.Result{}, err
			}
			if wish.Seats > 9 {
				return participant.Reject("sold_out", "the aircraft has 9 seats"), nil
			}
			return participant.Result{Outcome: participant.Applied, Reference: "PNR-" + r.Key}, nil
		},
		Undo: func(ctx context.Context, tx pgx.Tx, r participant.Request) error {
			_, err := tx.Exec(ctx, `DELETE FROM bookings WHERE trip = $1`, r.Key)
			return err
		},
	}})
}

func database(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.Pool(t)
	require.NoError(t, ledger.Migrate(t.Context(), pool))
	require.NoError(t, ledger.Migrate(t.Context(), pool), "again is quiet")
	_, err := pool.Exec(t.Context(), `CREATE TABLE bookings (trip text, seats integer)`) // No key: a booking that is made twice is seen.
	require.NoError(t, err)
	return pool
}

func TestAParticipantOfItsStepsKeepsAllPromises(t *testing.T) {
	t.Parallel()
	for name, reach := range map[string]func(*testing.T, participant.Participant) participant.Participant{
		"in process": func(_ *testing.T, p participant.Participant) participant.Participant { return p },
		"over the wire": func(t *testing.T, p participant.Participant) participant.Participant {
			mux := http.NewServeMux()
			mux.Handle(participant.Handler(p))
			server := httptest.NewServer(mux)
			t.Cleanup(server.Close)
			return participant.Client(server.Client(), server.URL)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := database(t)
			adapter := participanttest.Of(reach(t, airline(pool)), participanttest.Samples{
				Definition: "book-trip", Step: "book-flight",
				Done: json.RawMessage(`{"seats":2}`), Other: json.RawMessage(`{"seats":3}`), Refused: json.RawMessage(`{"seats":10}`),
			})
			adapter.State = func(ctx context.Context, key string) (seats string, err error) {
				err = pool.QueryRow(ctx, `SELECT coalesce(sum(seats), 0) || ' seats' FROM bookings WHERE trip = $1`, key).Scan(&seats)
				return seats, err
			}
			adapter.None, adapter.Done, adapter.Undone, adapter.NotProven = "0 seats", "2 seats", "0 seats", nil
			adapter.FailCommits = ledgertest.FailCommits(pool)
			report := participanttest.Prove(t, adapter)
			require.True(t, report.Passed())
			require.Equal(t, 12, report.Count(participanttest.Passed), "the others need an outer system or a process to kill")
		})
	}
}

// asks for a step of a test's own.
func ask(key, input string) participant.Request {
	return participant.Request{Definition: "book-trip", Key: key, Step: "s", Input: json.RawMessage(input)}
}

func TestTheRecordedAnswerIsTheFirstOne(t *testing.T) {
	t.Parallel()
	pool := database(t)
	calls := 0
	p := ledger.New(pool, map[string]ledger.Step{"s": {Do: func(context.Context, pgx.Tx, participant.Request) (participant.Result, error) {
		calls++
		return participant.Result{
			Outcome: participant.Applied, Reason: "r", Detail: "d\x00", Reference: "PNR 7", Output: json.RawMessage(`{"b": 1, "a": 2}`),
			ValidUntil: time.Date(2030, 1, 2, 3, 4, 5, 6789, time.FixedZone("", 3600)),
		}, nil
	}}})
	first, err := p.Do(t.Context(), ask("k", `{}`))
	require.NoError(t, err)
	require.Equal(t, participant.Result{
		Outcome: participant.Applied, Reason: "r", Detail: "d?", Reference: "PNR 7", Output: json.RawMessage(`{"b":1,"a":2}`),
		ValidUntil: time.Date(2030, 1, 2, 2, 4, 5, 6000, time.UTC),
	}, first)
	again, err := p.Do(t.Context(), ask("k", `{}`))
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Equal(t, 1, calls)
}

func TestWithoutADigestTheInputSaysWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	p := ledger.New(database(t), map[string]ledger.Step{"s": {Do: func(context.Context, pgx.Tx, participant.Request) (participant.Result, error) {
		return participant.Result{Outcome: participant.Applied}, nil
	}}})
	_, err := p.Do(t.Context(), ask("k", `{"seats": 2, "class": "Y"}`))
	require.NoError(t, err)
	_, err = p.Do(t.Context(), ask("k", `{"class":"Y","seats":2}`))
	require.NoError(t, err, "the same, written differently")
	for _, other := range []string{`{"class":"Y","seats":3}`, ``, `{}`} {
		_, err = p.Do(t.Context(), ask("k", other))
		require.ErrorIs(t, err, participant.ErrConflict, other)
	}
	_, err = p.Do(t.Context(), ask("none", ``))
	require.NoError(t, err)
	_, err = p.Do(t.Context(), ask("none", `null`))
	require.NoError(t, err, "null is no input")
}

func TestSagasOfTwoDefinitionsMayHaveOneKey(t *testing.T) {
	t.Parallel()
	p := airline(database(t))
	for _, definition := range []string{"book-trip", "move-house"} {
		r := participant.Request{Definition: definition, Key: "k", Step: "book-flight", Digest: "1:" + definition, Input: json.RawMessage(`{"seats":2}`)}
		result, err := p.Do(t.Context(), r)
		require.NoError(t, err)
		require.Equal(t, participant.Applied, result.Outcome)
	}
	forgotten, err := p.Forget(t.Context(), "book-trip", []string{"k"})
	require.NoError(t, err)
	require.Equal(t, []string{"k"}, forgotten.Keys)
	_, err = p.Get(t.Context(), participant.ID{Definition: "book-trip", Key: "k", Step: "book-flight"})
	require.ErrorIs(t, err, participant.ErrForgotten)
	op, err := p.Get(t.Context(), participant.ID{Definition: "move-house", Key: "k", Step: "book-flight"})
	require.NoError(t, err)
	require.True(t, op.InPlace())
}

func TestWhatIsNotAppliedLeavesNothing(t *testing.T) {
	t.Parallel()
	broken := errors.New("the disk is full")
	insert := func(ctx context.Context, tx pgx.Tx, r participant.Request) error {
		_, err := tx.Exec(ctx, `INSERT INTO bookings (trip) VALUES ($1)`, r.Key)
		return err
	}
	for name, c := range map[string]struct {
		answers  participant.Result
		fails    error
		want     participant.Outcome
		recorded participant.Outcome
		err      error
	}{
		"a refusal":             {answers: participant.Reject("sold_out", "no seat"), want: participant.Rejected, recorded: participant.Rejected},
		"not known yet":         {answers: participant.Result{Outcome: participant.NotKnown}, want: participant.NotKnown},
		"an error":              {fails: broken, err: broken},
		"a bad request":         {fails: participant.ErrBadRequest, err: participant.ErrBadRequest},
		"no outcome":            {err: participant.ErrBadAnswer},
		"an outcome not its":    {answers: participant.Result{Outcome: participant.UndoneBefore}, err: participant.ErrBadAnswer},
		"a refusal without why": {answers: participant.Result{Outcome: participant.Rejected}, err: participant.ErrBadAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := database(t)
			p := ledger.New(pool, map[string]ledger.Step{"s": {Do: func(ctx context.Context, tx pgx.Tx, r participant.Request) (participant.Result, error) {
				require.NoError(t, insert(ctx, tx, r))
				return c.answers, c.fails
			}}})
			result, err := p.Do(t.Context(), ask("k", ``))
			require.ErrorIs(t, err, c.err)
			require.Equal(t, c.want, result.Outcome)
			var bookings int
			require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM bookings`).Scan(&bookings))
			require.Zero(t, bookings)
			op, err := p.Get(t.Context(), ask("k", ``).ID())
			require.NoError(t, err)
			require.Equal(t, c.recorded, op.Do)
		})
	}
}

func TestWhatCanNoLongerBeUndoneIsRejectedWithAReason(t *testing.T) {
	t.Parallel()
	done := func(ctx context.Context, tx pgx.Tx, r participant.Request) (participant.Result, error) {
		_, err := tx.Exec(ctx, `INSERT INTO bookings (trip) VALUES ($1)`, r.Key)
		return participant.Result{Outcome: participant.Applied}, err
	}
	pool := database(t)
	p := ledger.New(pool, map[string]ledger.Step{
		"s": {Do: done, Undo: func(ctx context.Context, tx pgx.Tx, r participant.Request) error {
			if _, err := tx.Exec(ctx, `DELETE FROM bookings`); err != nil {
				return err
			}
			return fmt.Errorf("undo: %w", ledger.CannotUndo("departed", "the aircraft has left"))
		}},
		"t": {Do: done},
	})
	for step, want := range map[string]participant.Result{
		"s": {Outcome: participant.Rejected, Reason: "departed", Detail: "the aircraft has left"},
		"t": {Outcome: participant.Rejected, Reason: "cannot_be_undone", Detail: "nothing undoes this step"},
	} {
		r := ask("k", ``)
		r.Step = step
		_, err := p.Do(t.Context(), r)
		require.NoError(t, err)
		for range 2 {
			result, err := p.Undo(t.Context(), r)
			require.NoError(t, err)
			require.Equal(t, want, result)
		}
		op, err := p.Get(t.Context(), r.ID())
		require.NoError(t, err)
		require.Equal(t, participant.Rejected, op.Undo)
		require.True(t, op.InPlace())
	}
	var bookings int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM bookings`).Scan(&bookings))
	require.Equal(t, 2, bookings, "what was deleted before the refusal is there")
}

func TestAStepThatThereIsNotIsABadRequest(t *testing.T) {
	t.Parallel()
	p := ledger.New(database(t), map[string]ledger.Step{"empty": {}})
	for _, step := range []string{"other", "empty", "a step"} {
		r := ask("k", ``)
		r.Step = step
		_, err := p.Do(t.Context(), r)
		require.ErrorIs(t, err, participant.ErrBadRequest)
		_, err = p.Undo(t.Context(), r)
		require.ErrorIs(t, err, participant.ErrBadRequest)
	}
	page, err := p.List(t.Context(), participant.Query{})
	require.NoError(t, err)
	require.Empty(t, page.Operations, "nothing is recorded")
}

func TestRecordsAreListedPageByPageOfOneDefinitionOrAll(t *testing.T) {
	t.Parallel()
	p := airline(database(t))
	for i := range 5 {
		for _, definition := range []string{"book-trip", "move-house"} {
			_, err := p.Do(t.Context(), participant.Request{Definition: definition, Key: fmt.Sprint("k", i), Step: "book-flight", Input: json.RawMessage(`{"seats":1}`)})
			require.NoError(t, err)
		}
	}
	for name, c := range map[string]struct {
		query participant.Query
		want  int
	}{
		"the keys of one":      {participant.Query{Definition: "book-trip", Keys: []string{"k1", "k3", "never"}}, 2},
		"all of one":           {participant.Query{Definition: "book-trip"}, 5},
		"all":                  {participant.Query{}, 10},
		"none since long ago":  {participant.Query{Since: time.Now().Add(time.Hour)}, 0},
		"none of another one":  {participant.Query{Definition: "other"}, 0},
		"those of a time past": {participant.Query{Definition: "move-house", Since: time.Unix(0, 0)}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			seen := map[participant.ID]bool{}
			c.query.PageSize = 2
			for {
				page, err := p.List(t.Context(), c.query)
				require.NoError(t, err)
				require.LessOrEqual(t, len(page.Operations), 2)
				for _, op := range page.Operations {
					require.Equal(t, participant.Applied, op.Do)
					require.False(t, op.CreatedAt.IsZero())
					seen[participant.ID{Definition: op.Definition, Key: op.Key, Step: op.Step}] = true
				}
				if page.NextPageToken == "" {
					break
				}
				c.query.PageToken = page.NextPageToken
			}
			require.Len(t, seen, c.want)
		})
	}
	for name, bad := range map[string]participant.Query{"keys of nothing": {Keys: []string{"k1"}}, "a token of its own": {PageToken: "abc"}} {
		_, err := p.List(t.Context(), bad)
		require.ErrorIs(t, err, participant.ErrBadRequest, name)
	}
	_, err := p.Forget(t.Context(), "", []string{"k1"})
	require.ErrorIs(t, err, participant.ErrBadRequest)
}
