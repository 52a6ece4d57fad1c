package participanttest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

const (
	applied      = operationv1.Outcome_OUTCOME_APPLIED
	rejected     = operationv1.Outcome_OUTCOME_REJECTED
	undoneBefore = operationv1.Outcome_OUTCOME_UNDONE_BEFORE
	unknown      = operationv1.Outcome_OUTCOME_UNKNOWN
	notAsked     = operationv1.Outcome_OUTCOME_UNSPECIFIED
)

// unseen is the reason of an undoing whose step never came.
const unseen = "unseen"

const (
	// atOnce is how many orders are tried side by side.
	atOnce = 16
	// askEvery is how long the kit waits before it asks again.
	askEvery = 10 * time.Millisecond
	// enough is how many broken orders are reported; further ones are not tried then.
	enough = 5
)

// trial is one rule being tried.
type trial struct {
	Adapter
	ctx context.Context
	run string // makes the ids of this trial's orders new

	mu       sync.Mutex
	orders   int
	broken   int
	failures []string
	notes    []string
	moot     string
}

func newTrial(ctx context.Context, a Adapter) *trial {
	if a.Patience == 0 {
		a.Patience = 30 * time.Second
	}
	return &trial{Adapter: a, ctx: ctx, run: fmt.Sprintf("kit-%08x", rand.Uint32())}
}

func (t *trial) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.broken++; t.broken <= enough {
		t.failures = append(t.failures, err.Error())
	}
}

func (t *trial) note(format string, args ...any) {
	t.notes = append(t.notes, fmt.Sprintf(format, args...))
}

func (t *trial) hopeless() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.broken >= enough || t.ctx.Err() != nil
}

// prepared makes n new orders ready for the step in a variant. Those that it could not prepare fail the rule.
func (t *trial) prepared(n int, v Variant) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s-%d", t.run, t.orders+i)
	}
	t.orders += n
	var mu sync.Mutex
	var ready []string
	t.each(ids, func(order string) error {
		if err := t.prepare(order, v); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		ready = append(ready, order)
		return nil
	})
	return ready
}

