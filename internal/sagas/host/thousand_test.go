package host_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// Answers get lost, participants fail and refuse, the orchestrator goes and comes back: in the end each saga is all or nothing.
func TestAThousandSagasOfThreeDefinitionsAllEndWhole(t *testing.T) {
	count, reopens := 1000, 4
	if testing.Short() {
		count, reopens = 120, 2
	}
	s := newSystem(t, trips, tours, galas)
	for _, what := range []string{"do book-flight", "do book-hotel", "do charge-card", "do issue-ticket", "undo book-flight", "undo book-hotel"} {
		s.crew.on(what, troubles)
	}
	names := []string{"trip", "tour", "gala"}
	refusing := map[string][]string{
		"trip": {"book-flight", "book-hotel", "charge-card"}, "tour": {"book-hotel", "book-flight"}, "gala": {"book-hotel", "charge-card"},
	}
	began := time.Now()
	for round := range reopens {
		var starting errgroup.Group
		starting.SetLimit(8)
		for i := round * count / reopens; i < (round+1)*count/reopens; i++ {
			starting.Go(func() error {
				// The same keys in each definition.
				definition, key, input := names[i%3], fmt.Sprintf("s-%d", i/3), ada
				if refuse := refusing[definition]; rand.IntN(4) == 0 {
					at := "refused by " + refuse[rand.IntN(len(refuse))]
					input.To, input.Card = at, at
				}
				_, err := s.sagas.Start(s.ctx(), connect.NewRequest(&sagav1.StartRequest{Definition: definition, Key: key, Input: value(t, input)}))
				return err
			})
		}
		require.NoError(t, starting.Wait())
		s.close() // In the middle of what was started.
		s.open(trips, tours, galas)
	}
	t.Logf("%d sagas were started in %s", count, time.Since(began).Round(time.Second))

	require.Eventually(t, func() bool {
		open, err := s.host.Store.OpenGroups(t.Context())
		return err == nil && len(open) == 0
	}, 3*time.Minute, 100*time.Millisecond, "some do not end")
	t.Logf("all had ended after %s", time.Since(began).Round(time.Second))
	for n, definition := range names {
		s.auditFindsNothing(definition, (count+2-n)/3)
	}
	everyStepOnceOrNot(t, s)
}

// troubles are those of a bad day.
func troubles(ctx context.Context, r participant.Request, next func() (participant.Result, error)) (participant.Result, error) {
	switch dice := rand.IntN(20); {
	case dice == 0:
		return participant.Result{}, errors.New("the database is away")
	case dice == 1:
		if _, err := next(); err != nil {
			return participant.Result{}, err
		}
		return participant.Result{}, errors.New("the answer was lost")
	case dice == 2:
		return participant.Result{Outcome: participant.NotKnown, Reason: "started", Detail: "it is under way"}, nil
	}
	return next()
}

// everyStepOnceOrNot compares all sagas with the participants' own tables, without asking any code of the engine.
func everyStepOnceOrNot(t *testing.T, s *system) {
	t.Helper()
	books := make(map[string]int)
	rows, err := s.crew.pool.Query(t.Context(), `SELECT definition || ' ' || key || ' ' || step, count(*)::int FROM books GROUP BY 1`)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var entry string
		var n int
		require.NoError(t, rows.Scan(&entry, &n))
		books[entry] = n
	}
	require.NoError(t, rows.Err())
	confirmed, others := 0, 0
	ask := &sagav1.ListRequest{Limit: 500}
	for {
		page, err := s.sagas.List(s.ctx(), connect.NewRequest(ask))
		require.NoError(t, err)
		for _, g := range page.Msg.Sagas {
			isConfirmed := g.Status == sagav1.Status_STATUS_CONFIRMED
			if isConfirmed {
				confirmed++
			} else {
				others++
			}
			for _, step := range g.Steps {
				entry, want := g.Definition+" "+g.Key+" "+step.Name, 0
				if isConfirmed && step.Participant != "operator" {
					want = 1
				}
				require.Equal(t, want, books[entry], "%s of a saga that is %s", entry, g.Status)
				delete(books, entry)
			}
		}
		if ask.PageToken = page.Msg.NextPageToken; ask.PageToken == "" {
			break
		}
	}
	require.Empty(t, books, "things that belong to no saga")
	require.Positive(t, confirmed)
	require.Positive(t, others, "nothing was refused: the test has shown little")
}
