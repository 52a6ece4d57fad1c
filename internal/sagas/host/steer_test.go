package host_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/sagas/host"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

func (s *system) cancel(definition, key string, dryRun bool) (*sagav1.CancelResponse, error) {
	answer, err := s.sagas.Cancel(s.ctx(), connect.NewRequest(&sagav1.CancelRequest{
		Definition: definition, Key: key, Reason: "changed their mind", Actor: "kim", DryRun: dryRun,
	}))
	if err != nil {
		return nil, err
	}
	return answer.Msg, nil
}

// tried waits until a step has been tried without an answer.
func (s *system) tried(definition, key, step string) {
	s.t.Helper()
	s.until(definition, key, step+" should be tried", func(g *sagav1.Saga) bool {
		for _, of := range g.Steps {
			if of.Name == step {
				return of.Attempts > 0 && of.State == "failing"
			}
		}
		return false
	})
}

func TestACancelUndoesWhateverWasBegun(t *testing.T) {
	s := newSystem(t, trips, tours)
	for _, c := range []struct {
		definition, at string
		toUndo, want   []string
	}{
		{"trip", "book-flight", []string{"book-flight"}, []string{"book-flight unknown, undone: done", "book-hotel skipped", "charge-card skipped", "issue-ticket skipped"}},
		{"trip", "book-hotel", []string{"book-flight", "book-hotel"}, []string{"book-flight done, undone: done", "book-hotel unknown, undone: done", "charge-card skipped", "issue-ticket skipped"}},
		{"tour", "book-flight", []string{"book-hotel", "book-flight"}, []string{"book-hotel done, undone: done", "book-flight unknown, undone: done"}},
	} {
		t.Run(c.definition+" at "+c.at, func(t *testing.T) {
			key := "at-" + c.at
			s.crew.on("do "+c.at, fails)
			s.start(c.definition, key, ada)
			s.tried(c.definition, key, c.at)
			would, err := s.cancel(c.definition, key, true)
			require.NoError(t, err)
			require.Equal(t, c.toUndo, would.ToUndo)
			require.Equal(t, "forward", s.get(c.definition, key).Phase, "a dry run changes nothing")
			_, err = s.cancel(c.definition, key, false)
			require.NoError(t, err)
			final := s.ends(c.definition, key, sagav1.Status_STATUS_CANCELLED)
			require.Equal(t, c.want, states(final))
			require.Equal(t, "changed their mind", final.Reason)
			require.Empty(t, s.crew.books(c.definition, key))
			again, err := s.cancel(c.definition, key, false)
			require.NoError(t, err, "it is what was asked for")
			require.Equal(t, sagav1.Status_STATUS_CANCELLED, again.Saga.Status)
			s.crew.on("do "+c.at, nil)
		})
	}
	s.auditFindsNothing("trip", 2)
	s.auditFindsNothing("tour", 1)
}

func TestACancelWhileAParticipantHangsUndoesWhatItDidInTheEnd(t *testing.T) {
	s := newSystem(t, trips)
	release := s.crew.hang("do book-hotel")
	s.start("trip", "t-1", ada)
	s.until("trip", "t-1", "it should be at the hotel", func(g *sagav1.Saga) bool { return g.Steps[0].State == "done" })
	_, err := s.cancel("trip", "t-1", false)
	require.NoError(t, err)
	release()
	final := s.ends("trip", "t-1", sagav1.Status_STATUS_CANCELLED)
	require.Equal(t, "done", final.Steps[1].Compensation)
	require.Empty(t, s.crew.books("trip", "t-1"))
	s.auditFindsNothing("trip", 1)
}

