package trip_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// watchTheBooks has PostgreSQL note each movement of the participants' books, which tell by themselves only what is left. It also
// makes the lock of each movement, by which holdInside holds a participant in its transaction.
func (s *system) watchTheBooks(t *testing.T) {
	t.Helper()
	_, err := s.books.Exec(t.Context(), `
		CREATE TABLE movements (movement text, saga text, step text);
		CREATE FUNCTION note_movement() RETURNS trigger LANGUAGE plpgsql AS $$
		DECLARE entry books := coalesce(NEW, OLD);
		BEGIN
			PERFORM pg_advisory_xact_lock_shared(hashtextextended(TG_OP || ' ' || entry.saga || ' ' || entry.step, 0));
			INSERT INTO movements VALUES (TG_OP, entry.saga, entry.step);
			RETURN entry;
		END $$;
		CREATE TRIGGER note_movement BEFORE INSERT OR DELETE ON books FOR EACH ROW EXECUTE FUNCTION note_movement()`)
	require.NoError(t, err)
}

// lockName is that of the lock of a movement.
func lockName(movement, key, step string) string { return movement + " " + key + " " + step }

// nothingWasUndone says where something of a trip was given back.
func (s *system) nothingWasUndone(ctx context.Context, key string) error {
	var undone []string
	err := s.books.QueryRow(ctx, `SELECT coalesce(array_agg(step), '{}') FROM movements WHERE saga = $1 AND movement = 'DELETE'`, key).Scan(&undone)
	if err == nil && len(undone) > 0 {
		err = fmt.Errorf("of %s is undone: %v", key, undone)
	}
	return err
}

// judge looks at all trips, which have ended: at how they ended, at the participants' books, and at what the program's own audit finds.
func (s *system) judge(t *testing.T) {
	t.Helper()
	type row struct{ Key, Status string }
	rows, err := s.sagas.Query(t.Context(), `SELECT key, status FROM sagas`)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	require.NoError(t, err)
	statuses := make(map[string]string)
	for _, r := range all {
		statuses[r.Key] = r.Status
	}
	wantStatuses, wantBooks := make(map[string]string), make(map[string]int64)
	for key, e := range s.ends {
		wantStatuses[key] = map[int]string{done: "CONFIRMED", rejected: "REJECTED", cancelled: "CANCELLED"}[e.exit]
		for _, step := range steps {
			if (e.exit == done) == slices.Contains(e.but, step.name) {
				continue
			}
			wantBooks[key+" "+step.name] = 1
			if step.name == "charge-card" {
				wantBooks[key+" "+step.name] = price
			}
		}
	}
	require.Equal(t, wantStatuses, statuses)

	type entry struct {
		Name  string
		Units int64
	}
	rows, err = s.books.Query(t.Context(), `SELECT saga || ' ' || step, units FROM books`)
	require.NoError(t, err)
	entries, err := pgx.CollectRows(rows, pgx.RowToStructByPos[entry])
	require.NoError(t, err)
	books := make(map[string]int64)
	for _, e := range entries {
		books[e.Name] = e.Units
	}
	require.Equal(t, wantBooks, books)

	// What is in the books was entered once and never struck out; whatever else was entered was struck out once.
	type count struct {
		Name               string
		Entered, StruckOut int
	}
	rows, err = s.books.Query(t.Context(), `
		SELECT saga || ' ' || step, count(*) FILTER (WHERE movement = 'INSERT'), count(*) FILTER (WHERE movement = 'DELETE')
		FROM movements GROUP BY saga, step`)
	require.NoError(t, err)
	counts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[count])
	require.NoError(t, err)
	for _, c := range counts {
		want := count{Name: c.Name, Entered: 1, StruckOut: 1}
		if _, is := books[c.Name]; is {
			want.StruckOut = 0
		}
		require.Equal(t, want, c)
	}

	var audit struct {
		Checked    int
		Violations []any
	}
	require.NoError(t, json.Unmarshal([]byte(s.types(t, done, "", "audit", "-o", "json")), &audit))
	require.Empty(t, audit.Violations)
	require.Equal(t, len(s.ends), audit.Checked)
	ends := make(map[string]int)
	for _, status := range statuses {
		ends[status]++
	}
	t.Logf("%d trips, their books and the audit agree: %v", audit.Checked, ends)
}
