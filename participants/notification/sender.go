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
	// EventID is that of the event that caused it: the same on every repeat, and no other message's.
	EventID             string
	OrderID, CustomerID string
	// Subject is one line, Body lines that each end in "\n".
	Subject, Body string
	// CreatedAt is when it was written, and so what it is dated by.
	CreatedAt time.Time
}

// Sender brings messages to customers. It may be called from many goroutines, and with the same message again when nobody
// knows what became of the first try; then it sends the same again, so that the receiver can tell.
type Sender interface {
	// Send returns nil once the message is in somebody else's care. ErrRefused says that it will never be taken; after any other
	// error it is worth trying again. It returns soon after ctx ends.
	Send(ctx context.Context, m Message) error
}

// ErrRefused says that a message is refused for good.
var ErrRefused = errors.New("refused for good")

// id names a message by its event. A hash, because an event's id is any text and this one stands between others' brackets.
func (m Message) id() string {
	hash := sha256.Sum256([]byte(m.EventID))
	return hex.EncodeToString(hash[:16])
}

// logSender writes messages to the log, for where there is no mail server.
type logSender struct{ log *slog.Logger }

func (s logSender) Send(ctx context.Context, m Message) error {
	s.log.InfoContext(ctx, "a customer would be told", "customer_id", m.CustomerID, "order_id", m.OrderID, "subject", m.Subject, "message_id", m.id())
	return nil
}