func TestACancelComesTooLateOnceThePivotIsTried(t *testing.T) {
	s := newSystem(t, trips)
	for at, why := range map[string]string{
		"charge-card":  "too late to cancel trip at-charge-card: its pivot charge-card is under way, so it goes forward unless that is refused",
		"issue-ticket": "too late to cancel trip at-issue-ticket: its pivot charge-card is done, so it goes forward",
	} {
		key := "at-" + at
		s.crew.on("do "+at, fails)
		s.start("trip", key, ada)
		s.tried("trip", key, at)
		for _, dryRun := range []bool{true, false} {
			_, err := s.cancel("trip", key, dryRun)
			require.Contains(t, refusedWith(t, connect.CodeFailedPrecondition, err), why)
		}
		s.crew.on("do "+at, nil)
		s.ends("trip", key, sagav1.Status_STATUS_CONFIRMED)
		_, err := s.cancel("trip", key, false)
		require.Contains(t, refusedWith(t, connect.CodeFailedPrecondition, err), "it is CONFIRMED: every step is done")
	}
	_, err := s.cancel("trip", "nobody", false)
	require.Contains(t, refusedWith(t, connect.CodeNotFound, err), `there is no trip "nobody"`)
}

func TestASagaThatAwaitsApprovalHearsAPerson(t *testing.T) {
	s := newSystem(t, galas)
	dear := ada
	dear.Price.MinorUnits = 5000
	act := func(as, key string) error {
		switch as {
		case "approve":
			_, err := s.sagas.Approve(s.ctx(), connect.NewRequest(&sagav1.ApproveRequest{Definition: "gala", Key: key, Reason: "it is worth it", Actor: "kim"}))
			return err
		case "reject":
			_, err := s.sagas.Reject(s.ctx(), connect.NewRequest(&sagav1.RejectRequest{Definition: "gala", Key: key, Reason: "too dear", Actor: "kim"}))
			return err
		}
		_, err := s.cancel("gala", key, false)
		return err
	}
	for as, c := range map[string]struct {
		ends sagav1.Status
		want []string
	}{
		"approve": {sagav1.Status_STATUS_CONFIRMED, []string{"book-hotel done", "sign-off done", "charge-card done", "issue-ticket done"}},
		"reject":  {sagav1.Status_STATUS_REJECTED, []string{"book-hotel done, undone: done", "sign-off rejected", "charge-card skipped", "issue-ticket skipped"}},
		"cancel":  {sagav1.Status_STATUS_CANCELLED, []string{"book-hotel done, undone: done", "sign-off skipped", "charge-card skipped", "issue-ticket skipped"}},
	} {
		s.start("gala", as, dear)
		s.until("gala", as, "it should wait for a person", func(g *sagav1.Saga) bool { return g.Status == sagav1.Status_STATUS_AWAITING_APPROVAL })
		require.NoError(t, act(as, as))
		final := s.ends("gala", as, c.ends)
		require.Equal(t, c.want, states(final), as)
	}
	s.start("gala", "cheap", ada)
	s.ends("gala", "cheap", sagav1.Status_STATUS_CONFIRMED)
	require.Contains(t, refusedWith(t, connect.CodeFailedPrecondition, act("approve", "cheap")), "it needs no approval, and it is CONFIRMED")
	require.Contains(t, refusedWith(t, connect.CodeFailedPrecondition, act("reject", "approve")), "it was approved before")
	require.Contains(t, refusedWith(t, connect.CodeNotFound, act("approve", "nobody")), `there is no gala "nobody"`)
	s.auditFindsNothing("gala", 4)
}

func (s *system) resolve(key, step string, as sagav1.Resolution, withoutProof bool) (string, error) {
	answer, err := s.sagas.Resolve(s.ctx(), connect.NewRequest(&sagav1.ResolveRequest{
		Definition: "trip", Key: key, Step: step, As: as, Reason: "looked into it", Actor: "kim", WithoutProof: withoutProof,
	}))
	if err != nil {
		return "", err
	}
	return answer.Msg.What, nil
}

const (
	retry  = sagav1.Resolution_RESOLUTION_RETRY
	done   = sagav1.Resolution_RESOLUTION_DONE
	refund = sagav1.Resolution_RESOLUTION_REFUND
)

