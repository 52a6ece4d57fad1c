package ledger

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// maxPage is the largest page, and the size of a page that does not say.
const maxPage = 1000

// endOfTime is after every time in a page.
var endOfTime = time.Date(9999, time.December, 31, 0, 0, 0, 0, time.UTC)

// errNoPlace: the page token is not one of ours.
var errNoPlace = errors.New("page_token: must be one that a page ended with")

// page returns the operations of a query, and the token of the next page; empty if there is none.
func page(ctx context.Context, pool *pgxpool.Pool, q participant.Query) (ops []Operation, next string, err error) {
	after, err := parsePlace(q.PageToken)
	if err != nil {
		return nil, "", errNoPlace
	}
	size := q.PageSize
	if size <= 0 || size > maxPage {
		size = maxPage
	}
	since := q.Since
	if since.IsZero() {
		since = time.Unix(0, 0)
	}
	// One more than the page, to know whether there is a next.
	if len(q.Keys) > 0 {
		ops, err = ListByKeys(ctx, pool, q.Definition, q.Keys, since, after, size+1)
	} else {
		ops, err = ListSince(ctx, pool, q.Definition, since, after, size+1)
	}
	if err != nil {
		return nil, "", err
	}
	if len(ops) > size {
		ops = ops[:size]
		last := ops[size-1]
		next = Place{UpdatedAt: last.UpdatedAt, ID: last.ID}.token()
	}
	return ops, next, nil
}

// token is a place as text. PostgreSQL's clock counts microseconds.
func (p Place) token() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s %s %s", p.UpdatedAt.UnixMicro(), p.Definition, p.Key, p.Step))
}

func parsePlace(token string) (Place, error) {
	if token == "" {
		return Place{}, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return Place{}, err
	}
	parts := strings.Split(string(text), " ")
	if len(parts) != 4 {
		return Place{}, errors.New("not a place")
	}
	id := participant.ID{Definition: parts[1], Key: parts[2], Step: parts[3]}
	micro, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil || micro < 0 || micro > endOfTime.UnixMicro() || id.Check() != nil {
		return Place{}, errors.New("not a place")
	}
	return Place{UpdatedAt: time.UnixMicro(micro), ID: id}, nil
}
