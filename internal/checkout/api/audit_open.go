package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/sagas/runs"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// An open checkout promises little: that somebody is at work on it or is called for, and that no other money was taken than it knows
// of. All of it changes while it is looked at, so what looks wrong must look so again, with nothing written in between.

const (
	// hangsAfter is when an open checkout in which nothing is written, and which calls for nobody, counts as lost: far
	// longer than the sweeper waits, far longer than a run backs off before it calls for a person.
	hangsAfter = 10 * time.Minute
	// startsWithin is how long it may take from the acceptance of an orchestrated checkout until its engine has begun it. The
	// sweeper tries every few seconds.
	startsWithin = time.Minute
	// openAgain is what lies at least between the two looks at an open checkout: longer than any write of it takes that is under
	// way, such as the last activity's, whose run has ended and whose row has not.
	openAgain = 3 * time.Second
	// inspectTimeout bounds one question to the engine, inspectAtOnce how many are out at a time. After inspectFailures that were
	// not answered no more are asked.
	inspectTimeout, inspectAtOnce, inspectFailures = 3 * time.Second, 8, 5
)

// deaf are questions that the engine did not answer.
type deaf struct {
	mu      sync.Mutex
	runs    int
	because error
}

func (d *deaf) add(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.runs++
	if err != nil {
		d.because = err
	}
}

func (d *deaf) gaveUp() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.runs >= inspectFailures
}

// noteEngines notes of which open checkouts it is not known whether somebody is at work on them.
func (a *audit) noteEngines() {
	for _, name := range slices.Sorted(maps.Keys(a.elsewhere)) {
		a.note("engine "+name, "%d open checkouts are driven by engine %s, which only a process that runs on it can ask for their runs", a.elsewhere[name], name)
	}
	if a.deaf.runs > 0 {
		a.note("engine", "engine %s cannot be asked for the runs of %d open checkouts (%v), so nothing is said of those", a.engine.Name(), a.deaf.runs, a.deaf.because)
	}
}

// suspect is an open checkout in which something looks wrong.
type suspect struct {
	store.Open
	found []finding
}

