// Package history tells what happened to a saga, and what each participant has on record of it.
package history

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
)

// OfSteps asks about each step of a plan that somebody does, all at once, and returns what there is in the order of the plan; nil is left
// out.
func OfSteps[R any](p saga.Plan, ask func(saga.Step) *R) []*R {
	all := make([]*R, len(p.Steps))
	var asking sync.WaitGroup
	for i, step := range p.Steps {
		if !step.Decision {
			asking.Go(func() { all[i] = ask(step) })
		}
	}
	asking.Wait()
	return slices.DeleteFunc(all, func(r *R) bool { return r == nil })
}

// Followed is a saga whose history is followed.
type Followed[E any] struct {
	Store *store.Store
	Saga  saga.ID
	// Look returns all entries that there are, and whether the saga was final before it read them.
	Look func() (all []E, final bool, err error)
	// Identity tells entries apart.
	Identity func(E) string
	// Send takes those that were not sent before.
	Send func(news []E) error
	// Again is how often it is looked at although nothing is known to have changed; Quiet is how many looks at an ended saga bring nothing
	// new before its history counts as complete.
	Again time.Duration
	Quiet int
}

// Follow sends the history as it becomes known, until the saga is final and its history complete.
func (f Followed[E]) Follow(ctx context.Context) error {
	sent := make(map[string]bool)
	quiet := 0
	return f.Store.Watch(ctx, f.Saga, store.AnyChange, f.Again, func(*store.Saga) (done bool, err error) {
		all, final, err := f.Look()
		if err != nil {
			return false, err
		}
		news := slices.DeleteFunc(all, func(e E) bool { return sent[f.Identity(e)] })
		for _, e := range news {
			sent[f.Identity(e)] = true
		}
		quiet++
		if len(news) > 0 {
			quiet = 0
			err = f.Send(news)
		}
		return final && quiet >= f.Quiet, err
	})
}
