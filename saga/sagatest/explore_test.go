package sagatest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/sagatest"
)

// company is a participant of a trip in memory. Its mistakes are for the tests to find.
type company struct {
	operations map[string]participant.Operation
	// books count what is in place, by step, whatever the operations say.
	books    map[string]int
	mistakes mistakes
}

// mistakes are what an author may get wrong in a participant.
type mistakes struct {
	forgetsToUndo, hasNoTombstone, appliesTwice, refusesTheSecondTime, failsToUndoTheUnknown, refusesToUndo, undoesAnother,
	undoesTwice bool
	full string // The step that is refused although something stays.
}

func (c *company) Do(_ context.Context, r participant.Request) (participant.Result, error) {
	op := c.operations[r.Step]
	switch {
	case op.Undo == participant.Applied && op.Do == "" && !c.mistakes.hasNoTombstone:
		op.Do = participant.UndoneBefore
	case op.Do == participant.Applied && c.mistakes.refusesTheSecondTime:
		return participant.Result{Outcome: participant.Rejected, Reason: "exists"}, nil
	case op.Do != "" && !(c.mistakes.appliesTwice && op.Do == participant.Applied):
	case c.mistakes.full == r.Step:
		c.books[r.Step]++
		op.Do = participant.Rejected
	default:
		c.books[r.Step]++
		op.Do, op.Undo = participant.Applied, ""
	}
	c.operations[r.Step] = op
	return participant.Result{Outcome: op.Do}, nil
}

func (c *company) Undo(_ context.Context, r participant.Request) (participant.Result, error) {
	op := c.operations[r.Step]
	if op.Do == "" && c.mistakes.failsToUndoTheUnknown {
		return participant.Result{}, errors.New("no such booking")
	}
	if op.Do == participant.Applied && c.mistakes.refusesToUndo {
		return participant.Result{Outcome: participant.Rejected, Reason: "no_refunds"}, nil
	}
	if op.Do == participant.Applied && (op.Undo == "" || c.mistakes.undoesTwice) && !c.mistakes.forgetsToUndo {
		step := r.Step
		if c.mistakes.undoesAnother {
			step = "another"
		}
		c.books[step]--
	}
	if !c.mistakes.forgetsToUndo {
		op.Undo = participant.Applied
	}
	c.operations[r.Step] = op
	return participant.Result{Outcome: participant.Applied}, nil
}

func (c *company) Get(_ context.Context, id participant.ID) (participant.Operation, error) {
	return c.operations[id.Step], nil
}

func companies(m mistakes) func() map[string]participant.Participant {
	return func() map[string]participant.Participant {
		made := make(map[string]participant.Participant)
		for _, name := range []string{"airline", "hotel", "bank"} {
			made[name] = &company{operations: make(map[string]participant.Operation), books: make(map[string]int), mistakes: m}
		}
		return made
	}
}

// auditTrip looks at the books: all of it once, or nothing.
func auditTrip(participants map[string]participant.Participant, ended journal.Status) error {
	want := 0
	if ended == journal.Confirmed {
		want = 1
	}
	var wrong []string
	for _, at := range [][2]string{{"airline", "hold-seat"}, {"hotel", "book-room"}, {"bank", "charge-card"}, {"airline", "send-ticket"}} {
		if n := participants[at[0]].(*company).books[at[1]]; n != want {
			wrong = append(wrong, fmt.Sprintf("%s %d times at the %s", at[1], n, at[0]))
		}
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, ", "))
	}
	return nil
}

var (
	holdSeat   = saga.Do("hold-seat").At("airline").UndoneBy("free-seat")
	bookRoom   = saga.Do("book-room").At("hotel").UndoneBy("cancel-room")
	chargeCard = saga.Pivot("charge-card").At("bank")
	sendTicket = saga.Do("send-ticket").At("airline").NothingToUndo()
)

func tripOf(t testing.TB, steps ...saga.Step) *saga.Definition {
	t.Helper()
	trip, err := saga.Define("trip", 1, steps...)
	require.NoError(t, err)
	return trip
}

func TestATripKeepsItsPromisesThroughEverySchedule(t *testing.T) {
	for name, steps := range map[string][]saga.Step{
		"without a decision": {holdSeat, bookRoom, chargeCard, sendTicket},
		"with a decision":    {holdSeat, bookRoom, saga.Decision("boss"), chargeCard, sendTicket},
		"the pivot last":     {holdSeat, bookRoom, sendTicketUndone, chargeCard},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sagatest.Exploration{Saga: tripOf(t, steps...), Participants: companies(mistakes{}), Audit: auditTrip}.Explore(t)
		})
	}
}

