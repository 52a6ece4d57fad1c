package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/sagatest"
)

const toLisbon = `{"traveller": "ann", "to": "lisbon", "nights": 3, "card": "visa", "price": {"minor_units": 48000, "currency": "EUR"}}`

func TestTheProgramIsRightAndShort(t *testing.T) {
	trip, err := BookTrip.Define()
	require.NoError(t, err)
	require.Equal(t, "trip", trip.Name())
	accepted, err := trip.Accept(json.RawMessage(toLisbon))
	require.NoError(t, err)
	require.Equal(t, 10*time.Minute, accepted.Deadline)
	require.Equal(t, "ann", accepted.About.Whom)
	require.JSONEq(t, `{"traveller": "ann", "to": "lisbon"}`, string(accepted.Request("book-flight")))
	require.JSONEq(t, `{"card": "visa", "amount": {"minor_units": 48000, "currency": "EUR"}}`, string(accepted.Request("charge-card")))
	_, err = trip.Accept(json.RawMessage(`{"traveller": "ann", "to": "lisbon"}`))
	require.EqualError(t, err, "input: a trip needs a traveller, where to, and at least one night")

	text, err := os.ReadFile("main.go")
	require.NoError(t, err)
	lines := bytes.Count(text, []byte("\n"))
	require.Less(t, lines, 60, "the whole program is to be read at a glance")
	t.Logf("main.go has %d lines", lines)
}

// One call goes through every schedule of trouble.
func TestATripIsBookedWholeOrNotAtAll(t *testing.T) {
	exploration(t, BookTrip, nil, "").Explore(t)
}

// exploration is one of a trip, whose participants keep every promise but for what one of them gets wrong.
func exploration(t testing.TB, declared saga.Declaration, wrong func(*sagatest.Memory) mistaken, at string) sagatest.Exploration {
	t.Helper()
	trip, err := declared.Define()
	require.NoError(t, err)
	return sagatest.Exploration{
		Saga: trip, Input: json.RawMessage(toLisbon), Audit: audit(trip),
		Participants: func() map[string]participant.Participant {
			all := map[string]participant.Participant{"airline": sagatest.NewMemory(), "agency": sagatest.NewMemory(), "bank": &bank{Memory: sagatest.NewMemory()}}
			if wrong != nil {
				m := wrong(sagatest.NewMemory())
				all[at] = &m
			}
			return all
		},
	}
}

// audit holds the effects to how the trip ended. A card is not even charged for a trip that comes to nothing: people see it.
func audit(trip *saga.Definition) func(map[string]participant.Participant, journal.Status) error {
	effects := sagatest.OnceOrNothing(trip)
	return func(all map[string]participant.Participant, ended journal.Status) error {
		err := effects(all, ended)
		if b, honest := all["bank"].(*bank); err == nil && honest && b.charged && ended != journal.Confirmed {
			err = errors.New("the card was charged, and refunded later")
		}
		return err
	}
}

// bank is a participant that remembers whether it has ever charged a card.
type bank struct {
	*sagatest.Memory
	charged bool
}

func (b *bank) Do(ctx context.Context, r participant.Request) (participant.Result, error) {
	result, err := b.Memory.Do(ctx, r)
	b.charged = b.charged || result.Outcome == participant.Applied
	return result, err
}

// mistaken is a participant that gets a method wrong; one that is nil is right.
type mistaken struct {
	*sagatest.Memory
	do, undo func(participant.Request, participant.Operation) (participant.Result, error)
}

func (m *mistaken) Do(ctx context.Context, r participant.Request) (participant.Result, error) {
	return m.ask(ctx, r, m.do, m.Memory.Do)
}

func (m *mistaken) Undo(ctx context.Context, r participant.Request) (participant.Result, error) {
	return m.ask(ctx, r, m.undo, m.Memory.Undo)
}

// ask has the mistake answer; where it answers nothing, what is right does.
func (m *mistaken) ask(ctx context.Context, r participant.Request, wrong func(participant.Request, participant.Operation) (participant.Result, error),
	right func(context.Context, participant.Request) (participant.Result, error)) (participant.Result, error) {
	if wrong != nil {
		op, err := m.Get(ctx, r.ID())
		if err != nil {
			return participant.Result{}, err
		}
		if result, err := wrong(r, op); err != nil || result.Outcome != "" {
			return result, err
		}
	}
	return right(ctx, r)
}

var (
	applied = participant.Result{Outcome: participant.Applied}
	// asUsual lets what is right answer.
	asUsual = participant.Result{}
)

// with is the trip with another list of steps.
func with(steps ...saga.Step) saga.Declaration {
	trip := BookTrip
	trip.Steps = steps
	return trip
}

