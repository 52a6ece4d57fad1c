package participanttest

// The rules that need a fault: answers that are lost, callers that hang up, commits that fail, a participant that is killed.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
)

func lostAnswer(t *trial) {
	var lost atomic.Int32
	calls := []Call{t.doing(Lost)}
	if t.Undo != nil {
		calls = append(calls, t.Undo)
	}
	t.tryEach(3, Lost, func(order string) error {
		for _, call := range calls {
			if r, err := t.once(order, call); err != nil || r.GetOutcome() == unknown {
				lost.Add(1)
			}
			if _, err := t.expect(applied, order, call); err != nil {
				return err
			}
			if err := t.agree(order); err != nil {
				return err
			}
		}
		return nil
	})
	t.note("%d answers were lost", lost.Load())
	if lost.Load() == 0 {
		t.moot = "no answer was lost"
	}
}

// once asks once, for as long as the kit has patience.
func (t *trial) once(order string, call Call) (*operationv1.Result, error) {
	ctx, cancel := context.WithTimeout(t.ctx, t.Patience)
	defer cancel()
	return call(ctx, order)
}

func undoUnknown(t *trial) {
	var unknowns atomic.Int32
	t.tryEach(3, Lost, func(order string) error {
		if r, err := t.once(order, t.doing(Lost)); err != nil || r.GetOutcome() == unknown {
			unknowns.Add(1)
		}
		if _, err := t.expect(applied, order, t.Undo); err != nil {
			return err
		}
		return t.agree(order)
	})
	t.note("of %d the outcome was not known", unknowns.Load())
	if unknowns.Load() == 0 {
		t.moot = "no outcome was unknown when it was undone"
	}
}

// leftStarted lets an answer get lost, kills the participant once it is seen to have started, and then asks for nothing.
func leftStarted(t *trial) {
	orders := t.prepared(3, Lost)
	started := t.leaveStarted(orders, t.doing(Lost), func(op *operationv1.Operation) bool { return op.Do == unknown })
	if started > 0 && t.Undo != nil && !t.hopeless() {
		started += t.leaveStarted(orders, t.Undo, func(op *operationv1.Operation) bool { return op.Undo == unknown })
	}
	how := "left alone"
	if t.Crash != nil {
		how = "killed"
	}
	t.note("%d were seen to be started when the participant was %s", started, how)
	if started == 0 {
		t.moot = "nothing was seen to be started"
	}
}

