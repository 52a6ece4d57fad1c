package host_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/sagas/host"
	"github.com/checkoutsaga/orchestrator/saga"
)

// A saga keeps the list with which it was accepted, wherever it stood when the list was changed.
func TestAChangedDefinitionChangesNoSagaUnderWay(t *testing.T) {
	first := saga.For[trip]{Name: "trip", Version: 1, Steps: []saga.Step{
		bookFlight, saga.Do("insure").At("insurer").UndoneBy("stop-insurance"), bookHotel, chargeCard, issueTicket,
	}}
	// A step is inserted, one is removed, with the only mention of its participant, and the order is another.
	second := saga.For[trip]{Name: "trip", Version: 2, Steps: []saga.Step{
		bookHotel, saga.Do("rent-car").At("agency").UndoneBy("return-car"), bookFlight, chargeCard, issueTicket,
	}}
	s := newSystem(t, first)
	steps := []string{"book-flight", "insure", "book-hotel", "charge-card", "issue-ticket"}
	// One that is being undone is under way too.
	s.crew.on("undo insure", fails)
	refused := ada
	refused.To = "refused by book-hotel"
	s.start("trip", "undoing", refused)
	s.until("trip", "undoing", "it should be at stop-insurance", func(g *sagav1.Saga) bool { return g.Steps[1].Compensation == "failing" })
	for _, at := range slices.Backward(steps) { // Who is to come to the last must not meet the others' troubles.
		release := s.crew.hang("do " + at)
		for _, key := range []string{"goes-", "undone-"} {
			input := ada
			if key == "undone-" {
				input.Card = "refused by charge-card"
			}
			if key == "undone-" && at == "issue-ticket" {
				continue // It never gets there.
			}
			s.start("trip", key+at, input)
			s.until("trip", key+at, "it should be at "+at, func(g *sagav1.Saga) bool {
				for _, step := range g.Steps {
					if step.Name == at {
						return step.State == "running" || step.State == "failing"
					}
				}
				return false
			})
		}
		// It stays there until the orchestrator is another one.
		s.crew.on("do "+at, fails)
		t.Cleanup(release)
	}
	s.close()

	config := s.config(second)
	require.NotContains(t, config.Definitions[0].Plan().Participants(), "insurer")
	s.open(second)
	for _, at := range steps {
		s.crew.on("do "+at, nil)
	}
	s.crew.on("undo insure", nil)
	s.start("trip", "new", ada)
	require.Equal(t, []string{"book-hotel done", "rent-car done", "book-flight done", "charge-card done", "issue-ticket done"},
		states(s.ends("trip", "new", sagav1.Status_STATUS_CONFIRMED)))
	s.ends("trip", "undoing", sagav1.Status_STATUS_REJECTED)
	require.Empty(t, s.crew.books("trip", "undoing"))
	sagas := 2
	for _, at := range steps {
		final := s.ends("trip", "goes-"+at, sagav1.Status_STATUS_CONFIRMED)
		require.Equal(t, []string{"book-flight done", "insure done", "book-hotel done", "charge-card done", "issue-ticket done"}, states(final), at)
		require.EqualValues(t, 1, final.Version)
		require.Equal(t, map[string]int{"book-flight": 1, "insure": 1, "book-hotel": 1, "charge-card": 1, "issue-ticket": 1}, s.crew.books("trip", "goes-"+at))
		sagas++
		if at == "issue-ticket" {
			continue
		}
		final = s.ends("trip", "undone-"+at, sagav1.Status_STATUS_REJECTED)
		require.Equal(t, "insure done, undone: done", states(final)[1], at)
		require.Empty(t, s.crew.books("trip", "undone-"+at))
		sagas++
	}
	s.auditFindsNothing("trip", sagas)
}

// Nobody accepts sagas of it any more; those that there are go on, and can be looked at.
func TestARemovedDefinitionChangesNoSagaUnderWay(t *testing.T) {
	s := newSystem(t, trips, tours)
	s.crew.on("do issue-ticket", fails)
	s.start("trip", "t-1", ada)
	s.tried("trip", "t-1", "issue-ticket")
	s.close()
	s.open(tours)
	s.crew.on("do issue-ticket", nil)
	s.ends("trip", "t-1", sagav1.Status_STATUS_CONFIRMED)
	require.Len(t, s.crew.books("trip", "t-1"), 4)
}

