package verbs

import (
	"context"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// requireState demands that the checkout is in the state, as Get tells it.
func (c *cell) requireState(t *testing.T, now *checkoutv1.Checkout) {
	t.Helper()
	require.Equal(t, c.state.status, status(now.Status), harness.Steps(now))
	require.Equal(t, c.state.phase, now.Phase)
	require.Equal(t, c.state.held, held(now))
	require.Equal(t, c.state.reason, now.ReasonCode)
	require.Equal(t, c.state.phase == "final", now.EndedAt != nil)
	require.Equal(t, c.state.status == "NEEDS_ATTENTION", now.Attention != nil)
	if a := now.Attention; a != nil {
		require.Equal(t, c.state.code, a.Code, a.Cause)
		require.Equal(t, c.state.step, a.Step)
		require.Contains(t, a.Advice, "checkout resolve "+c.id+" --step "+c.state.step+" --as retry")
		require.NotEmpty(t, a.Cause)
		require.NotEmpty(t, a.LastError)
		require.Positive(t, a.Attempts)
		require.NotNil(t, a.Since)
	}
}

// read tries the verbs that only look.
func (c *cell) read(t *testing.T, now *checkoutv1.Checkout) {
	t.Helper()
	other := checkoutv1.Status_STATUS_CONFIRMED
	if now.Status == other {
		other = checkoutv1.Status_STATUS_RUNNING
	}
	for _, list := range []struct {
		by    string
		want  bool
		query *checkoutv1.ListRequest
	}{
		{"its customer", true, &checkoutv1.ListRequest{}},
		{"its status", true, &checkoutv1.ListRequest{Statuses: []checkoutv1.Status{now.Status}}},
		{"its status and another", true, &checkoutv1.ListRequest{Statuses: []checkoutv1.Status{other, now.Status}}},
		{"another status", false, &checkoutv1.ListRequest{Statuses: []checkoutv1.Status{other}}},
		{"its step", c.state.step != "", &checkoutv1.ListRequest{Step: c.state.at()}},
		{"another step", false, &checkoutv1.ListRequest{Step: "release-stock"}},
		{"attention", now.Attention != nil, &checkoutv1.ListRequest{Attention: true}},
		{"its reason", true, &checkoutv1.ListRequest{ReasonCode: now.ReasonCode}},
		{"another reason", false, &checkoutv1.ListRequest{ReasonCode: "out_of_stock"}},
		{"less than its amount", true, &checkoutv1.ListRequest{AmountOver: now.Amount.MinorUnits - 1}},
		{"its amount", false, &checkoutv1.ListRequest{AmountOver: now.Amount.MinorUnits}},
	} {
		list.query.CustomerId = c.customer
		answer, err := c.Checkouts.List(t.Context(), connect.NewRequest(list.query))
		require.NoError(t, err)
		found := len(answer.Msg.Checkouts) == 1 && answer.Msg.Checkouts[0].OrderId == c.id
		require.Equal(t, list.want, found, "listed by %s: %v", list.by, answer.Msg.Checkouts)
	}

	answer, err := c.Checkouts.History(t.Context(), connect.NewRequest(&checkoutv1.HistoryRequest{OrderId: c.id}))
	require.NoError(t, err)
	h := answer.Msg
	require.Equal(t, now.Status, h.Checkout.Status)
	require.Equal(t, c.id, h.Request.OrderId)
	require.NotEmpty(t, h.Prices)
	require.True(t, slices.ContainsFunc(h.Entries, func(e *checkoutv1.Entry) bool { return e.Topic == "checkout.order.created" }), "its events are told")
	if c.state.order.Coordination == "" {
		require.True(t, slices.ContainsFunc(h.Entries, func(e *checkoutv1.Entry) bool { return e.Kind == "attempt" }), "its attempts are told")
	}
	require.NotEmpty(t, h.Operations, "what the participants have on record")
	require.NotEmpty(t, h.Operations[0].Do)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	watch, err := c.Checkouts.Watch(ctx, connect.NewRequest(&checkoutv1.WatchRequest{OrderId: c.id, UntilSettled: true}))
	require.NoError(t, err)
	defer watch.Close()
	require.True(t, watch.Receive(), "it is told how it stands: %v", watch.Err())
	require.Equal(t, now.Status, watch.Msg().Checkout.Status)
	if now.EndedAt != nil || now.Attention != nil {
		require.False(t, watch.Receive(), "nothing is to be waited for")
		require.NoError(t, watch.Err())
	}
}

// follow reads the whole history of a checkout that has ended.
func (c *cell) follow(t *testing.T, ended *checkoutv1.Checkout) {
	t.Helper()
	stream, err := c.Checkouts.FollowHistory(t.Context(), connect.NewRequest(&checkoutv1.FollowHistoryRequest{OrderId: c.id}))
	require.NoError(t, err)
	defer stream.Close()
	var told bool
	for stream.Receive() {
		for _, e := range stream.Msg().Entries {
			told = told || e.Kind == "status" && e.Outcome == status(ended.Status)
		}
	}
	require.NoError(t, stream.Err())
	require.True(t, told, "the history tells of the end")
}

// held is what the participants hold, in words.
func held(c *checkoutv1.Checkout) string {
	var text []string
	if len(c.Held.Stock) > 0 {
		text = append(text, "stock")
	}
	if c.Held.Authorized != nil {
		text = append(text, "authorized")
	}
	if c.Held.Captured != nil {
		text = append(text, "captured")
	}
	return strings.Join(text, " ")
}
