// Package notification is the participant that tells customers what became of their orders. It learns that from the events of
// orders, over a stream that it opens itself, writes down what is to be sent, and sends it through a port: mail by SMTP, or the
// log. It takes part in no checkout: while it, or the mail server, is down, checkouts go on, and customers are told later.
//
// # At least once
//
// No mail server can be part of a database's transaction. When this process dies, or the connection breaks, between the server's
// taking a mail and that being written down here, the mail is sent again: a customer may get it twice and never not at all. A
// repeat is the same to the byte and has the same Message-ID, made from the event's id, by which a mail server or a reader can
// tell it from a new one.
//
// # Order by order
//
// A notification tells how an order stands, so a newer one says all that is left of an older one's news: "confirmed" makes
// "placed" stale. One that is still unsent when a newer status comes is therefore superseded and never sent; after an outage of
// the mail server a customer hears what is so, and not first what was. Then at most one notification of an order waits at any
// time, and it waits while an older one is in hand, so an order's mails go out in the order of its statuses. Orders wait for
// nobody but themselves.
//
// # Giving up
//
// What fails is tried again with growing pauses, for seven hours; what the mail server refuses for good is not. Either ends as
// failed, which the log says and the API shows with the cause: a person must look.
//
// The package keeps no addresses: a customer's is the customer id at one domain. It must not know how checkouts work or what an
// order contains.
package notification

import (
	"errors"
	"fmt"
	"strings"
	"time"

	ordersv1 "github.com/checkoutsaga/orchestrator/gen/orders/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
)

// state is what became of a notification. It stands in rows: renaming one is a migration.
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

// notification is a message with what became of it.
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
	// Why an order was cancelled stays out of it: that was written for those who run the shop.
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
	// look is how often it looks without being woken, for what is to be tried again and what a crash left.
	look time.Duration
	// send bounds one attempt, and how long a stop may wait for it.
	send time.Duration
	// lease is how long a claimed notification is nobody else's: longer than an attempt and writing down what came of it. A crash
	// delays what was in hand by it.
	lease time.Duration
	// first is the pause after the first failed attempt. It doubles, up to longest: so long may a mail server be back unnoticed.
	first, longest time.Duration
	// attempts is after how many it gives up.
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
	text := strings.ReplaceAll(strings.ToValidUTF8(err.Error(), "?"), "\x00", "?")
	return strings.ToValidUTF8(text[:min(len(text), maxError)], "")
}

// givenUp is the error of what is not tried again, so that a reader of the API sees that as well.
func givenUp(cause error) error { return fmt.Errorf("given up: %w", cause) }

var errCutOff = givenUp(errors.New("the process ended in the middle of the last attempt"))
