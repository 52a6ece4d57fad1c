package host_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

func TestAnAuditFindsWhatAParticipantLostOrKept(t *testing.T) {
	s := newSystem(t, trips, tours)
	lost := ada
	lost.Card = "refused by charge-card"
	s.start("trip", "good", ada)
	s.ends("trip", "good", sagav1.Status_STATUS_CONFIRMED)
	s.start("trip", "undone", lost)
	s.ends("trip", "undone", sagav1.Status_STATUS_REJECTED)
	s.start("tour", "good", ada)
	s.ends("tour", "good", sagav1.Status_STATUS_CONFIRMED)
	s.auditFindsNothing("", 3)

	const row = ` WHERE definition = 'trip' AND key = $1 AND step = $2`
	for name, c := range map[string]struct{ key, step, breaks, mends, what string }{
		"what was done is not on record":  {"good", "book-hotel", `UPDATE operations SET key = 'hidden'` + row, `UPDATE operations SET key = $1 WHERE key = 'hidden' AND step = $2`, "CONFIRMED, but agency has book-hotel not in place (not on record)"},
		"what was done was undone":        {"good", "issue-ticket", `UPDATE operations SET undo_state = 'applied'` + row, `UPDATE operations SET undo_state = 'none'` + row, "CONFIRMED, but airline has issue-ticket not in place (applied, undo applied)"},
		"what was done was refused":       {"good", "charge-card", `UPDATE operations SET do_state = 'rejected', do_reason = 'why'` + row, `UPDATE operations SET do_state = 'applied', do_reason = ''` + row, "CONFIRMED, but bank has charge-card not in place (rejected)"},
		"what was undone is there again":  {"undone", "book-flight", `UPDATE operations SET undo_state = 'none'` + row, `UPDATE operations SET undo_state = 'applied'` + row, "REJECTED, but airline still has book-flight in place (applied)"},
		"what was refused is there":       {"undone", "charge-card", `UPDATE operations SET do_state = 'applied'` + row, `UPDATE operations SET do_state = 'rejected'` + row, "REJECTED, but bank still has charge-card in place (applied)"},
		"nobody knows what became of one": {"undone", "book-hotel", `UPDATE operations SET do_state = 'started', do_key = 'k', undo_state = 'none', ask_at = 'infinity'` + row, `UPDATE operations SET do_state = 'applied', undo_state = 'applied', ask_at = NULL` + row, "REJECTED, but agency does not know yet whether book-hotel was done"},
	} {
		t.Run(name, func(t *testing.T) {
			s.crew.exec(c.breaks, c.key, c.step)
			for _, only := range []string{"", c.key} {
				found, _ := s.audit("trip", only)
				require.Len(t, found, 1)
				require.Equal(t, []string{"trip", c.key, "I1", c.what}, []string{found[0].Definition, found[0].Key, found[0].Invariant, found[0].What})
			}
			s.auditFindsNothing("tour", 1)
			s.crew.exec(c.mends, c.key, c.step)
			s.auditFindsNothing("trip", 2)
		})
	}
}

func TestAnAuditOfWhatIsNotThereSaysSo(t *testing.T) {
	s := newSystem(t, trips)
	audit := func(definition, key string) error {
		stream, err := s.sagas.Audit(s.ctx(), connect.NewRequest(&sagav1.AuditRequest{Definition: definition, Key: key}))
		require.NoError(t, err)
		for stream.Receive() {
		}
		return stream.Err()
	}
	require.Contains(t, refusedWith(t, connect.CodeNotFound, audit("cruise", "")), "[trip]")
	require.Contains(t, refusedWith(t, connect.CodeNotFound, audit("trip", "nobody")), `there is no trip "nobody"`)
	require.Contains(t, badFields(t, audit("", "t-1"))["definition"], "is missing")
	s.auditFindsNothing("", 0)

	s.start("trip", "t-1", ada)
	s.ends("trip", "t-1", sagav1.Status_STATUS_CONFIRMED)
	s.agency.CloseClientConnections()
	s.agency.Listener.Close()
	require.Contains(t, refusedWith(t, connect.CodeUnavailable, audit("trip", "")), "the audit is not complete: ask agency")
}

// What the pivot's own participant held before the pivot is used up by it: a refund leaves it, and an audit must know.
func TestAnAuditKnowsWhatARefundLeaves(t *testing.T) {
	held := saga.For[trip]{Name: "trip", Version: 1, Steps: []saga.Step{
		saga.Do("hold-card").At("bank").UndoneBy("free-card"), bookHotel, chargeCard, issueTicket,
	}}
	s := newSystem(t, held)
	s.crew.on("do issue-ticket", fails)
	s.start("trip", "t-1", ada)
	s.needs("trip", "t-1", "failing")
	_, err := s.resolve("t-1", "issue-ticket", refund, false)
	require.NoError(t, err)
	final := s.ends("trip", "t-1", sagav1.Status_STATUS_CANCELLED)
	require.Equal(t, []string{"hold-card done", "book-hotel done, undone: done", "charge-card done, undone: done", "issue-ticket skipped"}, states(final))
	s.auditFindsNothing("trip", 1)
}