// Each is a mistake that the author of a trip may make, in a participant or in the list.
func TestMistakesOfAnAuthorAreFoundAtOnce(t *testing.T) {
	type (
		request   = participant.Request
		operation = participant.Operation
		result    = participant.Result
	)
	s := BookTrip.Steps // book-flight, book-hotel, rent-car, charge-card, issue-ticket, send-vouchers
	for name, mistake := range map[string]struct {
		trip  saga.Declaration // Nil: as it is.
		at    string           // Where the wrong participant is.
		wrong func(m *sagatest.Memory) mistaken
		want  string
	}{
		"the agency has no vouchers, and gives back the hotel by itself": {at: "agency", wrong: func(m *sagatest.Memory) mistaken {
			return mistaken{Memory: m, do: func(r request, op operation) (result, error) {
				if r.Step != "send-vouchers" || r.Attempt > 1 {
					return asUsual, nil
				}
				r.Step = "book-hotel"
				_, err := m.Undo(context.Background(), r)
				return participant.Reject("no_vouchers", ""), err
			}}
		}, want: "it is CONFIRMED, and book-hotel is not in place at agency"},
		"an undo does nothing": {at: "agency", wrong: func(m *sagatest.Memory) mistaken {
			return mistaken{Memory: m, undo: func(request, operation) (result, error) { return applied, nil }}
		}, want: "book-hotel is in place at agency"},
		"an undo fails for a booking that never was": {at: "airline", wrong: func(m *sagatest.Memory) mistaken {
			return mistaken{Memory: m, undo: func(_ request, op operation) (result, error) {
				if op.Do == "" {
					return asUsual, errors.New("no such booking")
				}
				return asUsual, nil
			}}
		}, want: "the saga does not end: it is NEEDS_ATTENTION at cancel-flight"},
		"the same request again books again": {at: "agency", wrong: func(m *sagatest.Memory) mistaken {
			return mistaken{Memory: m, do: func(r request, op operation) (result, error) {
				if op.Do == participant.Applied {
					m.Effects[r.Step]++
				}
				return asUsual, nil
			}}
		}, want: "is in place 2 times at agency"},
		"the same request again is refused": {at: "airline", wrong: func(m *sagatest.Memory) mistaken {
			return mistaken{Memory: m, do: func(_ request, op operation) (result, error) {
				if op.Do == participant.Applied {
					return participant.Reject("exists", ""), nil
				}
				return asUsual, nil
			}}
		}, want: "it is REJECTED, and book-flight is in place"},
		"a request that comes after its undo is done": {at: "agency", wrong: func(m *sagatest.Memory) mistaken {
			return mistaken{Memory: m, do: func(r request, op operation) (result, error) {
				if op.Do == "" && op.Undo != "" {
					m.Record(r, operation{}) // Forgotten.
				}
				return asUsual, nil
			}}
		}, want: "is in place at agency (do: applied, undo: nothing)"},
		"an undo gives back the car in place of the hotel": {at: "agency", wrong: func(m *sagatest.Memory) mistaken {
			return mistaken{Memory: m, undo: func(r request, op operation) (result, error) {
				if r.Step == "book-hotel" && op.InPlace() {
					m.Effects["book-hotel"]++
					m.Effects["rent-car"]--
				}
				return asUsual, nil
			}}
		}, want: "book-hotel is in place 1 times at agency, not 0, rent-car is in place -1 times"},
		"an undo is refused for ever": {at: "airline", wrong: func(m *sagatest.Memory) mistaken {
			return mistaken{Memory: m, undo: func(_ request, op operation) (result, error) {
				if op.InPlace() {
					return participant.Reject("no_refunds", ""), nil
				}
				return asUsual, nil
			}}
		}, want: "the saga does not end: it is NEEDS_ATTENTION at cancel-flight"},
		"what is refused is booked all the same": {at: "agency", wrong: func(m *sagatest.Memory) mistaken {
			return mistaken{Memory: m, do: func(r request, op operation) (result, error) {
				if r.Step != "rent-car" || op.Do != "" || op.Undo != "" {
					return asUsual, nil
				}
				m.Effects[r.Step]++
				m.Record(r, operation{Do: participant.Rejected})
				return participant.Reject("no_cars", ""), nil
			}}
		}, want: "it is REJECTED, and the books say: rent-car is in place 1 times"},
		"the card is charged before there is a car": {trip: with(s[0], s[1], saga.Do("charge-card").At("bank").UndoneBy("refund-card"), s[2],
			saga.Do("issue-ticket").At("airline").UndoneBy("void-ticket"), s[5]), want: "the card was charged, and refunded later"},
		"nobody says that the car has to be given back": {trip: with(s[0], s[1], saga.Do("rent-car").At("agency").NothingToUndo(), s[3], s[4], s[5]),
			want: "rent-car is in place 1 times at agency, not 0"},
		"the pivot is forgotten": {trip: with(s[0], s[1], s[2], saga.Do("charge-card").At("bank").NothingToUndo(), s[4], s[5]),
			want: "charge-card is in place 1 times at bank, not 0"},
		"a step is at somebody whom nobody made": {trip: with(s[0], s[1], saga.Do("rent-car").At("garage").UndoneBy("return-car"), s[3], s[4], s[5]),
			want: "step rent-car is done by garage, of which there is no participant"},
	} {
		t.Run(name, func(t *testing.T) {
			trip := mistake.trip
			if trip == nil {
				trip = BookTrip
			}
			began := time.Now()
			played, broken := exploration(t, trip, mistake.wrong, mistake.at).Find()
			took := time.Since(began)
			require.NotNil(t, broken, "%d schedules were played", played)
			require.Contains(t, broken.What, mistake.want)
			require.Less(t, took, 5*time.Second, "it is a fraction of a second on a machine that does nothing else")
			t.Logf("%s, schedule %d, %s: %s\n  %s", took.Round(time.Millisecond), played, broken.Schedule, broken.What, strings.Join(broken.Story, "\n  "))
		})
	}
}
