package participanttest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
)

// rules are tried in this order: those that break the participant for a while come last.
var rules = []rule{
	{"rule 1, I2", "the same again returns the recorded outcome and applies nothing twice", nothing, sameAgain},
	{"rule 1, I2", "32 of the same at once apply once", nothing, manyAtOnce},
	{"rule 1, I2", "undoing again undoes nothing twice", anUndo, undoAgain},
	{"rule 1, I2", "16 undoings at once undo once", anUndo, undoAtOnce},
	{"rule 2", "the same key with other content is a conflict and applies nothing", variant(Other), otherContent},
	{"rule 2", "of two contents at once one is done and the other is a conflict", variant(Other), otherAtOnce},
	{"rule 3", "undone before it arrived, the late step is refused", anUndo, undoFirst},
	{"rule 3, I2", "doing and undoing at once leaves nothing in place", anUndo, bothAtOnce},
	{"rule 4", "undoing what was rejected is done and applies nothing", variant(Refused), undoRejected},
	{"rule 5", "what happened can be asked by key", nothing, askByKey},
	{"I2", "a lost answer of the outer system is learnt by asking it again with the same key", variant(Lost), lostAnswer},
	{"rule 3, I2", "undone while the outcome is not known, nothing stays in place", both(variant(Lost), anUndo), undoUnknown},
	{"I8", "what a crash left started comes to its end though nobody asks", variant(Lost), leftStarted},
	{"I2, I8", "a caller that hangs up finds the effect with its record, or neither", nothing, hungUp},
	{"I2, I8", "a commit that fails leaves neither the effect nor its record", failingCommits, failedCommit},
	{"I2, I8", "killed in the middle of work, it has the effect with its record, or neither", aCrash, killed},
}

func nothing(Adapter) string { return "" }

func anUndo(a Adapter) string {
	if a.Undo == nil {
		return "nothing undoes this step"
	}
	return ""
}

func variant(v Variant) func(Adapter) string {
	return func(a Adapter) string {
		if !a.offers(v) {
			return fmt.Sprintf("the adapter offers no variant %s", v)
		}
		return ""
	}
}

func failingCommits(a Adapter) string {
	if a.FailCommits == nil {
		return "the adapter offers no FailCommits"
	}
	return ""
}

func aCrash(a Adapter) string {
	if a.Crash == nil {
		return "the adapter offers no Crash and Restart"
	}
	return ""
}

func both(one, other func(Adapter) string) func(Adapter) string {
	return func(a Adapter) string {
		if lacks := one(a); lacks != "" {
			return lacks
		}
		return other(a)
	}
}

func sameAgain(t *trial) {
	t.tryEach(5, Plain, func(order string) error {
		first, err := t.expect(applied, order, t.doing(Plain))
		if err != nil {
			return err
		}
		if err := t.inState(order, t.Done); err != nil {
			return err
		}
		if err := t.same(3, first, order, t.doing(Plain)); err != nil {
			return err
		}
		return t.agree(order)
	})
}

func manyAtOnce(t *trial) {
	t.tryEach(5, Plain, func(order string) error {
		if err := t.atOnce(32, order, t.doing(Plain)); err != nil {
			return err
		}
		return t.agree(order)
	})
}

// atOnce asks that many times at once and wants applied as every answer.
func (t *trial) atOnce(times int, order string, call Call) error {
	var all sync.WaitGroup
	errs := make([]error, times)
	for i := range times {
		all.Go(func() { _, errs[i] = t.expect(applied, order, call) })
	}
	all.Wait()
	return firstOf(errs)
}