// The ticket that a refund leaves was named to the operator; the seat plan that nobody undoes is harmless by its declaration.
func TestAnAuditKnowsWhatItsAuthorDeclaredToStay(t *testing.T) {
	stays := saga.For[trip]{Name: "trip", Version: 1, Steps: []saga.Step{
		bookFlight, saga.Do("book-hotel").At("agency").NothingToUndo(), chargeCard, issueTicket,
		saga.Do("send-vouchers").At("agency").NothingToUndo(),
	}}
	s := newSystem(t, stays)
	s.crew.on("do send-vouchers", fails)
	s.start("trip", "t-1", ada)
	s.needs("trip", "t-1", "failing")
	_, err := s.resolve("t-1", "send-vouchers", refund, false)
	require.NoError(t, err)
	s.ends("trip", "t-1", sagav1.Status_STATUS_CANCELLED)
	require.Equal(t, map[string]int{"book-hotel": 1, "issue-ticket": 1}, s.crew.books("trip", "t-1"))
	s.auditFindsNothing("trip", 1)

	_, err = s.host.Pool.Exec(t.Context(), `UPDATE sagas SET progress = jsonb_set(progress, '{3,state}', '"skipped"')`)
	require.NoError(t, err)
	found, _ := s.audit("trip", "t-1")
	require.Len(t, found, 1, "what the row does not know to be done behind the pivot was left unseen")
}

func TestAnAnswerThatIsNotOfTheContractCallsAPerson(t *testing.T) {
	s := newSystem(t, trips)
	for name, c := range map[string]struct {
		at     string
		answer participant.Result
	}{
		"in process, an outcome of its own": {"do book-flight", participant.Result{Outcome: "odd"}},
		"in process, no outcome":            {"do book-flight", participant.Result{}},
		"in process, a refusal without why": {"do charge-card", participant.Result{Outcome: participant.Rejected}},
		"in process, behind the pivot":      {"do issue-ticket", participant.Result{Outcome: "fine"}},
		"in process, an undo undone before": {"undo book-flight", participant.Result{Outcome: participant.UndoneBefore}},
	} {
		t.Run(name, func(t *testing.T) {
			key, input := strings.NewReplacer(" ", "-", ",", "").Replace(name), ada
			if c.at == "undo book-flight" {
				input.To = "refused by book-hotel"
			}
			s.crew.on(c.at, answers(c.answer))
			s.start("trip", key, input)
			stuck := s.needs("trip", key, "bad_answer")
			require.Contains(t, stuck.Attention.Advice, "answers what its contract does not have")
			require.Contains(t, stuck.Attention.Cause, "with what its contract does not have")
			require.NotEqual(t, "final", stuck.Phase)
			s.crew.on(c.at, nil)
			_, err := s.resolve(key, stuck.Attention.Step, retry, false)
			require.NoError(t, err)
			s.until("trip", key, "it should end", func(g *sagav1.Saga) bool { return g.EndedAt != nil })
		})
	}
	// A participant of ours never sends what is not of the contract. Anybody else's may.
	for name, answer := range map[string]string{
		"over the wire, an outcome of its own":   `{"outcome":"OUTCOME_FINE"}`,
		"over the wire, a refusal without why":   `{"outcome":"OUTCOME_REJECTED"}`,
		"over the wire, nothing":                 `{}`,
		"over the wire, what is no JSON":         `OK`,
		"over the wire, a field of another kind": `{"outcome":["OUTCOME_APPLIED"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			key := strings.NewReplacer(" ", "-", ",", "").Replace(name)
			s.agencyAnswers.Store(&answer)
			s.start("trip", key, ada)
			stuck := s.needs("trip", key, "bad_answer")
			require.Equal(t, "book-hotel", stuck.Attention.Step)
			s.agencyAnswers.Store(nil)
			s.ends("trip", key, sagav1.Status_STATUS_CONFIRMED)
		})
	}
	s.auditFindsNothing("trip", 10)
}

func TestARefusalBehindThePivotCallsAPersonAndUndoesNothing(t *testing.T) {
	s := newSystem(t, trips)
	refuses := ada
	refuses.To = "refused by issue-ticket"
	s.start("trip", "t-1", refuses)
	stuck := s.needs("trip", "t-1", "refused")
	require.Equal(t, "issue-ticket", stuck.Attention.Step)
	require.Equal(t, "pivoted", stuck.Phase)
	require.Equal(t, map[string]int{"book-flight": 1, "book-hotel": 1, "charge-card": 1}, s.crew.books("trip", "t-1"), "nothing is undone")
	_, err := s.cancel("trip", "t-1", false)
	refusedWith(t, connect.CodeFailedPrecondition, err)
	_, err = s.resolve("t-1", "issue-ticket", retry, false)
	require.NoError(t, err)
	s.until("trip", "t-1", "it should be refused again", func(g *sagav1.Saga) bool { return g.Steps[3].Attempts > stuck.Steps[3].Attempts })
	require.Equal(t, 1, s.crew.books("trip", "t-1")["charge-card"])
	_, err = s.resolve("t-1", "issue-ticket", refund, false)
	require.NoError(t, err)
	s.ends("trip", "t-1", sagav1.Status_STATUS_CANCELLED)
	require.Empty(t, s.crew.books("trip", "t-1"))
	s.auditFindsNothing("trip", 1)
}

// One that panics is one that gave no answer: it must cost neither the process nor another saga.
func TestAParticipantThatPanicsCostsItsOwnSagaOnly(t *testing.T) {
	s := newSystem(t, trips, tours)
	s.crew.on("do charge-card", func(context.Context, participant.Request, func() (participant.Result, error)) (participant.Result, error) {
		panic(errors.New("nil map"))
	})
	s.start("trip", "t-1", ada)
	s.start("tour", "t-1", ada)
	s.ends("tour", "t-1", sagav1.Status_STATUS_CONFIRMED)
	s.needs("trip", "t-1", "failing")
	s.crew.on("do charge-card", nil)
	s.ends("trip", "t-1", sagav1.Status_STATUS_CONFIRMED)
}