// loses has the participant do what it is asked and its answer get lost.
func loses(_ context.Context, _ participant.Request, next func() (participant.Result, error)) (participant.Result, error) {
	if _, err := next(); err != nil {
		return participant.Result{}, err
	}
	return participant.Result{}, errors.New("the answer was lost")
}

func TestAStuckSagaIsResolvedByAPerson(t *testing.T) {
	s := newSystem(t, trips)
	stuck := func(key, at string, how trouble) {
		s.crew.on("do "+at, how)
		s.start("trip", key, ada)
		attention := s.needs("trip", key, "failing").Attention
		require.Equal(t, at, attention.Step)
		require.Contains(t, attention.Advice, "orchestrator saga resolve trip "+key+" --step "+at+" --as retry")
	}
	t.Run("by trying again", func(t *testing.T) {
		stuck("retried", "issue-ticket", fails)
		s.crew.on("do issue-ticket", nil)
		what, err := s.resolve("retried", "issue-ticket", retry, false)
		require.NoError(t, err)
		require.Equal(t, "issue-ticket is tried at once", what)
		s.ends("trip", "retried", sagav1.Status_STATUS_CONFIRMED)
	})
	t.Run("by the record, which says that it is done", func(t *testing.T) {
		stuck("recorded", "issue-ticket", loses)
		what, err := s.resolve("recorded", "issue-ticket", done, false)
		require.NoError(t, err)
		require.Contains(t, what, "issue-ticket is taken as done, as its participant's record says")
		require.Equal(t, "issue-ticket resolved", states(s.ends("trip", "recorded", sagav1.Status_STATUS_CONFIRMED))[3])
		s.crew.on("do issue-ticket", nil)
	})
	t.Run("by the operator's word, where the record says nothing", func(t *testing.T) {
		stuck("vouched", "issue-ticket", fails)
		_, err := s.resolve("vouched", "issue-ticket", done, false)
		require.Contains(t, refusedWith(t, connect.CodeFailedPrecondition, err), "the record of airline says of issue-ticket: not on record")
		what, err := s.resolve("vouched", "issue-ticket", done, true)
		require.NoError(t, err)
		require.Contains(t, what, "without proof")
		s.ends("trip", "vouched", sagav1.Status_STATUS_CONFIRMED)
		s.crew.on("do issue-ticket", nil)
	})
	t.Run("by giving the money back", func(t *testing.T) {
		stuck("refunded", "issue-ticket", fails)
		what, err := s.resolve("refunded", "issue-ticket", refund, false)
		require.NoError(t, err)
		require.Equal(t, "it is undone by cancel-flight, cancel-hotel, and then by refund-card", what)
		final := s.ends("trip", "refunded", sagav1.Status_STATUS_CANCELLED)
		require.Equal(t, []string{"book-flight done, undone: done", "book-hotel done, undone: done", "charge-card done, undone: done", "issue-ticket skipped"}, states(final))
		require.Equal(t, "refunded", final.ReasonCode)
		require.Empty(t, s.crew.books("trip", "refunded"))
		s.crew.on("do issue-ticket", nil)
	})
	t.Run("but not without proof while there is a way back", func(t *testing.T) {
		stuck("forward", "book-hotel", fails)
		_, err := s.resolve("forward", "book-hotel", done, true)
		require.Contains(t, refusedWith(t, connect.CodeFailedPrecondition, err), "there is still a way back")
		_, err = s.resolve("forward", "book-hotel", refund, false)
		require.Contains(t, refusedWith(t, connect.CodeFailedPrecondition, err), "there is still a way back: cancel it instead")
		_, err = s.resolve("forward", "charge-card", retry, false)
		require.Contains(t, refusedWith(t, connect.CodeFailedPrecondition, err), "it is at book-hotel, not at charge-card")
		_, err = s.resolve("forward", "book-train", retry, false)
		require.Contains(t, badFields(t, err)["step"], "is neither a step nor a compensation of trip forward")
		_, err = s.resolve("forward", "book-hotel", retry, true)
		require.Contains(t, badFields(t, err)["without_proof"], "goes with RESOLUTION_DONE only")
		s.crew.on("do book-hotel", nil)
		_, err = s.resolve("forward", "book-hotel", retry, false)
		require.NoError(t, err)
		s.ends("trip", "forward", sagav1.Status_STATUS_CONFIRMED)
	})
	t.Run("also where it cannot be undone", func(t *testing.T) {
		s.crew.on("undo book-flight", fails)
		lost := ada
		lost.Card = "refused by charge-card"
		s.start("trip", "undoing", lost)
		require.Equal(t, "cancel-flight", s.needs("trip", "undoing", "failing").Attention.Step)
		_, err := s.resolve("undoing", "cancel-flight", done, false)
		require.Contains(t, refusedWith(t, connect.CodeFailedPrecondition, err), "the record of airline says of book-flight: applied")
		_, err = s.resolve("undoing", "cancel-flight", done, true)
		require.NoError(t, err)
		s.ends("trip", "undoing", sagav1.Status_STATUS_REJECTED)
		require.Equal(t, 1, s.crew.books("trip", "undoing")["book-flight"], "it is there, as the operator knows")
	})
	s.auditFindsNothing("trip", 6)
}

