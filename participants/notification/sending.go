package notification

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// atOnce bounds the messages that one process has in hand, so that a slow one does not hold up the others. In hand are those that
	// were claimed and are not stored as sent: so many may be sent again after a crash, and no more.
	atOnce = 8
	// recordTimeout bounds claiming, and storing the outcome of an attempt, which go on when the process stops.
	recordTimeout = 5 * time.Second
)

// Run sends what is due until ctx ends, and returns when what is in hand is done. Any number of processes may share the
// database.
func (s *Service) Run(ctx context.Context) error {
	var all errgroup.Group
	all.Go(func() error { s.sendAll(ctx); return nil })
	all.Go(func() error { s.look(ctx); return nil })
	return all.Wait()
}

// look has the sender look now and then, for what is to be tried again and for what a crash left.
func (s *Service) look(ctx context.Context) {
	tick := time.NewTicker(s.pace.look)
	defer tick.Stop()
	for {
		switch left, err := s.store.giveUpCutOff(ctx, s.pace); {
		case err != nil && ctx.Err() == nil:
			s.log.Warn("what is due could not be read; it is tried again", "error", err)
		case left > 0:
			s.log.Error("gave up notifications that a crash had left in hand", "notifications", left)
		}
		s.wake()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// wake makes the sender look for something to send.
func (s *Service) wake() {
	select {
	case s.due <- struct{}{}:
	default:
	}
}

// sendAll sends what is due, side by side. While one transaction stores what was sent and claims what comes next, other messages are
// being sent; what came of all of them is the next transaction.
func (s *Service) sendAll(ctx context.Context) {
	ended := make(chan attempted, atOnce)
	inHand, stop := 0, ctx.Done()
	var sent []string
	take := func(a attempted) {
		inHand--
		if a.sent {
			sent = append(sent, a.eventID)
		}
	}
	for {
		places := atOnce - inHand
		if ctx.Err() != nil {
			places = 0
		}
		for _, n := range s.turn(ctx, sent, places) {
			inHand++
			go func() { ended <- s.attempt(ctx, n) }()
		}
		sent = nil
		if ctx.Err() != nil && inHand == 0 {
			return
		}
		select {
		case <-stop:
			stop = nil // Now it only waits for what is in hand.
		case <-s.due:
		case a := <-ended:
			take(a)
		}
		for len(ended) > 0 {
			take(<-ended)
		}
	}
}

// attempted is what came of an attempt.
type attempted struct {
	eventID string
	sent    bool
}

// turn stores what was sent and claims as many as there are places. It is not cut off when the process stops: nobody would have what it
// had claimed.
func (s *Service) turn(ctx context.Context, sent []string, places int) []notification {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	claimed, err := s.store.turn(ctx, s.pace, sent, places)
	switch {
	case err != nil && len(sent) > 0:
		s.log.Error("that messages were sent could not be written down; they are sent again when the lease ends", "event_ids", sent, "error", err)
	case err != nil:
		s.log.Warn("no notification could be claimed; it is tried again", "error", err)
	}
	return claimed
}

// attempt sends one message, and stores the outcome if it is not that it was sent. It goes on when the process stops.
func (s *Service) attempt(ctx context.Context, n notification) attempted {
	ctx = context.WithoutCancel(ctx)
	log := s.log.With("event_id", n.EventID, "order_id", n.OrderID, "attempt", n.attempts)
	failure := s.send(ctx, n.Message)
	if failure == nil {
		return attempted{n.EventID, true}
	}
	recording, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	if err := s.failed(recording, n, failure, log); err != nil {
		log.Error("what came of an attempt could not be written down; it is repeated when the lease ends", "error", err)
	}
	return attempted{n.EventID, false}
}

func (s *Service) send(ctx context.Context, m Message) error {
	ctx, cancel := context.WithTimeout(ctx, s.pace.send)
	defer cancel()
	return s.sender.Send(ctx, m)
}

// failed stores that an attempt failed.
func (s *Service) failed(ctx context.Context, n notification, cause error, log *slog.Logger) error {
	last := errors.Is(cause, ErrRefused) || n.attempts >= s.pace.attempts
	pause := s.pace.pause(n.attempts)
	told := cause
	if last {
		told = givenUp(cause)
	}
	now, err := s.store.markFailed(ctx, n, told, last, pause)
	switch now {
	case waiting:
		log.Warn("a notification was not sent; it is tried again", "error", cause, "again_in", pause.String())
	case failed:
		log.Error("gave up a notification", "error", cause)
	default:
		log.Info("a notification was not sent, and a newer one has superseded it", "error", cause)
	}
	return err
}
