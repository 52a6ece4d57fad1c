package dapr

import (
	"context"
	"sync"
	"time"

	"github.com/dapr/durabletask-go/api/protos"
	"google.golang.org/grpc"
)

// wire is what stands between durabletask-go's client and the connection. It keeps count of the activities in hand, which
// durabletask-go cannot tell: from their arrival to the answer to their report.
type wire struct {
	hand *hand

	mu     sync.Mutex
	listen time.Time // when the next attempt to listen may be made
}

func (w *wire) unary(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	switch method {
	case protos.TaskHubSidecarService_Hello_FullMethodName:
		// The first call of each attempt to listen again. durabletask-go waits up to 15 s between attempts; the connection
		// knows sooner when the sidecar is back.
		opts = append(opts, grpc.WaitForReady(true))
	case protos.TaskHubSidecarService_CompleteActivityTask_FullMethodName:
		defer w.hand.put()
	}
	return invoke(ctx, method, req, reply, conn, opts...)
}

// listenPause keeps attempts to listen apart. After one that could connect, durabletask-go makes the next at once.
const listenPause = 200 * time.Millisecond

func (w *wire) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if method != protos.TaskHubSidecarService_GetWorkItems_FullMethodName {
		return open(ctx, desc, conn, method, opts...)
	}
	if err := w.pace(ctx); err != nil {
		return nil, err
	}
	stream, err := open(ctx, desc, conn, method, opts...)
	if err != nil {
		return nil, err
	}
	return workItems{stream, w.hand}, nil
}

// pace waits until listenPause has passed since it was last called.
func (w *wire) pace(ctx context.Context) error {
	w.mu.Lock()
	now := time.Now()
	turn := now
	if w.listen.After(now) {
		turn = w.listen
	}
	w.listen = turn.Add(listenPause)
	w.mu.Unlock()

	timer := time.NewTimer(turn.Sub(now))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// workItems is the stream of work. Turns pass always, activities only while the hand is open.
type workItems struct {
	grpc.ClientStream
	hand *hand
}

func (s workItems) RecvMsg(m any) error {
	for {
		if err := s.ClientStream.RecvMsg(m); err != nil {
			return err
		}
		item, ok := m.(*protos.WorkItem)
		if !ok || item.GetActivityRequest() == nil || s.hand.take() {
			return nil
		}
	}
}

// hand counts the activities in hand.
type hand struct {
	mu     sync.Mutex
	count  int
	closed bool
	empty  chan struct{} // closed when the hand is, and holds nothing
	last   time.Time     // when the last one was put
}

// open lets the hand take activities.
func (h *hand) open() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = false
	h.empty = make(chan struct{})
}

// take reports whether an activity may be begun.
func (h *hand) take() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.count++
	return true
}

// put says that an activity has ended and its result was sent, or cannot be.
func (h *hand) put() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count--
	h.last = time.Now()
	if h.closed && h.count == 0 {
		close(h.empty)
	}
}

// close lets the hand take no more; the channel it returns is closed when it is empty.
func (h *hand) close() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.count == 0 {
		close(h.empty)
	}
	return h.empty
}

// lastPut is when the last activity ended.
func (h *hand) lastPut() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}
