package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store/storetest"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// seededCheckouts is enough for PostgreSQL to prefer an index to reading them all.
const seededCheckouts = 20_000

// rare is a definition of a few sagas among the many checkouts, which are those of a time long ago.
const rare = "trip"

const addRare = `
	INSERT INTO sagas (definition, key, idempotency_key, digest, request, about, currency, amount, input, engine, started_run, phase, status,
	                   verdict, reason, reason_code, deadline, plan, progress, started_at, updated_at, ended_at)
	SELECT '` + rare + `', key, key, digest, request, about, currency, amount, input, engine, started_run, phase, status,
	       verdict, reason, reason_code, deadline, jsonb_set(plan, '{definition}', '"` + rare + `"'), progress, started_at, updated_at, ended_at
	FROM sagas WHERE phase = 'final' ORDER BY started_at LIMIT 300`

// watchSeeded is a store on seeded checkouts whose queries tell their plans.
func watchSeeded(t *testing.T) (*store.Store, *storetest.Watched) {
	t.Helper()
	if testing.Short() {
		t.Skip("seeds thousands of checkouts")
	}
	url := pgtest.URL(t)
	pool, err := pg.Open(t.Context(), url, 2)
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, pg.Migrate(t.Context(), pool, checkouttest.Migrations()...))
	require.NoError(t, storetest.Seed(t.Context(), pool, seededCheckouts))
	_, err = pool.Exec(t.Context(), addRare)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `VACUUM ANALYZE sagas`)
	require.NoError(t, err)
	watched, err := storetest.Watch(t.Context(), pgtest.SuperuserURL(t, url))
	require.NoError(t, err)
	t.Cleanup(watched.Close)
	return newStore(watched.Pool), watched
}

// No page is found by reading the table, nor by reading far more than it shows, the first time as well as the twelfth: PostgreSQL
// may plan a statement that it knows differently from the sixth time on.
func TestEachPageReadsLittleOfTheTable(t *testing.T) {
	t.Parallel()
	s, watched := watchSeeded(t)
	old := time.Now().AddDate(0, 0, -storetest.Days/2)
	filters := map[string]struct {
		filter store.Filter
		// read bounds how many rows and index entries are read for a page of 50.
		read int
	}{
		"all":                         {store.Filter{}, 200},
		"the frequent status":         {store.Filter{Statuses: []journal.Status{journal.Confirmed}}, 200},
		"a rare status":               {store.Filter{Statuses: []journal.Status{journal.Compensating}}, 200},
		"a rare and the frequent one": {store.Filter{Statuses: []journal.Status{journal.Expired, journal.Confirmed}}, 300},
		"two rare statuses":           {store.Filter{Statuses: []journal.Status{journal.Expired, journal.Compensating}}, 300},
		"attention":                   {store.Filter{Attention: true}, 200},
		"a step":                      {store.Filter{Step: checkout.CommitStock}, 300},
		"a step at which none is":     {store.Filter{Step: checkout.RefundPayment}, 300},
		"a customer":                  {store.Filter{About: storetest.BigCustomer}, 200},
		"a customer without orders":   {store.Filter{About: "cus-none"}, 10},
		"a customer's expired ones":   {store.Filter{About: storetest.BigCustomer, Statuses: []journal.Status{journal.Expired}}, 1000},
		"a customer's ends":           {store.Filter{About: storetest.BigCustomer, Statuses: []journal.Status{journal.Expired, journal.Rejected}}, 1500},
		"a reason":                    {store.Filter{ReasonCode: "card_declined"}, 200},
		"a rare reason":               {store.Filter{ReasonCode: "refunded"}, 200},
		"a reason that none has":      {store.Filter{ReasonCode: "none"}, 10},
		"older":                       {store.Filter{OlderThan: storetest.Days / 2 * 24 * time.Hour}, 200},
		"older and still running":     {store.Filter{OlderThan: 24 * time.Hour, Statuses: []journal.Status{journal.Running}}, 200},
		"since":                       {store.Filter{Since: old}, 200},
		"since, and nothing is":       {store.Filter{Since: time.Now()}, 10},
		// Up to 20,000 are sorted for the page, as many as there are here.
		"an amount that few exceed":   {store.Filter{AmountOver: 200_000}, 300},
		"an amount that none exceeds": {store.Filter{AmountOver: 1 << 40}, 20},

		"another definition":                  {store.Filter{Definition: rare}, 200},
		"another definition's expired ones":   {store.Filter{Definition: rare, Statuses: []journal.Status{journal.Expired}}, 300},
		"another definition's ends":           {store.Filter{Definition: rare, Statuses: []journal.Status{journal.Confirmed, journal.Rejected}}, 600},
		"another definition's, older":         {store.Filter{Definition: rare, OlderThan: storetest.Days / 2 * 24 * time.Hour}, 200},
		"a definition of which there is none": {store.Filter{Definition: "none"}, 10},
	}
	for name, of := range filters {
		t.Run(name, func(t *testing.T) {
			of.filter.Limit = 50
			if of.filter.Definition == "" {
				of.filter.Definition = checkout.Definition // As the API asks; of all definitions below.
			}
			for try := 1; try <= 12; try++ {
				reads, err := watched.Reads(t.Context(), func() error {
					_, _, err := s.List(t.Context(), of.filter)
					return err
				})
				require.NoError(t, err)
				requireLittle(t, reads, of.read, try)
			}
		})
	}
}

