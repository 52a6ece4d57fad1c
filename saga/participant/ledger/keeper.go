package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// keeper tells and forgets the operations in the database of pool, of whatever definition; openWhy is Forget's.
type keeper struct {
	pool    *pgxpool.Pool
	openWhy string
}

// Get is participant.Participant's.
func (k keeper) Get(ctx context.Context, id participant.ID) (participant.Operation, error) {
	op, err := Get(ctx, k.pool, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return participant.Operation{}, nil
	case err != nil:
		return participant.Operation{}, fmt.Errorf("get %s of %s: %w", id.Step, id.Key, err)
	}
	return op.Recorded(), nil
}

// List is participant.Keeper's.
func (k keeper) List(ctx context.Context, q participant.Query) (participant.Page, error) {
	if len(q.Keys) > 0 && q.Definition == "" {
		return participant.Page{}, fmt.Errorf("%w: definition: is missing; it is what the keys are keys of", participant.ErrBadRequest)
	}
	ops, next, err := page(ctx, k.pool, q)
	if errors.Is(err, errNoPlace) {
		return participant.Page{}, fmt.Errorf("%w: %w", participant.ErrBadRequest, err)
	}
	if err != nil {
		return participant.Page{}, err
	}
	list := participant.Page{NextPageToken: next}
	for _, op := range ops {
		list.Operations = append(list.Operations, op.Recorded())
	}
	return list, nil
}

// Forget is participant.Keeper's.
func (k keeper) Forget(ctx context.Context, definition string, keys []string) (participant.Forgotten, error) {
	if definition == "" {
		return participant.Forgotten{}, fmt.Errorf("%w: definition: is missing", participant.ErrBadRequest)
	}
	return Forget(ctx, k.pool, definition, k.openWhy, keys)
}
