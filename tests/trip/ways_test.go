package trip_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// way is one that a trip can go.
type way struct {
	order  order
	faults []harness.Fault
	// then is what happens about it, one thing after the other.
	then []deed
	end  end
}

// ways are those on which nobody holds the trip: all is well, each step is refused, and the trip is stuck wherever it can be and is
// resolved by each word.
var ways = map[string]way{
	"all is well": {},

	"the flight is refused": {order: order{to: "nowhere"}, end: end{exit: rejected}},
	"the hotel is refused":  {faults: refused("Do", "book-hotel"), end: end{exit: rejected}},
	"the car is refused":    {faults: refused("Do", "rent-car"), end: end{exit: rejected}},
	"the card is refused":   {order: order{card: "declined"}, end: end{exit: rejected}},
	"the ticket is refused, which is refunded": {
		order: order{to: "atlantis"},
		then:  []deed{isStuck, nothingIsUndone, cancels(tooLate), nothingIsUndone, resolves(done, "issue-ticket", "refund")},
		end:   end{exit: cancelled},
	},
	"the vouchers are refused, and then are not": {
		faults: refused("Do", "send-vouchers"),
		then:   []deed{isStuck, nothingIsUndone, cancels(tooLate), nothingIsUndone, mend, isTriedAgain("send-vouchers")},
	},

	"stuck before the pivot, and tried again": {
		faults: babbled("Do", "book-hotel"),
		then:   []deed{isStuck, mend, isTriedAgain("book-hotel")},
	},
	"stuck before the pivot, and done by the record": {
		faults: unheard(babbled("Do", "book-hotel")),
		then:   []deed{isStuck, resolves(done, "book-hotel", "done")},
	},
	"stuck before the pivot, where no word is taken": {
		faults: babbled("Do", "book-hotel"),
		then: []deed{isStuck, resolves(tooLate, "book-hotel", "done"), vouches(tooLate, "book-hotel"), resolves(tooLate, "book-hotel", "refund"),
			nothingIsUndone, cancels(done)},
		end: end{exit: cancelled},
	},

	"stuck at the pivot, and tried again": {
		faults: babbled("Do", "charge-card"),
		then: []deed{isStuck, resolves(tooLate, "charge-card", "refund"), cancels(tooLate), nothingIsUndone,
			mend, isTriedAgain("charge-card")},
	},
	"stuck at the pivot, and done by the record": {
		faults: unheard(babbled("Do", "charge-card")),
		then:   []deed{isStuck, resolves(done, "charge-card", "done")},
	},
	"stuck at the pivot, and done by somebody's word": {
		faults: babbled("Do", "charge-card"),
		then:   []deed{isStuck, resolves(tooLate, "charge-card", "done"), vouches(done, "charge-card")},
		end:    end{but: []string{"charge-card"}},
	},

	"stuck after the pivot, and tried again in vain": {
		order: order{to: "atlantis"},
		then:  []deed{isStuck, isTriedAgain("issue-ticket"), isStuck, nothingIsUndone, resolves(done, "issue-ticket", "refund")},
		end:   end{exit: cancelled},
	},
	"stuck after the pivot, and done by the record": {
		faults: unheard(refused("Do", "send-vouchers")),
		then:   []deed{isStuck, nothingIsUndone, resolves(done, "send-vouchers", "done")},
	},
	"stuck after the pivot, and done by somebody's word": {
		order: order{to: "atlantis"},
		then:  []deed{isStuck, resolves(tooLate, "issue-ticket", "done"), nothingIsUndone, vouches(done, "issue-ticket")},
		end:   end{but: []string{"issue-ticket"}},
	},

	"stuck in undoing, and tried again": {
		order: order{card: "declined"}, faults: refused("Undo", "book-hotel"),
		then: []deed{isStuck, resolves(tooLate, "cancel-hotel", "refund"), mend, isTriedAgain("cancel-hotel")},
		end:  end{exit: rejected},
	},
	"stuck in undoing, and done by the record": {
		order: order{card: "declined"}, faults: unheard(refused("Undo", "book-hotel")),
		then: []deed{isStuck, resolves(done, "cancel-hotel", "done")},
		end:  end{exit: rejected},
	},
	"stuck in undoing, and done by somebody's word": {
		order: order{card: "declined"}, faults: refused("Undo", "book-hotel"),
		then: []deed{isStuck, resolves(tooLate, "cancel-hotel", "done"), vouches(done, "cancel-hotel")},
		end:  end{exit: rejected, but: []string{"book-hotel"}},
	},

	"stuck in a refund, and tried again": {
		order: order{to: "atlantis"}, faults: refused("Undo", "charge-card"),
		then: []deed{isStuck, resolves(done, "issue-ticket", "refund"), isStuck, resolves(tooLate, "refund-card", "refund"),
			mend, isTriedAgain("refund-card")},
		end: end{exit: cancelled},
	},
	"stuck in a refund, and done by the record": {
		order: order{to: "atlantis"}, faults: unheard(refused("Undo", "charge-card")),
		then: []deed{isStuck, resolves(done, "issue-ticket", "refund"), isStuck, resolves(done, "refund-card", "done")},
		end:  end{exit: cancelled},
	},
	"stuck in a refund, and done by somebody's word": {
		order: order{to: "atlantis"}, faults: refused("Undo", "charge-card"),
		then: []deed{isStuck, resolves(done, "issue-ticket", "refund"), isStuck, resolves(tooLate, "refund-card", "done"), vouches(done, "refund-card")},
		end:  end{exit: cancelled, but: []string{"charge-card"}},
	},
}

