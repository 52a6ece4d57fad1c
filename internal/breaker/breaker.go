// Package breaker keeps callers away from a participant that answers nobody, and wakes what waits for it once it answers again. So
// one participant that is down is one alarm, not one for each saga that needs it. It knows participants by name, not what they are
// asked for. Each process finds out for itself.
//
// It is no library because libraries count calls and let callers find out whether to close: one poison order that is tried again
// and again opens them. Here different subjects are counted, and a prober asks.
package breaker

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/pause"
)

const (
	// enough is how many different subjects in a row must get no answer before their participant is held back. Fewer, and a few
	// poison orders keep it from all others.
	enough = 5
	// patience is how long nobody must have got an answer by then. A shorter gap is a restart, not an outage.
	patience = 2 * time.Second

	// probePause is how often a participant that is held back is asked, and probeBudget bounds each question.
	probePause  = time.Second
	probeBudget = 2 * time.Second
	// wakePause is the pause before waking is tried again.
	wakePause = time.Second

	// A participant may answer the prober and nobody else. If all that waits were woken each time, it would run into it every few
	// seconds. So where no call was answered since the last closing, the prober waits for doubted, then for twice as long, up to
	// mostDoubted. A healthy participant may stay held back for that long, and I8 leaves 10 s.
	doubted     = 2 * time.Second
	mostDoubted = 8 * time.Second
)

// Config is what Breakers are made of.
type Config struct {
	// Participants are the names of those that can be held back.
	Participants []string
	// Probe asks a participant something cheap. An error means that it has not answered.
	Probe func(ctx context.Context, participant string) error
	// Wake wakes all that waits for a participant. It is tried until it succeeds, so it must bear repeats. ctx ends when the
	// participant is held back again; after that comes another call.
	Wake func(ctx context.Context, participant string) error
	Log  *slog.Logger
}

// Breakers hold back the participants of one process. Their methods may be called from many goroutines.
type Breakers struct {
	names []string
	of    map[string]*breaker
}

// New returns breakers that hold nobody back. Run has to run for one that opens to close again.
func New(config Config) *Breakers {
	b := &Breakers{names: config.Participants, of: make(map[string]*breaker)}
	for _, name := range config.Participants {
		b.of[name] = &breaker{
			name: name, config: config, missed: make(map[string]bool), believed: true,
			opened: make(chan struct{}, 1), stopWaking: func() {},
		}
	}
	return b
}

// HeldBack says why a participant is not to be called now; empty if it may be called. The sentence stays the same as long as it is
// held back. A participant that Config does not name is never held back.
func (b *Breakers) HeldBack(participant string) string {
	if one := b.of[participant]; one != nil {
		return one.heldBack()
	}
	return ""
}

// Answered takes note of a call that the participant answered, whatever it said.
func (b *Breakers) Answered(participant string) {
	if one := b.of[participant]; one != nil {
		one.answered()
	}
}

// Unanswered takes note of a call on behalf of a subject, such as an order, that got no answer.
func (b *Breakers) Unanswered(participant, subject string, err error) {
	if one := b.of[participant]; one != nil {
		one.unanswered(subject, err)
	}
}

// State is the state of one participant.
type State struct {
	Participant string
	// HeldBack is what HeldBack says; empty if it may be called.
	HeldBack string
	// Since is when it began that nobody gets an answer, and LastError what they and the prober got instead. Both are set while it
	// is held back.
	Since     time.Time
	LastError string
	// Opened counts how often it was held back since the process began.
	Opened int
}

// States are the states of all participants, in the order of Config.
func (b *Breakers) States() []State {
	states := make([]State, len(b.names))
	for i, name := range b.names {
		states[i] = b.of[name].state()
	}
	return states
}

// Run asks those that are held back and wakes what waits for them, until ctx ends.
func (b *Breakers) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, one := range b.of {
		all.Go(func() { one.run(ctx) })
	}
	all.Wait()
}

// breaker is that of one participant.
type breaker struct {
	name   string
	config Config
	// opened has a token for run when it opens. It closes only after run took that, so there is always room.
	opened chan struct{}

	mu sync.Mutex
	// missed are the subjects, at most enough of them, that got no answer since the last answer; since is when the first got none.
	missed    map[string]bool
	since     time.Time
	lastError string

	// why is empty while it is closed.
	why   string
	times int
	// believed says that a call was answered since it last closed. If none was, the prober waits for doubt.
	believed bool
	doubt    time.Duration
	// stopWaking ends the waking that began when it last closed.
	stopWaking context.CancelFunc
}

func (b *breaker) heldBack() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.why
}

func (b *breaker) state() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := State{Participant: b.name, HeldBack: b.why, Opened: b.times}
	if b.why != "" {
		s.Since, s.LastError = b.since, b.lastError
	}
	return s
}

// answered leaves an open breaker to the prober: the call may have begun long ago.
func (b *breaker) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.why == "" {
		clear(b.missed)
		b.believed = true
	}
}

func (b *breaker) unanswered(subject string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastError = err.Error()
	if b.why != "" {
		return
	}
	now := time.Now()
	if len(b.missed) == 0 {
		b.since = now
	}
	if len(b.missed) < enough {
		b.missed[subject] = true
	}
	if len(b.missed) == enough && now.Sub(b.since) >= patience {
		b.open()
	}
}

// open is called with the lock held.
func (b *breaker) open() {
	b.why = fmt.Sprintf("%s has not answered since %s", b.name, b.since.UTC().Format("15:04:05Z"))
	b.times++
	b.doubt = min(max(doubted, 2*b.doubt), mostDoubted)
	if b.believed {
		b.doubt = 0
	}
	b.stopWaking()
	b.opened <- struct{}{}
	b.config.Log.Error("participant is held back: nobody gets an answer", "participant", b.name, "since", b.since.UTC(), "error", b.lastError)
}

// close returns the context of the waking that follows.
func (b *breaker) close(ctx context.Context) context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.config.Log.Info("participant answers again", "participant", b.name, "after", time.Since(b.since).Round(time.Millisecond))
	b.why, b.lastError, b.believed = "", "", false
	clear(b.missed)
	ctx, b.stopWaking = context.WithCancel(ctx)
	return ctx
}

func (b *breaker) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.opened:
		}
		if !b.probe(ctx) {
			return
		}
		b.wake(b.close(ctx))
	}
}

// probe asks until there is an answer, and says whether there was one.
func (b *breaker) probe(ctx context.Context) bool {
	b.mu.Lock()
	between := max(b.doubt, probePause)
	b.mu.Unlock()
	for pause.For(ctx, between) {
		err := b.ask(ctx)
		if err == nil {
			return true
		}
		b.mu.Lock()
		b.lastError = err.Error()
		b.mu.Unlock()
		between = probePause
	}
	return false
}

func (b *breaker) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeBudget)
	defer cancel()
	return b.config.Probe(ctx, b.name)
}

// wake tries until it succeeds or its context ends.
func (b *breaker) wake(ctx context.Context) {
	told := false
	for {
		err := b.config.Wake(ctx, b.name)
		if err == nil || ctx.Err() != nil {
			return
		}
		if !told {
			b.config.Log.Warn("what waits for a participant cannot be woken, and is tried again", "participant", b.name, "error", err)
			told = true
		}
		if !pause.For(ctx, wakePause) {
			return
		}
	}
}
