package store

import (
	"sync"
	"time"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

const (
	// passLasts is how long a pass that was handed out ahead of its attempt is good. It is as a fence that was asked so long before its
	// participant is called: what happens in between is seen when the outcome is recorded.
	passLasts = time.Second
	// maxPasses bounds how many wait for their attempts.
	maxPasses = 4096
)

// passes are those that were handed out with the outcome of the step before, for attempts that this process is likely to make next.
type passes struct {
	mu     sync.Mutex
	bySaga map[saga.ID]given
}

type given struct {
	to   journal.Attempt
	pass journal.Pass
	at   time.Time
}

func (p *passes) give(to journal.Attempt, pass journal.Pass) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.bySaga {
		if len(p.bySaga) < maxPasses {
			break
		}
		delete(p.bySaga, id) // Any of them: its attempt asks the fence.
	}
	p.bySaga[to.Saga()] = given{to, pass, time.Now()}
}

// take is the pass of the attempt, if it is the one to which one was given.
func (p *passes) take(a journal.Attempt) (journal.Pass, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g, has := p.bySaga[a.Saga()]
	delete(p.bySaga, a.Saga())
	same := a.Run == g.to.Run && a.Step == g.to.Step && a.Undo == g.to.Undo && a.Round == g.to.Round && a.HeldBack == ""
	return g.pass, has && same && time.Since(g.at) < passLasts
}

// drop takes back what was given for a saga that has changed since.
func (p *passes) drop(id saga.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.bySaga, id)
}
