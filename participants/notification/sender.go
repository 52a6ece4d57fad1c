package notification

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"time"
)

// Message is what a customer is told about an order.
type Message struct {
	// EventID is that of the event that caused it: the same on every repeat, and unique to the message.
	EventID             string
	OrderID, CustomerID string
	// Subject is one line, Body lines that each end in "\n".
	Subject, Body string
	// CreatedAt is when it was written, and the date of its mail.
	CreatedAt time.Time
}

// Sender brings messages to customers. It may be called from many goroutines, and again with a message whose first try has an
// unknown outcome. It then sends the same again, so that the receiver can tell.
type Sender interface {
	// Send returns nil once somebody else is responsible for the message. ErrRefused says that it will never be taken; any other
	// error is worth another try. It returns soon after ctx ends.
	Send(ctx context.Context, m Message) error
}

// ErrRefused says that a message is refused for good.
var ErrRefused = errors.New("refused for good")

// id names a message by its event. It is a hash, because an event's id may be any text and this one stands between brackets.
func (m Message) id() string {
	hash := sha256.Sum256([]byte(m.EventID))
	return hex.EncodeToString(hash[:16])
}

// logSender writes messages to the log, if there is no mail server.
type logSender struct{ log *slog.Logger }

func (s logSender) Send(ctx context.Context, m Message) error {
	s.log.InfoContext(ctx, "a customer would be told", "customer_id", m.CustomerID, "order_id", m.OrderID, "subject", m.Subject, "message_id", m.id())
	return nil
}
