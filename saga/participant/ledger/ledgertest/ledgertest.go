// Package ledgertest breaks what a participant relies on to record its operations. It is imported by tests only.
package ledgertest

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

// FailCommits returns a function that makes every commit fail that records an applied outcome in the database of pool, until mend
// is called. It fails at the last moment, so that what was done outside of that transaction stays and is seen.
func FailCommits(pool *pgxpool.Pool) func(ctx context.Context) (mend func(context.Context) error, err error) {
	const on = `
		CREATE FUNCTION fail_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'this commit was made to fail'; END $$;
		CREATE CONSTRAINT TRIGGER fail_commit AFTER INSERT OR UPDATE ON operations DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW WHEN (NEW.do_state = 'applied' OR NEW.undo_state = 'applied') EXECUTE FUNCTION fail_commit()`
	const off = `DROP FUNCTION fail_commit CASCADE`
	return func(ctx context.Context) (func(context.Context) error, error) {
		if _, err := pool.Exec(ctx, on); err != nil {
			return nil, fmt.Errorf("make commits fail: %w", err)
		}
		return func(ctx context.Context) error {
			if _, err := pool.Exec(ctx, off); err != nil {
				return fmt.Errorf("let commits work: %w", err)
			}
			return nil
		}, nil
	}
}