func undoAgain(t *trial) {
	t.tryEach(5, Plain, func(order string) error {
		if _, err := t.expect(applied, order, t.doing(Plain)); err != nil {
			return err
		}
		first, err := t.expect(applied, order, t.Undo)
		if err != nil {
			return err
		}
		if first.GetReason() == unseen {
			return fmt.Errorf("undoing what was done was answered with reason %q", unseen)
		}
		if err := t.inState(order, t.Undone); err != nil {
			return err
		}
		if err := t.same(3, first, order, t.Undo); err != nil {
			return err
		}
		if err := t.agree(order); err != nil {
			return fmt.Errorf("after undoing 4 times: %w", err)
		}
		if _, err := t.expect(applied, order, t.doing(Plain)); err != nil {
			return fmt.Errorf("doing it again must still tell that it was done, and do nothing: %w", err)
		}
		return t.agree(order)
	})
}

func undoAtOnce(t *trial) {
	t.tryEach(10, Plain, func(order string) error {
		if _, err := t.expect(applied, order, t.doing(Plain)); err != nil {
			return err
		}
		if err := t.atOnce(16, order, t.Undo); err != nil {
			return err
		}
		return t.agree(order)
	})
}

func otherContent(t *trial) {
	t.tryEach(5, Plain, func(order string) error {
		first, err := t.expect(applied, order, t.doing(Plain))
		if err != nil {
			return err
		}
		if err := t.conflicts(order); err != nil {
			return err
		}
		if err := t.same(1, first, order, t.doing(Plain)); err != nil {
			return fmt.Errorf("the first content must stay the recorded one: %w", err)
		}
		return t.agree(order)
	})
}

// conflicts asks with other content and wants a conflict.
func (t *trial) conflicts(order string) error {
	r, err := t.known(order, t.doing(Other))
	if err == nil {
		return fmt.Errorf("other content was answered %s, must be a conflict (code already_exists)", say(r.GetOutcome()))
	}
	if !isConflict(err) {
		return fmt.Errorf("other content must be a conflict (code already_exists), got: %w", err)
	}
	return nil
}

func otherAtOnce(t *trial) {
	const times = 8
	var plainWon atomic.Int32
	t.tryEach(20, Plain, func(order string) error {
		var all sync.WaitGroup
		var plain, other [times]*operationv1.Result
		var plainErr, otherErr [times]error
		for _, i := range rand.Perm(2 * times) {
			if i < times {
				all.Go(func() { plain[i], plainErr[i] = t.known(order, t.doing(Plain)) })
			} else {
				all.Go(func() { other[i-times], otherErr[i-times] = t.known(order, t.doing(Other)) })
			}
		}
		all.Wait()
		plains, others := countApplied(plain[:]), countApplied(other[:])
		switch {
		case plains == times && others == 0:
			plainWon.Add(1)
			return t.agree(order)
		case others == times && plains == 0 && !slices.ContainsFunc(plainErr[:], func(err error) bool { return !isConflict(err) }):
			return nil
		default:
			return fmt.Errorf("%d requests with one content were answered as applied and %d with the other, must be all of one and none of the other; errors: %v, %v",
				plains, others, firstOf(plainErr[:]), firstOf(otherErr[:]))
		}
	})
	t.note("the one content won %d times of %d", plainWon.Load(), t.orders)
}

func countApplied(results []*operationv1.Result) (n int) {
	for _, r := range results {
		if r != nil && r.Outcome == applied {
			n++
		}
	}
	return n
}

func undoFirst(t *trial) {
	t.tryEach(5, Plain, func(order string) error {
		first, err := t.expect(applied, order, t.Undo)
		if err != nil {
			return err
		}
		// Otherwise nobody could tell a late step from one that a participant did, confirmed and lost.
		if first.GetReason() != unseen {
			return fmt.Errorf("undoing what never came was answered with reason %q, must be %q", first.GetReason(), unseen)
		}
		if err := t.records(order, notAsked, applied); err != nil {
			return fmt.Errorf("the undoing must be recorded: %w", err)
		}
		for range 2 {
			if _, err := t.expect(undoneBefore, order, t.doing(Plain)); err != nil {
				return fmt.Errorf("the late step: %w", err)
			}
			if err := t.inState(order, t.None); err != nil {
				return fmt.Errorf("after the late step: %w", err)
			}
		}
		if err := t.same(1, first, order, t.Undo); err != nil {
			return fmt.Errorf("after the late step: undoing %w", err)
		}
		if err := t.records(order, undoneBefore, applied); err != nil {
			return err
		}
		if t.offers(Other) {
			if err := t.conflicts(order); err != nil {
				return err
			}
		}
		return t.agree(order)
	})
}

