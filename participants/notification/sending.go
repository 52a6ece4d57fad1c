package notification

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// atOnce bounds the messages that one process has in hand, so that a slow one does not hold up the others.
	atOnce = 8
	// recordTimeout bounds claiming, and storing the outcome of an attempt, which go on when the process stops.
	recordTimeout = 5 * time.Second
)

// Run sends what is due until ctx ends, and returns when what is in hand is done. Any number of processes may share the
// database.
func (s *Service) Run(ctx context.Context) error {
	var all errgroup.Group
	for range atOnce {
		all.Go(func() error { s.sendAll(ctx); return nil })
	}
	all.Go(func() error { s.look(ctx); return nil })
	return all.Wait()
}

// look wakes a sender now and then, for what is to be tried again and for what a crash left.
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

// wake makes one of the senders look for something to send.
func (s *Service) wake() {
	select {
	case s.due <- struct{}{}:
	default:
	}
}

// sendAll sends what is due, one message after the other.
func (s *Service) sendAll(ctx context.Context) {
	for ctx.Err() == nil {
		n, found, err := s.claim(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			s.log.Warn("no notification could be claimed; it is tried again", "error", err)
		case found:
			s.wake() // There may be more.
			s.attempt(ctx, n)
			continue
		}
		select {
		case <-ctx.Done():
		case <-s.due:
		}
	}
}

// claim is not cut off when the process stops: nobody would have what it had claimed.
func (s *Service) claim(ctx context.Context) (notification, bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	return s.store.claim(ctx, s.pace)
}

// attempt sends one message and stores the outcome. It goes on when the process stops.
func (s *Service) attempt(ctx context.Context, n notification) {
	ctx = context.WithoutCancel(ctx)
	log := s.log.With("event_id", n.EventID, "order_id", n.OrderID, "attempt", n.attempts)
	failure := s.send(ctx, n.Message)

	recording, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	var err error
	if failure == nil {
		err = s.store.markSent(recording, n)
	} else {
		err = s.failed(recording, n, failure, log)
	}
	if err != nil {
		log.Error("what came of an attempt could not be written down; it is repeated when the lease ends", "sent", failure == nil, "error", err)
	}
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