func TestOneVersionIsOneList(t *testing.T) {
	denying := chargeCard.Denies("no_room", "book-hotel")
	s := newSystem(t, trips, tours)
	s.close()
	for name, c := range map[string]struct {
		steps []saga.Step
		want  string
	}{
		"a step is inserted": {[]saga.Step{bookFlight, bookHotel, saga.Do("rent-car").At("agency").NothingToUndo(), chargeCard, issueTicket},
			"its steps were book-flight, book-hotel, charge-card, issue-ticket and are book-flight, book-hotel, rent-car, charge-card, issue-ticket"},
		"a step is removed": {[]saga.Step{bookFlight, chargeCard, issueTicket},
			"its steps were book-flight, book-hotel, charge-card, issue-ticket and are book-flight, charge-card, issue-ticket"},
		"the order is another": {[]saga.Step{bookHotel, bookFlight, chargeCard, issueTicket},
			"its steps were book-flight, book-hotel, charge-card, issue-ticket and are book-hotel, book-flight, charge-card, issue-ticket"},
		"a step is somewhere else": {[]saga.Step{bookFlight.At("agency"), bookHotel, chargeCard, issueTicket},
			"the participant of book-flight was airline and is agency"},
		"something else undoes it": {[]saga.Step{bookFlight, bookHotel.UndoneBy("leave-hotel"), chargeCard, issueTicket},
			"the compensation of book-hotel was cancel-hotel and is leave-hotel"},
		"nothing undoes it": {[]saga.Step{bookFlight, bookHotel, saga.Pivot("charge-card").At("bank"), issueTicket},
			"the compensation of charge-card was refund-card and is nothing"},
		"there is no pivot": {[]saga.Step{bookFlight, bookHotel, saga.Do("charge-card").At("bank").UndoneBy("refund-card"), issueTicket},
			"the kind of charge-card was the pivot and is a step"},
		"a refusal denies": {[]saga.Step{bookFlight, bookHotel, denying, issueTicket},
			"what is denied by a refusal of charge-card was nothing and is book-hotel by no_room"},
		"two things": {[]saga.Step{bookFlight.TooLateBy("flown"), bookHotel.UndoneBy("leave-hotel"), chargeCard, issueTicket},
			"the reason of being too late of book-flight was nothing and is flown; the compensation of book-hotel was cancel-hotel and is leave-hotel"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := saga.For[trip]{Name: "trip", Version: 1, Steps: c.steps}
			_, err := host.Open(t.Context(), s.config(changed, galas), host.Extra{}, s.log())
			require.ErrorContains(t, err, "saga trip: version 1 is another list than the database knows under this number: "+c.want)
			require.Equal(t, "tour 1, trip 1", noted(t, s), "not even the other definition is noted")
		})
	}
	t.Run("what is not the list may change", func(t *testing.T) {
		changed := trips
		changed.Deadline, changed.Check = time.Hour, nil
		s.open(changed)
		s.close()
	})
	t.Run("a removed definition keeps its number", func(t *testing.T) {
		s.open(galas)
		s.close()
		require.Equal(t, "gala 1, tour 1, trip 1", noted(t, s))
		_, err := host.Open(t.Context(), s.config(saga.For[trip]{Name: "tour", Version: 1, Steps: []saga.Step{bookFlight}}), host.Extra{}, s.log())
		require.ErrorContains(t, err, "saga tour: version 1 is another list")
	})
	t.Run("each number has its own", func(t *testing.T) {
		second := saga.For[trip]{Name: "trip", Version: 2, Steps: []saga.Step{bookHotel}}
		s.open(second)
		s.close()
		s.open(trips) // The old program may come back.
		s.close()
		require.Equal(t, "gala 1, tour 1, trip 1, trip 2", noted(t, s))
	})
}

// noted are the versions that the database knows.
func noted(t *testing.T, s *system) string {
	t.Helper()
	var all []string
	pool, err := pg.Open(t.Context(), s.url, 1)
	require.NoError(t, err)
	defer pool.Close()
	rows, err := pool.Query(t.Context(), `SELECT name || ' ' || version FROM definitions ORDER BY 1`)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var one string
		require.NoError(t, rows.Scan(&one))
		all = append(all, one)
	}
	require.NoError(t, rows.Err())
	return strings.Join(all, ", ")
}
