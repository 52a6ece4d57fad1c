// Package verbs tries every verb of an operator on a checkout in every state that it can be in, on whatever engine a system runs. What
// must come of it stands in table.go; how a checkout is brought into a state, and out of it, in states.go.
package verbs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// atOnce bounds how many checkouts are tried on at a time. They wait far more than they do.
const atOnce = 48

// patience bounds one cell. The longest waits until a compensation has failed twelve times, which takes a minute.
const patience = 3 * time.Minute

// table is a run of all cells on one system.
type table struct {
	*harness.System
	// prefix begins the order ids of this run.
	prefix                           string
	orchestrator, warehouse, payment *pgxpool.Pool

	mu  sync.Mutex
	met map[string]map[verb]string
	// vouched are the orders that an operator vouched for.
	vouched []string
}

// Run tries every verb in every state, each on a checkout of its own. Every order in USD must need approval on the system, and none in
// EUR.
func Run(t *testing.T, s *harness.System) {
	requireWhole(t)
	tab := &table{System: s, prefix: fmt.Sprintf("v%06x", rand.Uint32N(1<<24)), met: make(map[string]map[verb]string)}
	for name, pool := range map[string]**pgxpool.Pool{"orchestrator": &tab.orchestrator, "warehouse": &tab.warehouse, "payment": &tab.payment} {
		var err error
		*pool, err = pg.Open(t.Context(), s.Databases[name], 4)
		require.NoError(t, err)
		t.Cleanup((*pool).Close)
	}
	began := time.Now()
	tab.tryUnknownOrder(t)

	room := make(chan struct{}, atOnce)
	var trying sync.WaitGroup
	for _, state := range states { // The longest first.
		for _, v := range verbs {
			room <- struct{}{}
			trying.Go(func() {
				defer func() { <-room }()
				t.Run(state.name+"/"+string(v), func(t *testing.T) {
					c := tab.cell(t, state, v)
					c.try(t)
				})
			})
		}
	}
	trying.Wait()
	t.Logf("%d cells in %s, as they were met:\n%s", len(states)*len(verbs), time.Since(began).Round(time.Second), tab.text())
	s.Audit(t)
	tab.audit(t, began)
}

// requireWhole demands that the table has each state and each verb, and nothing else.
func requireWhole(t *testing.T) {
	t.Helper()
	var names []string
	for _, state := range states {
		names = append(names, state.name)
		require.ElementsMatch(t, verbs, slices.Collect(maps.Keys(expected[state.name])), "the verbs told of for %q", state.name)
	}
	require.ElementsMatch(t, names, slices.Collect(maps.Keys(expected)), "the states told of")
}

// tell notes what came of a verb.
func (tab *table) tell(c *cell, met string) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	if tab.met[c.state.name] == nil {
		tab.met[c.state.name] = make(map[verb]string)
	}
	tab.met[c.state.name][c.verb] = met
}

func (tab *table) text() string {
	var text strings.Builder
	for _, state := range states {
		fmt.Fprintf(&text, "%s\n", state.name)
		for _, v := range verbs {
			fmt.Fprintf(&text, "    %-34s %s\n", v, tab.met[state.name][v])
		}
	}
	return text.String()
}

// audit has the system audit itself: it finds nothing wrong with these orders, and tells whom an operator vouched for.
func (tab *table) audit(t *testing.T, since time.Time) {
	t.Helper()
	stream, err := tab.Checkouts.Audit(t.Context(), connect.NewRequest(&checkoutv1.AuditRequest{Since: timestamppb.New(since.Add(-time.Minute))}))
	require.NoError(t, err)
	defer stream.Close()
	var checked int64
	var vouched []string
	for stream.Receive() {
		checked = stream.Msg().Checked
		for _, v := range stream.Msg().Violations {
			if strings.HasPrefix(v.OrderId, tab.prefix) {
				t.Errorf("the audit finds %s broken for %s: %s", v.Invariant, v.OrderId, v.What)
			}
		}
		for _, a := range stream.Msg().Accepted {
			if strings.HasPrefix(a.OrderId, tab.prefix) {
				vouched = append(vouched, a.OrderId)
				require.Empty(t, a.What, "what an operator vouched for was made true of %s", a.OrderId)
			}
		}
	}
	require.NoError(t, stream.Err())
	require.GreaterOrEqual(t, checked, int64(len(states)*len(verbs)))
	require.ElementsMatch(t, tab.vouched, vouched, "whom an operator vouched for is told by every audit")
}

// tryUnknownOrder asks for what nobody has, and asks without saying why.
func (tab *table) tryUnknownOrder(t *testing.T) {
	t.Helper()
	nobody := &cell{table: tab, id: tab.prefix + "-nobody", state: states[0]}
	for _, v := range verbs[1:] {
		for _, dryRun := range []bool{true, false} {
			nobody.verb, nobody.reason = v, "because"
			_, err := nobody.ask(t.Context(), dryRun)
			assert.True(t, harness.IsCode(err, connect.CodeNotFound), "%s of an unknown order, dry run %t: %v", v, dryRun, err)
			nobody.reason = ""
			_, err = nobody.ask(t.Context(), dryRun)
			assert.True(t, harness.IsCode(err, connect.CodeInvalidArgument), "%s without a reason, dry run %t: %v", v, dryRun, err)
			assert.ErrorContains(t, err, "reason: is missing")
		}
	}
	_, err := tab.Get(t.Context(), nobody.id)
	require.True(t, harness.IsCode(err, connect.CodeNotFound), "get: %v", err)
	_, err = tab.Checkouts.History(t.Context(), connect.NewRequest(&checkoutv1.HistoryRequest{OrderId: nobody.id}))
	require.True(t, harness.IsCode(err, connect.CodeNotFound), "history: %v", err)
	watch, err := tab.Checkouts.Watch(t.Context(), connect.NewRequest(&checkoutv1.WatchRequest{OrderId: nobody.id}))
	require.NoError(t, err)
	defer watch.Close()
	require.False(t, watch.Receive())
	require.True(t, harness.IsCode(watch.Err(), connect.CodeNotFound), "watch: %v", watch.Err())
}

// every is how often something is looked at that nobody tells of.
const every = 200 * time.Millisecond

// until returns once check returns nil.
func until(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx, giveUp := context.WithTimeout(t.Context(), patience)
	defer giveUp()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited %s for %s: %v", patience, what, err)
		}
	}
}

// refusal is an answer that the state does not allow what was asked.
func refusal(err error) (sentence string, ok bool) {
	var wire *connect.Error
	if !errors.As(err, &wire) || wire.Code() != connect.CodeFailedPrecondition {
		return "", false
	}
	return wire.Message(), true
}