// The desk asks for sagas of all definitions.
func TestAPageOfAllDefinitionsReadsLittleOfTheTable(t *testing.T) {
	t.Parallel()
	s, watched := watchSeeded(t)
	for name, filter := range map[string]store.Filter{
		"all":               {Limit: 50},
		"the frequent one":  {Limit: 50, Statuses: []journal.Status{journal.Confirmed}},
		"two rare statuses": {Limit: 50, Statuses: []journal.Status{journal.Expired, journal.Compensating}},
		"attention":         {Limit: 50, Attention: true},
		"about somebody":    {Limit: 50, About: storetest.BigCustomer},
		"older":             {Limit: 50, OlderThan: storetest.Days / 2 * 24 * time.Hour},
		"a reason":          {Limit: 50, ReasonCode: "card_declined"},
		"a step":            {Limit: 50, Step: checkout.CommitStock},
		"of a large amount": {Limit: 50, AmountOver: 200_000},
	} {
		t.Run(name, func(t *testing.T) {
			for try := 1; try <= 12; try++ {
				reads, err := watched.Reads(t.Context(), func() error {
					_, _, err := s.List(t.Context(), filter)
					return err
				})
				require.NoError(t, err)
				requireLittle(t, reads, 300, try)
			}
		})
	}
}

func requireLittle(t *testing.T, reads []storetest.Read, bound, try int) {
	t.Helper()
	require.NotEmpty(t, reads)
	for _, r := range reads {
		require.NotContains(t, r.Scans, storetest.Whole, "try %d reads the table as a whole", try)
		require.LessOrEqual(t, r.Rows, bound, "try %d by %v", try, r.Scans)
	}
}

func TestADeepPageReadsNoMoreThanTheFirst(t *testing.T) {
	t.Parallel()
	s, watched := watchSeeded(t)
	filter := store.Filter{Statuses: []journal.Status{journal.Confirmed, journal.Rejected}, Limit: 1000}
	for range 15 {
		_, next, err := s.List(t.Context(), filter)
		require.NoError(t, err)
		filter.PageToken = next
	}
	filter.Limit = 50
	reads, err := watched.Reads(t.Context(), func() error {
		page, next, err := s.List(t.Context(), filter)
		require.Len(t, page, 50)
		require.NotEmpty(t, next)
		return err
	})
	require.NoError(t, err)
	requireLittle(t, reads, 300, 1)
}

func TestWhatTheAuditAndTheSweeperAskReadsLittle(t *testing.T) {
	t.Parallel()
	s, watched := watchSeeded(t)
	asks := map[string]func() error{
		"those that ended since": func() error {
			_, err := s.Finals(t.Context(), checkout.Definition, store.Ended{At: time.Now().Add(-90 * time.Minute)}, 200)
			return err
		},
		"a page of all that ended": func() error {
			_, err := s.Finals(t.Context(), checkout.Definition, store.Ended{At: time.Now().AddDate(0, 0, -storetest.Days/2), Key: "seed"}, 200)
			return err
		},
		"a page of the open ones":                  func() error { _, err := s.Open(t.Context(), checkout.Definition, "", 50); return err },
		"a page of another definition's open ones": func() error { _, err := s.Open(t.Context(), rare, "", 50); return err },
		"another definition's that ended": func() error {
			_, err := s.Finals(t.Context(), rare, store.Ended{At: time.Now().AddDate(0, 0, -storetest.Days)}, 50)
			return err
		},
		"runs of open ones":       func() error { _, err := s.OpenRuns(t.Context(), "dapr", saga.ID{}, 50); return err },
		"those at a participant":  func() error { _, err := s.Waiting(t.Context(), "dapr", checkout.Payment, saga.ID{}, 50); return err },
		"those that are due":      func() error { _, err := s.Overdue(t.Context(), "dapr", 100); return err },
		"how the open ones stand": func() error { _, err := s.OpenGroups(t.Context()); return err },
		"their versions":          func() error { _, err := s.OpenVersions(t.Context()); return err },
	}
	for name, ask := range asks {
		t.Run(name, func(t *testing.T) {
			for try := 1; try <= 12; try++ {
				reads, err := watched.Reads(t.Context(), ask)
				require.NoError(t, err)
				requireLittle(t, reads, 600, try)
			}
		})
	}
}

