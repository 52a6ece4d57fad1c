package commit

import "context"

// Rider is a change that goes along in the transaction of another one, which is its cause: what an answer causes becomes durable with
// the answer. Whoever wants a ride hands it to the one who commits the answer by the context of a call.
type Rider interface {
	// Answered hands over the answer each time that it is decided, which is before the rider's own change is decided.
	Answered(answer any)
	// Change is the rider's part of the transaction. It is asked for once.
	Change() *Change
}

type riderKey struct{}

// WithRider returns a context whose holder takes the rider along when it commits.
func WithRider(ctx context.Context, r Rider) context.Context {
	return context.WithValue(ctx, riderKey{}, r)
}

// RiderOf is the rider that waits in the context; nil where there is none.
func RiderOf(ctx context.Context) Rider {
	r, _ := ctx.Value(riderKey{}).(Rider)
	return r
}
