package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/checkoutsaga/orchestrator/gen/saga/participant/v1/participantv1connect"
)

// Kind is what a fault does to a call that it meets.
type Kind string

// The kinds of faults.
const (
	// Fail answers "unavailable" and does not forward, as an honest error on the way.
	Fail Kind = "fail"
	// LoseBefore cuts the connection without forwarding: the call never arrives.
	LoseBefore Kind = "lose-before"
	// LoseAfter forwards, waits for the answer and cuts the connection instead of giving it: it was applied and nobody knows.
	LoseAfter Kind = "lose-after"
	// HoldBefore keeps the call until the fault is lifted, then forwards it. If the caller gives up first, it never arrives.
	HoldBefore Kind = "hold-before"
	// HoldAfter forwards at once and keeps the answer until the fault is lifted or the caller gives up.
	HoldAfter Kind = "hold-after"
	// Delay keeps the call until the fault is lifted and then forwards it, although its caller gave up long ago: a late packet. See
	// Armed.AwaitDelivered.
	Delay Kind = "delay"
	// Answer forwards nothing and gives Fault.Answer instead.
	Answer Kind = "answer"
	// TakeDown makes the participant's address refuse connections for Fault.Down; the call that met it is cut.
	TakeDown Kind = "take-down"
)

// Fault says which calls meet what.
type Fault struct {
	Kind Kind
	// Procedure is "Do" or "Undo", or what the shop's participant calls it, such as "Reserve".
	Procedure string
	// OrderID limits the fault to one order, or to one saga by its key; empty means every one.
	OrderID string
	// Step limits it to one step; empty means every one.
	Step string
	// Times is how many calls meet the fault; 0 means all until it is lifted. An activity tries up to three times in one attempt,
	// so the saga notices only four or more.
	Times int
	// Down is how long TakeDown lasts.
	Down time.Duration
	// Answer is the body of an Answer.
	Answer string
}

// Armed is a fault that waits for its calls.
type Armed struct {
	fault  Fault
	fired  atomic.Int64
	held   atomic.Int64
	first  chan struct{} // closed when it fires for the first time
	lifted chan struct{}
	lift   sync.Once
	late   sync.WaitGroup // calls that are forwarded whatever becomes of their callers
}

// Fired is how many calls have met the fault.
func (a *Armed) Fired() int { return int(a.fired.Load()) }

// Holding is how many calls it holds now.
func (a *Armed) Holding() int { return int(a.held.Load()) }

// Lift ends the fault: calls that it holds go on, later ones do not meet it.
func (a *Armed) Lift() { a.lift.Do(func() { close(a.lifted) }) }

// Await returns when the fault has fired.
func (a *Armed) Await(t testing.TB) {
	t.Helper()
	if !a.AwaitFor(patience) {
		t.Fatalf("no %s of order %q came within %s", a.fault.Procedure, a.fault.OrderID, patience)
	}
}

// AwaitFor waits until the fault has fired, at most for limit, and tells whether it has.
func (a *Armed) AwaitFor(limit time.Duration) bool {
	select {
	case <-a.first:
		return true
	case <-time.After(limit):
		return false
	}
}

// AwaitDelivered returns when the participant has answered all calls that LoseAfter, HoldAfter and Delay took, though their callers
// may be gone. A Delay must be lifted first.
func (a *Armed) AwaitDelivered() { a.late.Wait() }

// meets says whether a call meets the fault, and counts it.
func (a *Armed) meets(c call) bool {
	f := a.fault
	if f.Procedure != c.method && f.Procedure != procedures[c.method+" "+c.step] || f.OrderID != "" && f.OrderID != c.key || f.Step != "" && f.Step != c.step {
		return false
	}
	select {
	case <-a.lifted:
		return false
	default:
	}
	n := a.fired.Add(1)
	if a.fault.Times > 0 && n > int64(a.fault.Times) {
		a.fired.Add(-1)
		return false
	}
	if k := a.fault.Kind; k == LoseAfter || k == HoldAfter || k == Delay {
		a.late.Add(1)
	}
	if n == 1 {
		close(a.first)
	}
	return true
}

// Proxy stands before a participant and does to its calls what the armed faults say. Its address never changes, whatever becomes of
// the participant.
type Proxy struct {
	target    *url.URL
	address   string
	transport *http.Transport

	mu     sync.Mutex
	faults []*Armed
	server *http.Server // nil while down
	closed bool
	busy   sync.WaitGroup
}

// StartProxy starts a proxy before target; it ends with the test.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: to, address: "127.0.0.1:0", transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	if err := p.up(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

// URL is the address for callers.
func (p *Proxy) URL() string { return "http://" + p.address }

// Arm sets up a fault. The test fails if it has not fired by the test's end: a fault that nothing met proves nothing.
func (p *Proxy) Arm(t testing.TB, f Fault) *Armed {
	t.Helper()
	a := &Armed{fault: f, first: make(chan struct{}), lifted: make(chan struct{})}
	p.mu.Lock()
	p.faults = append(p.faults, a)
	p.mu.Unlock()
	t.Cleanup(func() {
		a.Lift()
		p.mu.Lock()
		for i := range p.faults {
			if p.faults[i] == a {
				p.faults = append(p.faults[:i:i], p.faults[i+1:]...)
				break
			}
		}
		p.mu.Unlock()
		if a.Fired() == 0 && !t.Failed() {
			t.Errorf("the fault %s at %s of order %q never fired", f.Kind, f.Procedure, f.OrderID)
		}
	})
	return a
}