func TestAPersonMayHandASagaToAnotherRun(t *testing.T) {
	s := newSystem(t, trips)
	s.crew.on("do book-hotel", fails)
	s.start("trip", "t-1", ada)
	s.needs("trip", "t-1", "failing")
	redrive := func(dryRun bool) (*sagav1.RedriveResponse, error) {
		answer, err := s.sagas.Redrive(s.ctx(), connect.NewRequest(&sagav1.RedriveRequest{Definition: "trip", Key: "t-1", Reason: "it hangs", DryRun: dryRun}))
		if err != nil {
			return nil, err
		}
		return answer.Msg, nil
	}
	would, err := redrive(true)
	require.NoError(t, err)
	require.Equal(t, "run 2 goes on in phase forward", would.What)
	require.EqualValues(t, 1, s.get("trip", "t-1").Run)
	s.crew.on("do book-hotel", nil)
	_, err = redrive(false)
	require.NoError(t, err)
	require.EqualValues(t, 2, s.ends("trip", "t-1", sagav1.Status_STATUS_CONFIRMED).Run)
	require.Equal(t, map[string]int{"book-flight": 1, "book-hotel": 1, "charge-card": 1, "issue-ticket": 1}, s.crew.books("trip", "t-1"))
	_, err = redrive(false)
	require.Contains(t, refusedWith(t, connect.CodeFailedPrecondition, err), "it is CONFIRMED, and nothing of it is open")
}

// A saga that nobody was asked about yet ends at once. It is one of another engine, which never begins it here.
func TestACancelBeforeTheFirstStepAsksNobody(t *testing.T) {
	s := newSystem(t, trips)
	_, created, err := s.host.Store.Accept(s.ctx(), store.NewSaga{
		Key: "t-1", IdempotencyKey: "t-1", Digest: "v1:", Request: []byte("{}"), Input: []byte("{}"), Engine: host.Dapr,
		Plan: definitions(t, trips)[0].Plan(), Deadline: time.Hour,
	})
	require.NoError(t, err)
	require.True(t, created)
	would, err := s.cancel("trip", "t-1", true)
	require.NoError(t, err)
	require.Empty(t, would.ToUndo)
	require.Equal(t, "book-flight running", states(would.Saga)[0], "a dry run tells how it stands")
	cancelled, err := s.cancel("trip", "t-1", false)
	require.NoError(t, err)
	require.Equal(t, sagav1.Status_STATUS_CANCELLED, cancelled.Saga.Status)
	require.Equal(t, []string{"book-flight skipped", "book-hotel skipped", "charge-card skipped", "issue-ticket skipped"}, states(cancelled.Saga))
	require.Empty(t, s.crew.books("trip", "t-1"))
}
