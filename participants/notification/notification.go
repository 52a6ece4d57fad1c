// Package notification is the participant that tells customers what became of their orders. It learns that from the events of
// orders, over a stream that it opens itself. It stores what is to be sent, and sends it through a port: mail by SMTP, or the log.
// It takes part in no checkout: while it, or the mail server, is down, checkouts go on, and customers are told later.
//
// # At least once
//
// No mail server can be part of a database's transaction. If this process dies, or the connection breaks, after the server took a
// mail and before that is stored here, the mail is sent again: a customer may get it twice, but never not at all. A repeat is the
// same to the byte and has the same Message-ID, made from the event's id. By it a mail server or a reader can tell a repeat from a
// new mail.
//
// # Order by order
//
// A notification tells the status of an order, so a newer one makes an older one stale: after "confirmed" nobody needs "placed".
// One that is still unsent when a newer status comes is superseded and never sent. After an outage of the mail server a customer
// hears what is so, and not first what was. So at most one notification of an order waits at any time, and it waits while an older
// one is in hand: an order's mails go out in the order of its statuses. Orders do not wait for each other.
//
// # Giving up
//
// What fails is tried again with growing pauses, for seven hours; what the mail server refuses for good is not. Both end as failed,
// with the cause in the log and in the API: a person must look.
//
// The package keeps no addresses: a customer's is the customer id at one domain. It must not know how checkouts work or what an
// order contains.
package notification

import (
	"errors"
	"fmt"
	"time"

	ordersv1 "github.com/checkoutsaga/orchestrator/gen/orders/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// state is the state of a notification. It stands in rows: renaming one is a migration.
//
//	waiting → sent | superseded | failed
//	superseded → sent: it was in hand when the newer status came
type state string

const (
	waiting    state = "waiting"
	sent       state = "sent"
	superseded state = "superseded"
	failed     state = "failed"
)

// notification is a message and its state.
type notification struct {
	Message
	state    state
	attempts int
	// error is why the last attempt failed.
	error  string
	sentAt *time.Time
}

// tells writes the message for an event. An error says that the event can never be taken.
func tells(m *ordersv1.OrderStatusChanged) (Message, error) {
	// It leaves out why an order was cancelled: that was written for those who run the shop.
	var body string
	switch m.Status {
	case "placed":
		body = "Thank you. We have your order %s, and will tell you when it is confirmed.\n"
	case "confirmed":
		body = "Your order %s is confirmed and paid. It is on its way to you.\n"
	case "cancelled":
		body = "Your order %s is cancelled. Nothing is charged.\n"
	default:
		return Message{}, fmt.Errorf("%w: status: there is nothing to say of %q", event.ErrBad, m.Status)
	}
	return Message{
		EventID: m.Header.EventId, OrderID: m.Header.OrderId, CustomerID: m.CustomerId,
		Subject: fmt.Sprintf("Your order %s is %s", m.Header.OrderId, m.Status), Body: fmt.Sprintf(body, m.Header.OrderId),
	}, nil
}

// pace says how fast sending goes.
type pace struct {
	// look is how often it looks without being woken: for what is to be tried again, and for what a crash left.
	look time.Duration
	// send bounds one attempt, and how long a stop may wait for it.
	send time.Duration
	// lease is how long a claimed notification belongs to its claimer: longer than an attempt and storing its outcome. A crash
	// delays what was in hand by that time.
	lease time.Duration
	// first is the pause after the first failed attempt. It doubles, up to longest: for that long a mail server may be back unnoticed.
	first, longest time.Duration
	// attempts is how many it makes before it gives up.
	attempts int
}

// usual gives up after 7 hours and 20 minutes.
var usual = pace{
	look: 5 * time.Second, send: 20 * time.Second, lease: time.Minute,
	first: 5 * time.Second, longest: 10 * time.Minute, attempts: 50,
}

// pause is how long to wait after an attempt that failed.
func (p pace) pause(attempts int) time.Duration {
	pause := p.first
	for range attempts - 1 {
		if pause *= 2; pause >= p.longest {
			return p.longest
		}
	}
	return pause
}

// maxError is where errors are cut, in bytes: a mail server's answer may be long.
const maxError = 500

// why is an error as its row keeps it. A mail server may say anything; PostgreSQL takes UTF-8 without zeros.
func why(err error) string {
	return pg.Text(err.Error(), maxError)
}

// givenUp marks the error of what is not tried again, so that readers of the API see it.
func givenUp(cause error) error { return fmt.Errorf("given up: %w", cause) }

var errCutOff = givenUp(errors.New("the process ended in the middle of the last attempt"))
