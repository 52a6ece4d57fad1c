package verbs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// callBudget bounds one call.
const callBudget = 20 * time.Second

// actor is who has every wish.
const actor = "verbs"

// cell is one verb in one state, tried on a checkout of its own.
type cell struct {
	*table
	state state
	verb  verb
	// id is the order's; customer and method are of its own too, so that it can be found, and its card network be broken, alone.
	id, customer, method string
	reason               string
}

func (tab *table) cell(t *testing.T, s state, v verb) *cell {
	t.Helper()
	id := fmt.Sprintf("%s-%d-%d", tab.prefix, slices.IndexFunc(states, func(other state) bool { return other.name == s.name }), slices.Index(verbs, v))
	return &cell{table: tab, state: s, verb: v, id: id, customer: "cus-" + id, method: "tok_" + id, reason: "because"}
}

// try brings a checkout into the state, applies the verb, heals what caused the state, and holds the answer and the end to the table.
func (c *cell) try(t *testing.T) {
	answer, end, _ := strings.Cut(expected[c.state.name][c.verb], "→ ")
	answer = strings.TrimSpace(answer)
	c.reach(t)
	before := c.get(t)
	c.requireState(t, before)
	if c.verb == nothing {
		c.read(t, before)
	}
	if c.healsFirst() {
		c.state.heal(t, c)
		if c.verb == doneProven {
			require.NoError(t, c.state.do(t.Context(), c, before), "do it at the participant")
		}
	}

	asked := time.Now()
	met := ""
	if c.verb != nothing {
		met = c.apply(t)
		require.Contains(t, met, answer, "what is answered")
		require.Equal(t, strings.HasPrefix(answer, refused), strings.HasPrefix(met, refused), met)
	}
	if !c.healsFirst() {
		c.state.heal(t, c)
	}
	if c.verb == doneWord && !strings.HasPrefix(met, refused) {
		c.vouches()
		require.NoError(t, c.state.do(t.Context(), c, before), "make true what was vouched for")
	}
	ended := c.finish(t)
	c.tell(c, strings.TrimSpace(met+" → "+endOf(ended)))
	require.Equal(t, end, endOf(ended), "how it ends: %s", harness.Steps(ended))
	require.Empty(t, ended.Held.Authorized, "an end holds nothing")
	c.requireKept(t, met)
	if c.verb == retry && !strings.HasPrefix(met, refused) {
		c.requireTriedAtOnce(t, before, asked)
	}
	if c.verb == nothing {
		c.follow(t, ended)
	}
}

// healsFirst tells whether the cause of the state is healed before the verb is applied, which then makes the checkout go on.
func (c *cell) healsFirst() bool {
	return c.state.do != nil && (c.verb == retry || c.verb == doneProven)
}

// tries is how often the failing step has been tried before the verb is applied. The wait that follows must be longer than it takes to
// apply it, the more so if the cause has been healed by then: 2 s after 4 rounds, 8 s after 6.
func (c *cell) tries() int {
	if c.healsFirst() {
		return 6
	}
	return 4
}

// reach brings the checkout into the state.
func (c *cell) reach(t *testing.T) {
	t.Helper()
	for _, b := range c.state.breaks {
		b(t, c)
	}
	o := c.state.order
	o.ID, o.Customer = c.id, c.customer
	if o.Method == "" {
		o.Method = c.method
	}
	c.Start(t, o)
	for _, step := range c.state.then {
		step(t, c)
	}
}

func (c *cell) get(t *testing.T) *checkoutv1.Checkout {
	t.Helper()
	found, err := c.Get(t.Context(), c.id)
	require.NoError(t, err)
	return found
}

// apply applies the verb: first as a dry run, which must answer the same and change nothing.
func (c *cell) apply(t *testing.T) string {
	t.Helper()
	dry := c.unchanged(t, "the dry run", func() string { return c.answer(t, true) })
	require.Empty(t, c.outcomes(t), "the dry run was kept as a wish")
	if strings.HasPrefix(dry, refused) {
		require.Equal(t, dry, c.unchanged(t, "what was refused", func() string { return c.answer(t, false) }), "the dry run said something else")
		return dry
	}
	met := c.answer(t, false)
	if c.verb == approve || c.verb == reject { // They answer with the checkout, which has changed.
		require.NotContains(t, met, refused, "the dry run allowed it")
		return met
	}
	require.Equal(t, dry, met, "the dry run said something else")
	return met
}