func (t *trial) leaveStarted(orders []string, call Call, isStarted func(*operationv1.Operation) bool) (started int) {
	var asking sync.WaitGroup
	var seen atomic.Int32
	t.each(orders, func(order string) error {
		answered := make(chan struct{})
		asking.Go(func() {
			defer close(answered)
			_, _ = t.once(order, call) // What it says does not matter: it is to be cut off.
		})
		for {
			// Asked before the look, so that an answer ends the watch only after a last look.
			over := isClosed(answered)
			op, err := t.recorded(order)
			if err != nil {
				return err
			}
			if isStarted(op) {
				seen.Add(1)
				return nil
			}
			if over || !wait(t.ctx, time.Millisecond) {
				return nil
			}
		}
	})
	if t.Crash != nil && !t.killAndStart() {
		return int(seen.Load())
	}
	asking.Wait()
	t.each(orders, t.settles)
	return int(seen.Load())
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (t *trial) killAndStart() bool {
	err := t.Crash(t.ctx)
	if err == nil {
		err = t.Restart(t.ctx)
	}
	if err != nil {
		t.fail(fmt.Errorf("kill and start again: %w", err))
	}
	return err == nil
}

// hungUp ends calls at a random moment. It needs nothing of the participant: every one meets callers that are gone. It learns how
// long calls take, so that it cuts off about half of them.
func hungUp(t *trial) {
	var longest, cut, calls, inEffect atomic.Int64
	longest.Store(int64(10 * time.Millisecond))
	hangUp := func(order string, call Call) (hungUp bool) {
		last := longest.Load()
		ctx, cancel := context.WithTimeout(t.ctx, time.Duration(rand.N(last)))
		defer cancel()
		calls.Add(1)
		if _, err := call(ctx, order); err != nil {
			longest.CompareAndSwap(last, last*5/4)
			cut.Add(1)
			return true
		}
		longest.CompareAndSwap(last, max(last*4/5, int64(time.Microsecond)))
		return false
	}
	t.tryEach(120, Plain, func(order string) error {
		hung := hangUp(order, t.doing(Plain))
		if err := t.settles(order); err != nil {
			return err
		}
		if hung && t.inState(order, t.Done) == nil {
			inEffect.Add(1)
		}
		if t.Undo != nil && rand.N(2) == 0 {
			hangUp(order, t.Undo)
			if err := t.settles(order); err != nil {
				return fmt.Errorf("undoing: %w", err)
			}
			if _, err := t.expect(applied, order, t.Undo); err != nil {
				return err
			}
		}
		if _, err := t.known(order, t.doing(Plain)); err != nil {
			return err
		}
		return t.agree(order)
	})
	t.note("%d of %d calls were cut off, of %d doings the effect was in place all the same", cut.Load(), calls.Load(), inEffect.Load())
	if cut.Load() == 0 {
		t.moot = "no call noticed that its caller had hung up"
	}
}

// failedCommit breaks the transaction that records an outcome, and looks at what was done outside of it.
func failedCommit(t *trial) {
	t.whileCommitsFail(t.prepared(3, Plain), t.doing(Plain), t.None)
	if t.Undo == nil || t.hopeless() {
		return
	}
	orders := t.prepared(3, Plain)
	t.each(orders, func(order string) error {
		_, err := t.expect(applied, order, t.doing(Plain))
		return err
	})
	t.whileCommitsFail(orders, t.Undo, t.Done)
}

func (t *trial) whileCommitsFail(orders []string, call Call, state string) {
	mend, err := t.FailCommits(t.ctx)
	if err != nil {
		t.fail(fmt.Errorf("make commits fail: %w", err))
		return
	}
	t.each(orders, func(order string) error {
		if r, err := t.once(order, call); err == nil && r.GetOutcome() != unknown {
			return fmt.Errorf("answered %s though that could not be recorded", say(r.GetOutcome()))
		}
		if err := t.inState(order, state); err != nil {
			return fmt.Errorf("while nothing could be recorded: %w", err)
		}
		return nil
	})
	if err := mend(context.WithoutCancel(t.ctx)); err != nil {
		t.fail(fmt.Errorf("mend commits: %w", err))
		return
	}
	t.each(orders, func(order string) error {
		if _, err := t.expect(applied, order, call); err != nil {
			return err
		}
		return t.agree(order)
	})
}

// killed kills the participant while it works on many orders, a few times, until enough calls were cut off. Then it asks for
// nothing until all agrees. At last it repeats every request.
func killed(t *trial) {
	const (
		perKill = 24
		minimum = 8  // kills
		maximum = 20 // kills
		cutOff  = 80 // calls
	)
	var mu sync.Mutex
	done, undone := map[string]operationv1.Outcome{}, map[string]operationv1.Outcome{} // as answered before a kill
	var touched, toUndo []string
	cut, kills := 0, 0
	for ; kills < maximum && (kills < minimum || cut < cutOff) && !t.hopeless(); kills++ {
		var dead atomic.Bool
		var work sync.WaitGroup
		answers := make(chan struct{}, 2*perKill)
		ask := func(order string, call Call, answered map[string]operationv1.Outcome) {
			r, err := t.once(order, call)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				cut++
			case r.GetOutcome() != unknown:
				answered[order] = r.GetOutcome()
			}
			answers <- struct{}{}
		}
		queue := make(chan string, perKill)
		orders := t.prepared(perKill, Plain)
		for _, order := range orders {
			queue <- order
		}
		close(queue)
		for range atOnce {
			work.Go(func() {
				for order := range queue {
					if dead.Load() {
						return
					}
					alsoUndo := t.Undo != nil && rand.N(2) == 0
					mu.Lock()
					touched = append(touched, order)
					if alsoUndo {
						toUndo = append(toUndo, order)
					}
					mu.Unlock()
					var both sync.WaitGroup
					both.Go(func() { ask(order, t.doing(Plain), done) })
					if alsoUndo {
						both.Go(func() { ask(order, t.Undo, undone) })
					}
					both.Wait()
				}
			})
		}
		if len(orders) > 0 {
			for range rand.N(len(orders)) {
				<-answers
			}
		}
		dead.Store(true)
		if err := t.Crash(t.ctx); err != nil {
			t.fail(fmt.Errorf("crash: %w", err))
		}
		work.Wait()
		if err := t.Restart(t.ctx); err != nil {
			t.fail(fmt.Errorf("start again: %w", err))
			return
		}
	}
	var started atomic.Int32
	t.each(touched, func(order string) error {
		if op, err := t.recorded(order); err == nil && (op.Do == unknown || op.Undo == unknown) {
			started.Add(1)
		}
		if err := t.settles(order); err != nil {
			return err
		}
		op, err := t.recorded(order)
		if err != nil {
			return err
		}
		if was, answered := done[order]; answered && op.Do != was {
			return fmt.Errorf("doing was answered %s before the kill, and is recorded as %s", say(was), say(op.Do))
		}
		if was, answered := undone[order]; answered && op.Undo != was {
			return fmt.Errorf("undoing was answered %s before the kill, and is recorded as %s", say(was), say(op.Undo))
		}
		if slices.Contains(toUndo, order) {
			if _, err := t.expect(applied, order, t.Undo); err != nil {
				return err
			}
		}
		if _, err := t.known(order, t.doing(Plain)); err != nil {
			return err
		}
		if err := t.agree(order); err != nil {
			return fmt.Errorf("after asking again: %w", err)
		}
		return nil
	})
	t.note("killed %d times; %d calls were cut off", kills, cut)
	if t.Outer != nil {
		t.note("%d operations were found started", started.Load())
	}
	if cut == 0 {
		t.moot = "no call was cut off"
	}
}

func firstOf(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