func bothAtOnce(t *trial) {
	var undone, before atomic.Int32
	t.tryEach(60, Plain, func(order string) error {
		calls := []Call{t.doing(Plain), t.doing(Plain), t.Undo, t.Undo}
		rand.Shuffle(len(calls), func(i, j int) { calls[i], calls[j] = calls[j], calls[i] })
		var all sync.WaitGroup
		errs := make([]error, len(calls))
		for i, call := range calls {
			all.Go(func() { _, errs[i] = t.known(order, call) })
		}
		all.Wait()
		if err := firstOf(errs); err != nil {
			return err
		}
		if _, err := t.expect(applied, order, t.Undo); err != nil {
			return err
		}
		done, err := t.known(order, t.doing(Plain))
		if err != nil {
			return err
		}
		switch done.GetOutcome() {
		case applied:
			undone.Add(1)
		case undoneBefore:
			before.Add(1)
		default:
			return fmt.Errorf("doing ended %s", say(done.GetOutcome()))
		}
		if err := t.records(order, done.GetOutcome(), applied); err != nil {
			return err
		}
		return t.agree(order)
	})
	t.note("%d were done and undone, %d undone before they arrived", undone.Load(), before.Load())
}

func undoRejected(t *trial) {
	t.tryEach(3, Refused, func(order string) error {
		first, err := t.expect(rejected, order, t.doing(Refused))
		if err != nil {
			return err
		}
		if first.GetReason() == "" {
			return errors.New("refused without a reason")
		}
		before, err := t.State(t.ctx, order)
		if err != nil {
			return err
		}
		undone := notAsked
		if t.Undo != nil {
			r, err := t.expect(applied, order, t.Undo)
			if err != nil {
				return err
			}
			if r.GetReason() == unseen {
				return fmt.Errorf("undoing what was rejected was answered with reason %q", unseen)
			}
			undone = applied
		}
		if err := t.same(1, first, order, t.doing(Refused)); err != nil {
			return fmt.Errorf("a refusal is recorded like any outcome: %w", err)
		}
		if err := t.inState(order, before); err != nil {
			return err
		}
		if err := t.records(order, rejected, undone); err != nil {
			return err
		}
		return t.agree(order)
	})
}

func askByKey(t *trial) {
	t.tryEach(3, Plain, func(order string) error {
		if err := t.records(order, notAsked, notAsked); err != nil {
			return fmt.Errorf("before anything was asked for: %w", err)
		}
		result, err := t.expect(applied, order, t.doing(Plain))
		if err != nil {
			return err
		}
		if err := t.records(order, applied, notAsked); err != nil {
			return err
		}
		done, err := t.Get(t.ctx, order)
		if err != nil {
			return err
		}
		if done.GetReference() != result.GetReference() {
			return fmt.Errorf("recorded is reference %q, answered was %q", done.GetReference(), result.GetReference())
		}
		if done.GetCreatedAt() == nil || done.GetUpdatedAt() == nil {
			return errors.New("the operation does not tell when it was made and when it changed last")
		}
		if t.Undo == nil {
			return nil
		}
		if _, err := t.expect(applied, order, t.Undo); err != nil {
			return err
		}
		if err := t.records(order, applied, applied); err != nil {
			return err
		}
		undone, err := t.Get(t.ctx, order)
		if err != nil {
			return err
		}
		if !undone.GetUpdatedAt().AsTime().After(done.GetUpdatedAt().AsTime()) {
			return errors.New("the time of the last change stayed what it was when it was undone: nobody could list what changed")
		}
		return nil
	})
}