// lookAtOpen looks at all open checkouts.
func (a *audit) lookAtOpen(ctx context.Context) error {
	var suspects []suspect
	for after := ""; ; {
		page, err := a.store.Open(ctx, checkout.Definition, after, auditPage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		after = page[len(page)-1].Key
		found, err := a.suspectsOf(ctx, page)
		if err != nil {
			return err
		}
		suspects = append(suspects, found...)
		a.count(page)
	}
	return a.lookAgain(ctx, suspects)
}

// compareOpen looks at some open checkouts.
func (a *audit) compareOpen(ctx context.Context, page []store.Open) error {
	suspects, err := a.suspectsOf(ctx, page)
	if err != nil {
		return err
	}
	a.count(page)
	return a.lookAgain(ctx, suspects)
}

func (a *audit) count(page []store.Open) {
	a.checked += int64(len(page))
	for _, o := range page {
		if o.Engine != a.engine.Name() {
			a.elsewhere[o.Engine]++
		}
	}
}

// lookAgain reports what still looks wrong a little later.
func (a *audit) lookAgain(ctx context.Context, suspects []suspect) error {
	if len(suspects) == 0 {
		return a.report(nil)
	}
	if err := rest(ctx, openAgain); err != nil {
		return err
	}
	for some := range slices.Chunk(suspects, auditPage) {
		if err := a.confirm(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

func (a *audit) confirm(ctx context.Context, suspects []suspect) error {
	before := make(map[string]suspect, len(suspects))
	for _, s := range suspects {
		before[s.Key] = s
	}
	page, err := a.store.OpenOf(ctx, checkout.Definition, slices.Collect(maps.Keys(before)))
	if err != nil {
		return err
	}
	still, err := a.suspectsOf(ctx, page)
	if err != nil {
		return err
	}
	for _, s := range still {
		was := before[s.Key]
		s.found = slices.DeleteFunc(s.found, func(f finding) bool { return !f.confirms(was, s.Open) })
		if err := a.report(violationsOf(s.Key, string(s.Status), s.found)); err != nil {
			return err
		}
	}
	for _, o := range page {
		delete(before, o.Key)
	}
	// What has ended since was compared with its end, or not at all: its page may have been before.
	ended, err := a.kept(ctx, slices.Collect(maps.Keys(before)))
	if err != nil {
		return err
	}
	a.checked -= int64(len(ended)) // They were counted.
	return a.comparePage(ctx, slices.Collect(maps.Values(ended)))
}

// confirms tells whether a finding of a second look confirms one of the first: what is wrong with the money was so then too, and in
// a checkout that nobody is at work on nothing was written since.
func (f finding) confirms(was suspect, is store.Open) bool {
	same := slices.ContainsFunc(was.found, func(first finding) bool { return first.invariant == f.invariant })
	if f.invariant != invariantEndsSeen {
		return same
	}
	// A run that does not start is tried again and again, which is written.
	return same && is.Run == was.Run && (is.UpdatedAt.Equal(was.UpdatedAt) || is.StartedRun == 0)
}

// suspectsOf tells what looks wrong in open checkouts.
func (a *audit) suspectsOf(ctx context.Context, page []store.Open) ([]suspect, error) {
	var ids []string
	for _, o := range page {
		ids = append(ids, o.Key)
	}
	if len(ids) == 0 {
		return nil, nil
	}
	payments, err := a.records(ctx, checkout.Payment, ids)
	if err != nil {
		return nil, err
	}
	lost, err := a.lostRuns(ctx, page)
	if err != nil {
		return nil, err
	}
	var suspects []suspect
	for i, o := range page {
		var found []finding
		switch {
		case lost[i] != "":
			found = append(found, finding{invariant: invariantEndsSeen, what: fmt.Sprintf("is %s, but %s; the sweeper looks at it at %s",
				o.Status, lost[i], o.CheckAt.UTC().Format(time.RFC3339))})
		case hangs(o):
			found = append(found, finding{invariant: invariantEndsSeen, what: fmt.Sprintf("is %s in phase %s, and nothing has been written since %s",
				o.Status, o.Phase, o.UpdatedAt.UTC().Format(time.RFC3339))})
		}
		if what := takenWrongly(o, payments[o.Key][checkout.CapturePayment]); what != "" {
			found = append(found, finding{invariant: invariantAgrees, what: what})
		}
		if len(found) > 0 {
			suspects = append(suspects, suspect{Open: o, found: found})
		}
	}
	return suspects, nil
}

// hangs tells whether nothing has happened for too long in a checkout that calls for nobody.
func hangs(o store.Open) bool {
	since := o.UpdatedAt
	later := func(t time.Time) {
		if t.After(since) {
			since = t
		}
	}
	if o.Elsewhere {
		later(o.CheckAt) // It is left to its events until its time to be looked at.
	}
	if o.Status == journal.AwaitingApproval && o.ApprovalDeadline != nil {
		later(*o.ApprovalDeadline) // An operator may take all that time.
	}
	return o.Status != journal.NeedsAttention && o.Now.Sub(since) > hangsAfter
}

// takenWrongly tells what is wrong with the money that was taken for an open checkout; empty if nothing is.
func takenWrongly(o store.Open, capture *operationv1.Operation) string {
	switch {
	case !stands(capture):
		return ""
	case moneyOf(capture) != o.Money:
		return fmt.Sprintf("payment has captured %s and the order is for %s", inWords(moneyOf(capture)), inWords(o.Money))
	// Nobody may be asked to capture before the pivot. In a choreographed checkout the event that tells of it is on its way.
	case o.Phase == saga.Forward && !o.Elsewhere:
		return fmt.Sprintf("payment has captured %s while it is in phase %s", inWords(moneyOf(capture)), o.Phase)
	}
	return ""
}

// lostRuns tells, for each of some open checkouts, why the engine will not go on with its run; empty if it will, if no run is to
// drive it now, or if that cannot be known.
func (a *audit) lostRuns(ctx context.Context, page []store.Open) ([]string, error) {
	lost := make([]string, len(page))
	asking, askCtx := errgroup.WithContext(ctx)
	asking.SetLimit(inspectAtOnce)
	for i, o := range page {
		if o.Engine != a.engine.Name() || !wantsRun(o) {
			continue
		}
		asking.Go(func() (err error) {
			lost[i], err = a.lostRun(askCtx, o)
			return err
		})
	}
	return lost, asking.Wait()
}

// wantsRun tells whether a run of an open checkout must be there.
func wantsRun(o store.Open) bool {
	switch {
	case o.Attention == journal.AttentionStopped, o.Attention == journal.AttentionNoProgress:
		return false // Somebody is called because of that already.
	case o.Elsewhere:
		// Its events drive it, and once it is captured again, when the run that was to undo it has ended.
		return o.StartedRun >= o.Run && o.Phase == saga.Undoing
	case o.StartedRun == 0:
		return o.Now.Sub(o.StartedAt) > startsWithin
	}
	return o.StartedRun >= o.Run // Else the sweeper is about to start it.
}

func (a *audit) lostRun(ctx context.Context, o store.Open) (string, error) {
	if a.deaf.gaveUp() {
		a.deaf.add(nil)
		return "", nil
	}
	id, name := runs.ID(o.ID, o.Run), a.engine.Name()
	instance, err := within(ctx, inspectTimeout, func(ctx context.Context) (engine.Instance, error) { return a.engine.Inspect(ctx, id) })
	switch {
	case errors.Is(err, engine.ErrGone) && o.StartedRun == 0:
		return fmt.Sprintf("engine %s has not begun its run %d (%s), although it was accepted %s ago", name, o.Run, id, ago(o.Now, o.StartedAt)), nil
	case errors.Is(err, engine.ErrGone):
		return fmt.Sprintf("engine %s does not know its run %d (%s)", name, o.Run, id), nil
	case err != nil && ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		a.deaf.add(err)
		return "", nil
	case instance.State == engine.Running:
		return "", nil
	case instance.Failure != "":
		return fmt.Sprintf("engine %s says that its run %d (%s) is %s: %s", name, o.Run, id, instance.State, instance.Failure), nil
	}
	return fmt.Sprintf("engine %s says that its run %d (%s) is %s", name, o.Run, id, instance.State), nil
}
