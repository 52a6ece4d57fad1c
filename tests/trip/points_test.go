package trip_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// definition is the name of the trip's saga.
const definition = "trip"

// participants are those of a trip, and steps its steps with whose they are.
var participants = []string{"airline", "agency", "bank"}

type step struct{ name, at string }

var steps = []step{
	{"book-flight", "airline"}, {"book-hotel", "agency"}, {"rent-car", "agency"}, {"charge-card", "bank"}, {"issue-ticket", "airline"}, {"send-vouchers", "agency"},
}

func participantOf(name string) string {
	for _, s := range steps {
		if s.name == name {
			return s.at
		}
	}
	panic("a trip has no step " + name)
}

// order is what somebody wants to book. The zero value of a field takes the usual.
type order struct {
	to   string // lisbon; there is no flight to nowhere, and no ticket to atlantis
	card string // visa; the bank declines the one called declined
}

const price = 48000

func (o order) input() string {
	if o.to == "" {
		o.to = "lisbon"
	}
	if o.card == "" {
		o.card = "visa"
	}
	text, err := json.Marshal(map[string]any{
		"traveller": "ann", "to": o.to, "nights": 3, "card": o.card, "price": map[string]any{"minor_units": price, "currency": "EUR"},
	})
	if err != nil {
		panic(err) // It is of texts and numbers.
	}
	return string(text)
}

// The exit statuses of `trip saga`.
const (
	done           = 0
	tooLate        = 4 // Or the state does not allow it otherwise.
	rejected       = 10
	cancelled      = 11
	needsAttention = 12
)

// end is how a trip has to end.
type end struct {
	exit int
	// but are the steps of which the books differ from what the end promises, because an operator gave his word.
	but []string
}

// moment is when a participant is at a step.
type moment string

const (
	before moment = "before" // The call is on its way.
	inside moment = "inside" // The participant is in the middle of its transaction.
	after  moment = "after"  // The participant has committed, and its answer is on its way.
)

// point is where a trip can stand: at a step, or at the undoing of one.
type point struct {
	step string
	undo bool
	when moment
}

func (p point) String() string {
	if p.undo {
		return fmt.Sprintf("%s undoing %s", p.when, p.step)
	}
	return fmt.Sprintf("%s %s", p.when, p.step)
}

// points are all of them. Those that only a refund comes to are the first, because it is the longest way.
func points() (all []point) {
	for _, p := range []point{
		{step: "charge-card", undo: true},
		{step: "book-flight", undo: true}, {step: "book-hotel", undo: true}, {step: "rent-car", undo: true},
		{step: "send-vouchers"}, {step: "issue-ticket"}, {step: "charge-card"}, {step: "rent-car"}, {step: "book-hotel"}, {step: "book-flight"},
	} {
		for _, p.when = range []moment{before, inside, after} {
			all = append(all, p)
		}
	}
	return all
}

// way is how a trip comes to the point, and how it ends from there: booked whole, or turned back by the bank, or by a refund.
func (p point) way() (order, end) {
	switch {
	case p.isOfRefund():
		return order{to: "atlantis"}, end{exit: cancelled}
	case p.undo:
		return order{card: "declined"}, end{exit: rejected}
	}
	return order{}, end{exit: done}
}

// isOfRefund tells whether only a refund comes there.
func (p point) isOfRefund() bool { return p.undo && p.step == "charge-card" }

// stand is a trip at its point.
type stand struct {
	key string
	point
	// await returns when the trip has come there, stands tells whether it stands there now, lift lets it go on.
	await  func(*testing.T)
	stands func(context.Context) (bool, error)
	lift   func()
}

// hold makes a trip stand at a point once it comes there.
func (s *system) hold(t *testing.T, key string, p point) stand {
	t.Helper()
	held := stand{key: key, point: p}
	if p.when == inside {
		held.stands, held.lift = s.holdInside(t, key, p)
		held.await = func(t *testing.T) {
			t.Helper()
			harness.Eventually(t, key+" to stand "+p.String(), func(ctx context.Context) error {
				stands, err := held.stands(ctx)
				if err == nil && !stands {
					err = errors.New("it does not")
				}
				return err
			})
		}
		return held
	}
	fault := harness.Fault{Kind: harness.HoldBefore, Procedure: "Do", OrderID: key, Step: p.step}
	if p.undo {
		fault.Procedure = "Undo"
	}
	if p.when == after {
		fault.Kind = harness.HoldAfter
	}
	armed := s.proxies[participantOf(p.step)].Arm(t, fault)
	held.lift = armed.Lift
	held.stands = func(context.Context) (bool, error) { return armed.Holding() > 0, nil }
	held.await = func(t *testing.T) {
		t.Helper()
		armed.Await(t)
		armed.AwaitDelivered()
	}
	return held
}

// holdInside holds a participant in its transaction, by a lock that the books' trigger waits for.
func (s *system) holdInside(t *testing.T, key string, p point) (stands func(context.Context) (bool, error), lift func()) {
	t.Helper()
	movement := "INSERT"
	if p.undo {
		movement = "DELETE"
	}
	name := lockName(movement, key, p.step)
	holder, err := pgx.Connect(t.Context(), s.booksURL)
	require.NoError(t, err)
	lift = func() { _ = holder.Close(context.Background()) }
	t.Cleanup(lift)
	_, err = holder.Exec(t.Context(), `SELECT pg_advisory_lock(hashtextextended($1, 0))`, name)
	require.NoError(t, err)
	return func(ctx context.Context) (stands bool, err error) {
		err = s.books.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
			               AND classid::bigint << 32 | objid::bigint = hashtextextended($1, 0))`, name).Scan(&stands)
		return stands, err
	}, lift
}

// send starts a trip on the way to its point, and returns when nothing but the point is in its way. It has to end as expected.
func (s *system) send(ctx context.Context, key string, p point, expected end) error {
	o, _ := p.way()
	s.expect(key, expected)
	if _, err := s.typed(ctx, done, o.input(), "start", definition, key, "-"); err != nil || !p.isOfRefund() {
		return err
	}
	if _, err := s.typed(ctx, needsAttention, "", "wait", definition, key); err != nil {
		return err
	}
	if err := s.nothingWasUndone(ctx, key); err != nil {
		return err
	}
	_, err := s.typed(ctx, done, "", "resolve", definition, key, "--step", "issue-ticket", "--as", "refund", "--reason", "there is no ticket")
	return err
}

func (s *system) expect(key string, e end) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends[key] = e
}