// unchanged demands that an action changes nothing of the checkout's row. An attempt that came in between may have, or an event of a
// choreographed one; then it is tried again.
func (c *cell) unchanged(t *testing.T, what string, action func() string) string {
	t.Helper()
	const query = `
		SELECT (to_jsonb(c) - ARRAY['updated_at', 'check_at', 'pokes', 'fruitless_runs', 'started_run'])::text,
		       (SELECT count(*) FROM entries e WHERE e.key = c.order_id AND kind = 'attempt')
		FROM checkouts c WHERE order_id = $1`
	look := func() (row string, attempts int) {
		require.NoError(t, c.orchestrator.QueryRow(t.Context(), query, c.id).Scan(&row, &attempts))
		return row, attempts
	}
	for {
		before, attempts := look()
		answer := action()
		after, attemptsAfter := look()
		if before == after {
			return answer
		}
		if c.state.order.Coordination == "choreographed" {
			continue // Once the network answers, payment goes on by itself, and its events tell.
		}
		if attempts == attemptsAfter {
			require.Equal(t, before, after, "%s changed the checkout", what)
		}
		c.requireState(t, c.get(t))
	}
}

// answer is what is answered, in words.
func (c *cell) answer(t *testing.T, dryRun bool) string {
	t.Helper()
	what, err := c.ask(t.Context(), dryRun)
	if sentence, ok := refusal(err); ok {
		return refused + strings.ReplaceAll(sentence, c.id, "ORDER")
	}
	require.NoError(t, err)
	return what
}

// ask applies the verb.
func (c *cell) ask(ctx context.Context, dryRun bool) (what string, err error) {
	ctx, stop := context.WithTimeout(ctx, callBudget)
	defer stop()
	resolve := func(step string, as checkoutv1.Resolution, withoutProof bool) (string, error) {
		answer, err := c.Checkouts.Resolve(ctx, connect.NewRequest(&checkoutv1.ResolveRequest{
			OrderId: c.id, Step: step, As: as, WithoutProof: withoutProof, Reason: c.reason, Actor: actor, DryRun: dryRun,
		}))
		if err != nil {
			return "", err
		}
		return answer.Msg.What, nil
	}
	switch c.verb {
	case cancel:
		answer, err := c.Checkouts.Cancel(ctx, connect.NewRequest(&checkoutv1.CancelRequest{OrderId: c.id, Reason: c.reason, Actor: actor, DryRun: dryRun}))
		if err != nil {
			return "", err
		}
		return sorted(answer.Msg), nil
	case approve:
		answer, err := c.Checkouts.Approve(ctx, connect.NewRequest(&checkoutv1.ApproveRequest{OrderId: c.id, Reason: c.reason, Actor: actor, DryRun: dryRun}))
		if err != nil {
			return "", err
		}
		return "it is " + status(answer.Msg.Checkout.Status), nil
	case reject:
		answer, err := c.Checkouts.Reject(ctx, connect.NewRequest(&checkoutv1.RejectRequest{OrderId: c.id, Reason: c.reason, Actor: actor, DryRun: dryRun}))
		if err != nil {
			return "", err
		}
		return "it is " + status(answer.Msg.Checkout.Status), nil
	case redrive:
		answer, err := c.Checkouts.Redrive(ctx, connect.NewRequest(&checkoutv1.RedriveRequest{OrderId: c.id, Reason: c.reason, Actor: actor, DryRun: dryRun}))
		if err != nil {
			return "", err
		}
		return answer.Msg.What, nil
	case retry:
		return resolve(c.state.at(), checkoutv1.Resolution_RESOLUTION_RETRY, false)
	case retryOther:
		return resolve("release-stock", checkoutv1.Resolution_RESOLUTION_RETRY, false)
	case doneRefuted:
		return resolve(c.state.refuted(), checkoutv1.Resolution_RESOLUTION_DONE, false)
	case doneProven:
		return resolve(c.state.proven(), checkoutv1.Resolution_RESOLUTION_DONE, false)
	case doneWord:
		return resolve(c.state.at(), checkoutv1.Resolution_RESOLUTION_DONE, true)
	case refund:
		return resolve(c.state.at(), checkoutv1.Resolution_RESOLUTION_REFUND, false)
	}
	return "", fmt.Errorf("%q is no verb", c.verb)
}

// sorted tells what a cancel answers of the steps.
func sorted(answer *checkoutv1.CancelResponse) string {
	var text []string
	for _, kind := range []struct {
		word  string
		steps []string
	}{{"undone", answer.Undone}, {"to undo", answer.ToUndo}, {"cannot undo", answer.CannotUndo}} {
		if len(kind.steps) > 0 {
			text = append(text, kind.word+" "+strings.Join(kind.steps, ", "))
		}
	}
	if len(text) == 0 {
		return "nothing to undo"
	}
	return strings.Join(text, "; ")
}