// refused has a participant refuse a step, or undoing it, which the example's own does not.
func refused(procedure, step string) []harness.Fault {
	return []harness.Fault{{Kind: harness.Answer, Procedure: procedure, Step: step, Answer: `{"outcome": "OUTCOME_REJECTED", "reason": "of_the_test"}`}}
}

// babbled has it answer what its contract does not have, which calls a person at once.
func babbled(procedure, step string) []harness.Fault {
	return []harness.Fault{{Kind: harness.Answer, Procedure: procedure, Step: step, Answer: `{"outcome": "OUTCOME_REJECTED"}`}}
}

// unheard has the participant do it first, and lets nobody hear of that.
func unheard(later []harness.Fault) []harness.Fault {
	first := harness.Fault{Kind: harness.LoseAfter, Procedure: later[0].Procedure, Step: later[0].Step, Times: 1}
	return append([]harness.Fault{first}, later...)
}

// told is a trip that a way is told of.
type told struct {
	*system
	key    string
	faults []*harness.Armed
}

// ends waits until the trip has ended, and not only until a person is needed, and holds it to how it ends.
func (trip told) ends(t *testing.T, expected end) {
	t.Helper()
	harness.Eventually(t, trip.key+" to end", func(ctx context.Context) error {
		open, err := trip.open(ctx, []string{trip.key})
		if err == nil && len(open) > 0 {
			err = errors.New(open[0])
		}
		return err
	})
	trip.types(t, expected.exit, "", "wait", definition, trip.key)
}

// deed is something that is typed about a trip, seen of it, or done to its participants.
type deed func(*testing.T, told)

// isStuck: the trip has come to where a person has to decide.
func isStuck(t *testing.T, trip told) {
	t.Helper()
	trip.types(t, needsAttention, "", "wait", definition, trip.key)
}

// nothingIsUndone: so far nothing of it was given back.
func nothingIsUndone(t *testing.T, trip told) {
	t.Helper()
	require.NoError(t, trip.nothingWasUndone(t.Context(), trip.key))
}

// mend has the participants answer rightly from now on.
func mend(_ *testing.T, trip told) {
	for _, fault := range trip.faults {
		fault.Lift()
	}
}

func cancels(exit int) deed {
	return func(t *testing.T, trip told) {
		t.Helper()
		trip.types(t, exit, "", "cancel", definition, trip.key, "--reason", "the traveller called")
	}
}

func resolves(exit int, step, as string, more ...string) deed {
	return func(t *testing.T, trip told) {
		t.Helper()
		trip.types(t, exit, "", append([]string{"resolve", definition, trip.key, "--step", step, "--as", as, "--reason", "of the test"}, more...)...)
	}
}

// vouches has somebody give his word that a step is done.
func vouches(exit int, step string) deed { return resolves(exit, step, "done", "--without-proof") }

// isTriedAgain: somebody has a step or compensation tried again, and it is. It is tried by itself too, ever more seldom, which may come
// first.
func isTriedAgain(step string) deed {
	return func(t *testing.T, trip told) {
		t.Helper()
		tries := func(ctx context.Context) (n int, at string, err error) {
			err = trip.sagas.QueryRow(ctx, `
				SELECT (SELECT count(*) FROM entries WHERE key = $1 AND step = $2 AND kind = 'attempt'), at_step FROM sagas WHERE key = $1`,
				trip.key, step).Scan(&n, &at)
			return n, at, err
		}
		before, _, err := tries(t.Context())
		require.NoError(t, err)
		if _, refused := trip.typed(t.Context(), done, "", "resolve", definition, trip.key, "--step", step, "--as", "retry", "--reason", "of the test"); refused != nil {
			_, at, err := tries(t.Context())
			require.NoError(t, err)
			require.NotEqual(t, step, at, refused)
		}
		harness.Eventually(t, step+" to be tried again", func(ctx context.Context) error {
			now, at, err := tries(ctx)
			if err == nil && now == before && at == step {
				err = fmt.Errorf("it was tried %d times", now)
			}
			return err
		})
	}
}

// everyWay sends a trip on each way, and one that is cancelled at each point, all side by side.
func (s *system) everyWay(t *testing.T) {
	for name, w := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			trip := told{system: s, key: strings.NewReplacer(" ", "-", ",", "", "'", "").Replace(name)}
			for _, fault := range w.faults {
				fault.OrderID = trip.key
				trip.faults = append(trip.faults, s.proxies[participantOf(fault.Step)].Arm(t, fault))
			}
			s.expect(trip.key, w.end)
			s.types(t, done, w.order.input(), "start", definition, trip.key, "-")
			for _, happens := range w.then {
				happens(t, trip)
			}
			trip.ends(t, w.end)
		})
	}
	for i, p := range points() {
		t.Run("cancelled "+p.String(), func(t *testing.T) {
			t.Parallel()
			trip := told{system: s, key: fmt.Sprintf("cancelled-%d", i)}
			answer, end := p.whenCancelled()
			held := s.hold(t, trip.key, p)
			require.NoError(t, s.send(t.Context(), trip.key, p, end))
			held.await(t)
			cancels(answer)(t, trip)
			held.lift()
			trip.ends(t, end)
		})
	}
}

// whenCancelled is what is answered to whoever cancels a trip that stands there, and how it ends then.
func (p point) whenCancelled() (answer int, e end) {
	_, e = p.way()
	switch {
	case p.undo:
		return done, e // It is being undone anyway.
	case slices.Contains([]string{"book-flight", "book-hotel", "rent-car"}, p.step):
		return done, end{exit: cancelled}
	}
	return tooLate, e // The pivot is claimed before the bank is called.
}