func TestATripKeepsItsPromisesThroughEveryPairOfTroubles(t *testing.T) {
	t.Parallel()
	sagatest.Exploration{Saga: tripOf(t, holdSeat, chargeCard, sendTicket), Participants: companies(mistakes{}), Pairs: true}.Explore(t)
}

var sendTicketUndone = saga.Do("send-ticket").At("airline").UndoneBy("revoke-ticket")

// Each is a mistake that an author may make, in a participant or in the list.
func TestMistakesOfAuthorsAreFoundInUnderASecond(t *testing.T) {
	right := []saga.Step{holdSeat, bookRoom, chargeCard, sendTicket}
	for name, test := range map[string]struct {
		mistakes mistakes
		steps    []saga.Step
		want     string
	}{
		"a refusal behind what should be the pivot turns back": {steps: []saga.Step{holdSeat, bookRoom, saga.Do("charge-card").At("bank").NothingToUndo(), sendTicket},
			want: "charge-card 1 times at the bank"},
		"a step that leaves something says it does not": {steps: []saga.Step{saga.Do("hold-seat").At("airline").NothingToUndo(), bookRoom, chargeCard, sendTicket}, want: "hold-seat 1 times"},
		"a step is at the wrong participant":            {steps: []saga.Step{holdSeat, saga.Do("book-room").At("hostel").UndoneBy("cancel-room"), chargeCard, sendTicket}, want: "of which there is no participant"},
		"an undo does nothing":                          {mistakes: mistakes{forgetsToUndo: true}, want: "in place"},
		"an undo that comes first is not remembered":    {mistakes: mistakes{hasNoTombstone: true}, want: "is in place"},
		"the same call is applied twice":                {mistakes: mistakes{appliesTwice: true}, want: "2 times"},
		"the same call is refused the second time":      {mistakes: mistakes{refusesTheSecondTime: true}, want: "it is REJECTED, and hold-seat is in place"},
		"an undo of what is not known fails":            {mistakes: mistakes{failsToUndoTheUnknown: true}, want: "the saga does not end"},
		"an undo is refused":                            {mistakes: mistakes{refusesToUndo: true}, want: "the saga does not end"},
		"an undo undoes something else":                 {mistakes: mistakes{undoesAnother: true}, want: "times at"},
		"an undo is applied twice":                      {mistakes: mistakes{undoesTwice: true}, want: "-1 times"},
		"what is refused stays in place":                {mistakes: mistakes{full: "book-room"}, want: "book-room 1 times"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			steps := test.steps
			if steps == nil {
				steps = right
			}
			began := time.Now()
			e := sagatest.Exploration{Saga: tripOf(t, steps...), Participants: companies(test.mistakes), Audit: auditTrip, Pairs: true}
			played, broken := e.Find()
			require.NotNil(t, broken, "%d schedules were played", played)
			require.Contains(t, broken.What, test.want)
			t.Logf("after %d schedules, %s: %s by %s\n  %s", played, time.Since(began).Round(time.Millisecond), broken.What, broken.Schedule, strings.Join(broken.Story, "\n  "))
		})
	}
}

// offByOne is a Memory whose effect is there twice, whatever it has on record.
type offByOne struct{ *sagatest.Memory }

func (o offByOne) Do(ctx context.Context, r participant.Request) (participant.Result, error) {
	o.Effects[r.Step]++
	return o.Memory.Do(ctx, r)
}

func TestOnceOrNothingHoldsEffectsToTheEndOfASaga(t *testing.T) {
	trip := tripOf(t, holdSeat, bookRoom, saga.Decision("boss"), chargeCard, sendTicket)
	made := func(hotel participant.Participant) func() map[string]participant.Participant {
		return func() map[string]participant.Participant {
			return map[string]participant.Participant{"airline": sagatest.NewMemory(), "hotel": hotel, "bank": sagatest.NewMemory()}
		}
	}
	_, broken := sagatest.Exploration{Saga: trip, Participants: made(offByOne{sagatest.NewMemory()}), Audit: sagatest.OnceOrNothing(trip)}.Find()
	require.NotNil(t, broken)
	require.Equal(t, "it is CONFIRMED, and the books say: book-room is in place 2 times at hotel, not 1", broken.What)
	_, broken = sagatest.Exploration{Saga: trip, Participants: made(companies(mistakes{})()["hotel"]), Audit: sagatest.OnceOrNothing(trip)}.Find()
	require.NotNil(t, broken)
	require.Contains(t, broken.What, "hotel counts no effects: it is no sagatest.Counter")
	sagatest.Exploration{Saga: trip, Audit: sagatest.OnceOrNothing(trip)}.Explore(t)
}
