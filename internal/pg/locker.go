package pg

import (
	"fmt"

	"github.com/pressly/goose/v3/lock"
)

// newSessionLocker waits at most five minutes for another process that is migrating the same database.
func newSessionLocker() (lock.SessionLocker, error) {
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return nil, fmt.Errorf("make migration lock: %w", err)
	}
	return locker, nil
}
