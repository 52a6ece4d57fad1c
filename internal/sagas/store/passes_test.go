package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

func TestTheNextStepIsFencedWithTheOutcomeOfTheOneBefore(t *testing.T) {
	free, heldBack := func(string) bool { return true }, func(string) bool { return false }
	for name, c := range map[string]struct {
		done    []string
		mayCall func(string) bool
		// elsewhere says that another process takes the cancel, which comes between the outcome and the next attempt.
		elsewhere bool
		want      journal.Leave
	}{
		"what another process does in between is seen with the outcome, as after any fence": {[]string{checkout.ReserveStock}, free, true, journal.Go},
		"what this process does in between is seen at once":                                 {[]string{checkout.ReserveStock}, free, false, journal.TurnBack},
		"a participant that is held back is fenced when it is its turn":                     {[]string{checkout.ReserveStock}, heldBack, true, journal.TurnBack},
		"the pivot is not claimed ahead":                                                    {[]string{checkout.ReserveStock, checkout.AuthorizePayment}, free, true, journal.TurnBack},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScenario(t)
			steps := []string{checkout.ReserveStock, checkout.AuthorizePayment, checkout.CapturePayment}
			for _, step := range c.done {
				s.fence(step, false, journal.Go)
				_, err := s.store.Record(t.Context(), s.attempt(step, false), applied, c.mayCall)
				require.NoError(t, err)
			}
			cancels := s.store
			if c.elsewhere {
				cancels = newStore(s.pool)
			}
			answer, err := cancels.Cancel(t.Context(), s.id, "changed their mind", "the shop")
			require.NoError(t, err)
			require.Equal(t, journal.CancelAccepted, answer.Outcome)

			next := steps[len(c.done)]
			s.fence(next, false, c.want)
			if c.want == journal.Go {
				reply, err := s.store.Record(t.Context(), s.attempt(next, false), applied, free)
				require.NoError(t, err)
				require.True(t, reply.TurnBack, "the outcome's record sees the cancel")
			}
		})
	}
}

// A pass is for one attempt: whoever asks twice is fenced.
func TestAPassIsGoodForOneAttempt(t *testing.T) {
	s := newScenario(t)
	s.fence(checkout.ReserveStock, false, journal.Go)
	_, err := s.store.Record(t.Context(), s.attempt(checkout.ReserveStock, false), applied, func(string) bool { return true })
	require.NoError(t, err)
	_, err = newStore(s.pool).Cancel(t.Context(), s.id, "changed their mind", "the shop")
	require.NoError(t, err)
	s.fence(checkout.AuthorizePayment, false, journal.Go)
	s.fence(checkout.AuthorizePayment, false, journal.TurnBack)
}