// Whatever the query is put together from, it finds what a look at every checkout finds, in pages that neither overlap nor leave
// any out.
func TestPagesHoldEachCheckoutThatFitsOnce(t *testing.T) {
	t.Parallel()
	s, watched := watchSeeded(t)
	ids := func(where string) (all []string) {
		rows, err := watched.Query(t.Context(), `SELECT definition || ' ' || key FROM sagas WHERE `+where+` ORDER BY started_at DESC, key DESC, definition DESC`)
		require.NoError(t, err)
		for rows.Next() {
			var id string
			require.NoError(t, rows.Scan(&id))
			all = append(all, id)
		}
		require.NoError(t, rows.Err())
		return all
	}
	for where, filter := range map[string]store.Filter{
		"status IN ('EXPIRED', 'REJECTED', 'NEEDS_ATTENTION')": {Statuses: []journal.Status{journal.Expired, journal.Rejected, journal.Expired, journal.NeedsAttention}},
		"status = 'NEEDS_ATTENTION'":                           {Attention: true, Statuses: []journal.Status{journal.NeedsAttention, journal.Running}},
		"true":                                                 {},
		"definition = 'checkout' AND status = 'EXPIRED'":       {Definition: checkout.Definition, Statuses: []journal.Status{journal.Expired}},
		"definition = 'trip'":                                  {Definition: rare},
		"false":                                                {Attention: true, Statuses: []journal.Status{journal.Running}},
		"at_step = 'authorize-payment'":                        {Step: checkout.AuthorizePayment},
		"reason_code = 'cancelled' AND status = 'CANCELLED'":   {ReasonCode: "cancelled", Statuses: []journal.Status{journal.Cancelled}},
		"amount > 40000":                                       {AmountOver: 40_000},
		"amount > 20000 AND status IN ('EXPIRED', 'REJECTED')": {AmountOver: 20_000, Statuses: []journal.Status{journal.Expired, journal.Rejected}},
		fmt.Sprintf("about = '%s' AND status IN ('EXPIRED', 'CONFIRMED')", storetest.BigCustomer): {
			About: storetest.BigCustomer, Statuses: []journal.Status{journal.Expired, journal.Confirmed}},
	} {
		t.Run(where, func(t *testing.T) {
			var found []string
			filter.Limit = 37
			if where == "true" {
				filter.Limit = 1000
			}
			for {
				page, next, err := s.List(t.Context(), filter)
				require.NoError(t, err)
				for _, c := range page {
					found = append(found, c.ID().String())
				}
				if filter.PageToken = next; next == "" {
					break
				}
			}
			require.Equal(t, ids(where), found)
		})
	}
}

func TestTheAuditMeetsEachCheckoutThatEndedOnce(t *testing.T) {
	t.Parallel()
	s, watched := watchSeeded(t)
	since := time.Now().AddDate(0, 0, -5)
	seen := make(map[string]bool)
	for after := (store.Ended{At: since}); ; {
		page, err := s.Finals(t.Context(), checkout.Definition, after, 200)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		for _, c := range page {
			require.False(t, seen[c.Key], "%s twice", c.Key)
			seen[c.Key] = true
		}
		last := page[len(page)-1]
		after = store.Ended{At: *last.EndedAt, Key: last.Key}
	}
	var ended int
	require.NoError(t, watched.QueryRow(t.Context(), `SELECT count(*) FROM checkouts WHERE ended_at >= $1`, since).Scan(&ended))
	require.Greater(t, ended, 500)
	require.Len(t, seen, ended)
}