// Down refuses connections until Up, and cuts the open ones.
func (p *Proxy) Down() {
	p.mu.Lock()
	server := p.server
	p.server = nil
	p.mu.Unlock()
	if server != nil {
		_ = server.Close()
	}
}

// Up takes connections again.
func (p *Proxy) Up(t testing.TB) {
	t.Helper()
	if err := p.up(); err != nil {
		t.Fatal(err)
	}
}

func (p *Proxy) up() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.server != nil {
		return nil
	}
	listener, err := net.Listen("tcp", p.address)
	if err != nil {
		return fmt.Errorf("listen before %s: %w", p.target, err)
	}
	p.address = listener.Addr().String()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: p, Protocols: protocols, ReadHeaderTimeout: 10 * time.Second}
	p.server = server
	p.busy.Go(func() { _ = server.Serve(listener) })
	return nil
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	for _, a := range p.faults {
		a.Lift()
	}
	p.mu.Unlock()
	p.Down()
	p.busy.Wait()
	p.transport.CloseIdleConnections()
}

// takeDown goes down for a while, on a goroutine of its own, because that cuts the call that caused it.
func (p *Proxy) takeDown(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.busy.Go(func() {
		p.Down()
		// It must be away for a time, so it waits for the clock.
		<-time.After(d)
		_ = p.up()
	})
}

// ServeHTTP forwards a call, or does to it what its first fault says.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	a := p.meeting(called(r.URL.Path, body))
	if a == nil {
		p.forward(r.Context(), w, r, body)
		return
	}
	switch a.fault.Kind {
	case Fail:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"code":"unavailable","message":"a fault of the test"}`)
	case LoseAfter:
		p.forwardDetached(a, discard{}, r, body)
		panic(http.ErrAbortHandler)
	case HoldBefore:
		if !a.hold(r.Context()) {
			panic(http.ErrAbortHandler)
		}
		p.forward(r.Context(), w, r, body)
	case HoldAfter:
		answer := &kept{header: make(http.Header)}
		p.forwardDetached(a, answer, r, body)
		if !a.hold(r.Context()) {
			panic(http.ErrAbortHandler)
		}
		answer.give(w)
	case Delay:
		// The server ends this context only when the handler returns, so a caller who gave up does not end the wait.
		<-a.lifted
		p.forwardDetached(a, discard{}, r, body)
		panic(http.ErrAbortHandler)
	case Answer:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, a.fault.Answer)
	case TakeDown:
		p.takeDown(a.fault.Down)
		panic(http.ErrAbortHandler)
	default:
		panic(http.ErrAbortHandler)
	}
}

// hold waits until the fault is lifted; false if the caller gave up first.
func (a *Armed) hold(ctx context.Context) bool {
	a.held.Add(1)
	defer a.held.Add(-1)
	select {
	case <-a.lifted:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *Proxy) meeting(c call) *Armed {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.faults {
		if a.meets(c) {
			return a
		}
	}
	return nil
}

// forwardDetached forwards a call whatever becomes of its caller: neither its hanging up nor its deadline ends the call.
func (p *Proxy) forwardDetached(a *Armed, w http.ResponseWriter, r *http.Request, body []byte) {
	defer a.late.Done()
	ctx := context.WithoutCancel(r.Context())
	r = r.Clone(ctx)
	r.Header.Del("Connect-Timeout-Ms")
	p.forward(ctx, w, r, body)
}

func (p *Proxy) forward(ctx context.Context, w http.ResponseWriter, r *http.Request, body []byte) {
	to := *p.target
	to.Path, to.RawQuery = r.URL.Path, r.URL.RawQuery
	out, err := http.NewRequestWithContext(ctx, r.Method, to.String(), bytes.NewReader(body))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	out.Header = r.Header.Clone()
	answer, err := p.transport.RoundTrip(out)
	if err != nil {
		panic(http.ErrAbortHandler) // As a participant that is gone would do.
	}
	defer answer.Body.Close()
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.StatusCode)
	if _, err := io.Copy(w, answer.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// discard takes an answer that nobody gets.
type discard struct{}

func (discard) Header() http.Header         { return make(http.Header) }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

// kept is an answer for later.
type kept struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (k *kept) Header() http.Header         { return k.header }
func (k *kept) Write(b []byte) (int, error) { return k.body.Write(b) }
func (k *kept) WriteHeader(status int)      { k.status = status }

func (k *kept) give(w http.ResponseWriter) {
	for name, values := range k.header {
		w.Header()[name] = values
	}
	w.WriteHeader(k.status)
	_, _ = k.body.WriteTo(w)
}

// procedures are what the shop's participants call what they are asked for over their contract.
var procedures = map[string]string{
	"Do reserve-stock": "Reserve", "Undo reserve-stock": "Release", "Do commit-stock": "Commit",
	"Do authorize-payment": "Authorize", "Undo authorize-payment": "Void", "Do capture-payment": "Capture", "Undo capture-payment": "Refund",
}

// call is what a participant is asked for over its contract: a method, about a step of a saga.
type call struct{ method, key, step string }

// called reads it; the zero call is none of the contract.
func called(path string, body []byte) call {
	method, is := strings.CutPrefix(path, "/"+participantv1connect.ParticipantServiceName+"/")
	var request struct{ Key, Step string }
	if !is || json.Unmarshal(body, &request) != nil {
		return call{}
	}
	return call{method: method, key: request.Key, step: request.Step}
}