// watch reads how the checkout stands, and every change, until stop says that it is enough.
func (c *cell) watch(t *testing.T, what string, request *checkoutv1.WatchRequest, stop func(*checkoutv1.Checkout) bool) *checkoutv1.Checkout {
	t.Helper()
	ctx, giveUp := context.WithTimeout(t.Context(), patience)
	defer giveUp()
	request.OrderId = c.id
	stream, err := c.Checkouts.Watch(ctx, connect.NewRequest(request))
	require.NoError(t, err)
	defer stream.Close()
	var last *checkoutv1.Checkout
	for stream.Receive() {
		if last = stream.Msg().Checkout; stop(last) {
			return last
		}
	}
	t.Fatalf("watched %s for %s: %v; it is %s: %s", c.id, what, stream.Err(), status(last.GetStatus()), harness.Steps(last))
	return nil
}

// finish waits for the end, and approves what asks for it on the way.
func (c *cell) finish(t *testing.T) *checkoutv1.Checkout {
	t.Helper()
	return c.watch(t, "its end", &checkoutv1.WatchRequest{}, func(now *checkoutv1.Checkout) bool {
		if now.Status == checkoutv1.Status_STATUS_AWAITING_APPROVAL {
			c.approveIt(t)
		}
		return now.EndedAt != nil
	})
}

// approveIt approves, unless it is too late for that.
func (c *cell) approveIt(t *testing.T) {
	t.Helper()
	_, err := c.Checkouts.Approve(t.Context(), connect.NewRequest(&checkoutv1.ApproveRequest{OrderId: c.id, Reason: "so that it ends", Actor: "another"}))
	if _, late := refusal(err); !late {
		require.NoError(t, err)
	}
}

// nudge has the step that the checkout is at tried at once, unless it has moved on, so that nobody waits for its backoff.
func (c *cell) nudge(t *testing.T) {
	t.Helper()
	_, err := c.Checkouts.Resolve(t.Context(), connect.NewRequest(&checkoutv1.ResolveRequest{
		OrderId: c.id, Step: c.state.step, As: checkoutv1.Resolution_RESOLUTION_RETRY, Reason: "so that it ends", Actor: "another",
	}))
	if _, moved := refusal(err); !moved {
		require.NoError(t, err)
	}
}

// awaitTries waits until a step, or compensation, has been tried as often as the cell needs.
func (c *cell) awaitTries(t *testing.T, step string) {
	t.Helper()
	until(t, fmt.Sprintf("%d tries of %s", c.tries(), step), func(ctx context.Context) error {
		var n int
		err := c.orchestrator.QueryRow(ctx, `SELECT count(*) FROM entries WHERE key = $1 AND step = $2 AND kind = 'attempt'`, c.id, step).Scan(&n)
		if err == nil && n < c.tries() {
			err = fmt.Errorf("it was tried %d times", n)
		}
		return err
	})
}

// requireKept demands that the wish is kept, with who had it, why, and what became of it.
func (c *cell) requireKept(t *testing.T, met string) {
	t.Helper()
	if c.verb == nothing {
		return
	}
	outcomes := c.outcomes(t)
	require.NotEmpty(t, outcomes, "the wish is not kept")
	for _, outcome := range outcomes {
		kept := strings.HasPrefix(outcome, "refused") || outcome == "too-late"
		require.Equal(t, strings.HasPrefix(met, refused), kept, "the wish is kept as %s", outcome)
	}
}

// outcomes are what became of the cell's wishes, as they are kept.
func (c *cell) outcomes(t *testing.T) []string {
	t.Helper()
	const query = `SELECT outcome FROM commands WHERE key = $1 AND actor = $2 AND reason = $3`
	rows, err := c.orchestrator.Query(t.Context(), query, c.id, actor, c.reason)
	require.NoError(t, err)
	outcomes, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return outcomes
}

// requireTriedAtOnce demands that the wait was ended by the wish, where it would have been long.
func (c *cell) requireTriedAtOnce(t *testing.T, before *checkoutv1.Checkout, asked time.Time) {
	t.Helper()
	if before.Attention == nil || before.Attention.Next == nil {
		return
	}
	due := before.Attention.Next.AsTime()
	if due.Sub(asked) < 5*time.Second {
		return
	}
	var tried time.Time
	const query = `SELECT coalesce(min(at), 'infinity') FROM entries WHERE key = $1 AND step = $2 AND kind = 'attempt' AND at > $3`
	err := c.orchestrator.QueryRow(t.Context(), query, c.id, c.state.step, asked).Scan(&tried)
	require.NoError(t, err)
	require.Less(t, tried, due, "it was tried when it was due, not at once")
}

func (c *cell) vouches() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table.vouched = append(c.table.vouched, c.id)
}

// endOf tells how a checkout ended.
func endOf(ended *checkoutv1.Checkout) string {
	return strings.TrimSpace(status(ended.Status) + " " + ended.ReasonCode)
}

func status(s checkoutv1.Status) string { return strings.TrimPrefix(s.String(), "STATUS_") }

var errNotYet = errors.New("not yet")