func (t *trial) prepare(order string, v Variant) error {
	if t.Prepare != nil {
		if err := t.Prepare(t.ctx, order, v); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	if v == Refused {
		return nil
	}
	return t.inState(order, t.None)
}

// each tries all orders, some at once. An order that returns an error fails the rule.
func (t *trial) each(orders []string, one func(order string) error) {
	var all sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, order := range orders {
		slots <- struct{}{}
		if t.hopeless() {
			break
		}
		all.Go(func() {
			defer func() { <-slots }()
			if err := one(order); err != nil {
				t.fail(fmt.Errorf("%s: %w", order, err))
			}
		})
	}
	all.Wait()
}

// tryEach prepares n orders and tries each.
func (t *trial) tryEach(n int, v Variant, one func(order string) error) {
	t.each(t.prepared(n, v), one)
}

// known asks until the outcome is known.
func (t *trial) known(order string, call Call) (*operationv1.Result, error) {
	ctx, cancel := context.WithTimeout(t.ctx, t.Patience)
	defer cancel()
	var last string
	for {
		switch r, err := call(ctx, order); {
		case err != nil && isFinal(err):
			return nil, err
		case err != nil:
			last = err.Error()
		case r.GetOutcome() != unknown:
			return r, nil
		default:
			last = "not known yet: " + r.GetDetail()
		}
		if !wait(ctx, askEvery) {
			return nil, fmt.Errorf("no outcome became known within %s; last: %s", t.Patience, last)
		}
	}
}

// expect asks until the outcome is known, and wants this one.
func (t *trial) expect(want operationv1.Outcome, order string, call Call) (*operationv1.Result, error) {
	r, err := t.known(order, call)
	if err != nil {
		return nil, err
	}
	if r.GetOutcome() != want {
		return nil, fmt.Errorf("answered %s, must be %s", say(r.GetOutcome()), say(want))
	}
	return r, nil
}

// same asks again, times times, and wants the recorded answer.
func (t *trial) same(times int, first *operationv1.Result, order string, call Call) error {
	for range times {
		again, err := t.known(order, call)
		if err != nil {
			return fmt.Errorf("asked again: %w", err)
		}
		if again.GetOutcome() != first.GetOutcome() || again.GetReason() != first.GetReason() || again.GetReference() != first.GetReference() {
			return fmt.Errorf("asked again it answered %s %q %q, first %s %q %q", say(again.GetOutcome()), again.GetReason(), again.GetReference(),
				say(first.GetOutcome()), first.GetReason(), first.GetReference())
		}
	}
	return nil
}

func (t *trial) inState(order, want string) error {
	is, err := t.State(t.ctx, order)
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	if is != want {
		return fmt.Errorf("in effect is %q, must be %q", is, want)
	}
	return nil
}

// recorded returns what is recorded; if nothing is known, an operation that was not asked for in either direction.
func (t *trial) recorded(order string) (*operationv1.Operation, error) {
	op, err := t.Get(t.ctx, order)
	if connect.CodeOf(err) == connect.CodeNotFound && err != nil {
		return &operationv1.Operation{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get operation: %w", err)
	}
	return op, nil
}

func (t *trial) records(order string, do, undo operationv1.Outcome) error {
	op, err := t.recorded(order)
	if err != nil {
		return err
	}
	if op.Do != do || op.Undo != undo {
		return fmt.Errorf("recorded is %s, must be do %s, undo %s", sides(op), say(do), say(undo))
	}
	return nil
}

var errUnderWay = errors.New("the outcome is still not known")

// agree compares what is recorded with what is in effect, here and in the outer system. It returns errUnderWay while nothing can be
// said.
func (t *trial) agree(order string) error {
	op, err := t.recorded(order)
	if err != nil {
		return err
	}
	var state string
	var done, undone int
	switch {
	case op.Do == unknown || op.Undo == unknown:
		return fmt.Errorf("recorded is %s: %w", sides(op), errUnderWay)
	case op.Do == undoneBefore && op.Undo != applied:
		return fmt.Errorf("recorded is %s, which cannot be", sides(op))
	case op.Do == applied && op.Undo == applied:
		state, done, undone = t.Undone, 1, 1
	case op.Do == applied:
		state, done = t.Done, 1
	default:
		state = t.None
	}
	if op.Do != rejected { // What else is in effect beside a refusal is its own affair.
		if err := t.inState(order, state); err != nil {
			return fmt.Errorf("recorded is %s, but %w", sides(op), err)
		}
	}
	if t.Outer == nil {
		return nil
	}
	effects, err := t.Outer(t.ctx, order)
	if err != nil {
		return fmt.Errorf("ask outer system: %w", err)
	}
	if err := outerIs(effects, false, done); err != nil {
		return fmt.Errorf("recorded is %s, but %w", sides(op), err)
	}
	if err := outerIs(effects, true, undone); err != nil {
		return fmt.Errorf("recorded is %s, but %w", sides(op), err)
	}
	return nil
}

func outerIs(effects []OuterEffect, undoes bool, want int) error {
	var keys []string
	for _, e := range effects {
		if e.Undoes == undoes {
			keys = append(keys, e.Key)
		}
	}
	if len(keys) == want {
		return nil
	}
	what := "did"
	if undoes {
		what = "undid"
	}
	slices.Sort(keys)
	return fmt.Errorf("the outer system %s it %d times, not %d; by %d different keys: %s", what, len(keys), want,
		len(slices.Compact(slices.Clone(keys))), strings.Join(keys, ", "))
}

// settles waits, without asking, until what is recorded and what is in effect agree.
func (t *trial) settles(order string) error {
	ctx, cancel := context.WithTimeout(t.ctx, t.Patience)
	defer cancel()
	for {
		err := t.agree(order)
		if err == nil {
			return nil
		}
		if !wait(ctx, askEvery) {
			return fmt.Errorf("%w; it stayed so for %s with nobody asking", err, t.Patience)
		}
	}
}

// wait waits, and tells whether ctx goes on.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// isFinal tells whether asking again is no use after an error.
func isFinal(err error) bool {
	if meansNoUse(err) {
		return true
	}
	switch connect.CodeOf(err) {
	case connect.CodeAlreadyExists, connect.CodeInvalidArgument, connect.CodeFailedPrecondition, connect.CodeNotFound,
		connect.CodeUnimplemented, connect.CodePermissionDenied, connect.CodeUnauthenticated, connect.CodeOutOfRange:
		return true
	default:
		return false
	}
}

func isConflict(err error) bool {
	return errors.Is(err, participant.ErrConflict) || err != nil && connect.CodeOf(err) == connect.CodeAlreadyExists
}

func sides(op *operationv1.Operation) string {
	return "do " + say(op.GetDo()) + ", undo " + say(op.GetUndo())
}

// say names an outcome for people.
func say(o operationv1.Outcome) string {
	if o == notAsked {
		return "not asked"
	}
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(o.String(), "OUTCOME_")), "_", " ")
}
