package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// What ended long ago is forgotten by the engine, by both participants and by the orchestrator; nothing that is open is, and an id is
// never another order's.
func TestI7WhatEndedLongAgoIsForgottenEverywhereAndNothingOpenIs(t *testing.T) {
	t.Parallel()
	s := harness.StartShop(t)
	s.Config.ApprovalAbove = approvedInUSD
	stop := s.Open(t)
	old := startMany(t, s.System, "old", 4, harness.Order{})
	old = append(old, startMany(t, s.System, "declined", 2, harness.Order{Method: "tok_declined"})...)
	for _, id := range old {
		s.AwaitEnd(t, id, harness.Confirmed, harness.Rejected)
	}
	open := startMany(t, s.System, "open", 2, inUSD)
	for _, id := range open {
		s.AwaitStatus(t, id, checkoutv1.Status_STATUS_AWAITING_APPROVAL)
	}
	stop()

	// All of it happened seventy days ago, and all events have been published since.
	in := func(database, sql string) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), s.Databases[database])
		require.NoError(t, err)
		defer conn.Close(t.Context())
		_, err = conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	in("orchestrator", `UPDATE checkouts SET started_at = started_at - interval '70 days', ended_at = ended_at - interval '70 days'`)
	for _, database := range []string{"orchestrator", "warehouse", "payment"} {
		in(database, `UPDATE outbox SET published_at = now()`)
	}

	s.Config.KeepWorkflows, s.Config.KeepCheckouts = time.Hour, 61*24*time.Hour
	s.Open(t)
	for _, id := range old {
		harness.Eventually(t, id+" to be forgotten", func(ctx context.Context) error {
			if _, err := s.Get(ctx, id); !harness.IsCode(err, connect.CodeNotFound) {
				return fmt.Errorf("get answers %v", err)
			}
			return nil
		})
		_, err := s.TryStart(t.Context(), harness.Order{ID: id})
		require.True(t, harness.IsCode(err, connect.CodeAlreadyExists), "a start under the id of a forgotten checkout answers %v", err)
	}
	count := func(database, query string) (n int) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), s.Databases[database])
		require.NoError(t, err)
		defer conn.Close(t.Context())
		require.NoError(t, conn.QueryRow(t.Context(), query).Scan(&n))
		return n
	}
	const ofOld = ` WHERE key NOT LIKE 'open-%'`
	for _, participant := range []string{"warehouse", "payment"} {
		require.Zero(t, count(participant, `SELECT count(*) FROM operations`+ofOld), participant)
		require.Equal(t, len(old), count(participant, `SELECT count(*) FROM forgotten_sagas`), participant)
		require.NotZero(t, count(participant, `SELECT count(*) FROM operations`), "%s keeps what is open", participant)
	}
	require.Equal(t, len(open), count("orchestrator", `SELECT count(*) FROM engine.log WHERE seq = 0`), "the engine keeps the open ones alone")

	for _, id := range open {
		approve(t, s.System, id)
		require.EqualValues(t, 1, s.AwaitEnd(t, id, harness.Confirmed).Run)
	}
	violations, err := auditAll(t.Context(), s.System)
	require.NoError(t, err)
	require.Empty(t, violations)
}

// auditAll is what the orchestrator's own audit finds wrong.
func auditAll(ctx context.Context, s *harness.System) (violations []string, err error) {
	stream, err := s.Checkouts.Audit(ctx, connect.NewRequest(&checkoutv1.AuditRequest{}))
	if err != nil {
		return nil, err
	}
	for stream.Receive() {
		for _, v := range stream.Msg().Violations {
			if v.Invariant != "I5" { // There is no bus here, so nothing new is published.
				violations = append(violations, v.OrderId+": "+v.What)
			}
		}
	}
	return violations, errors.Join(stream.Err(), stream.Close())
}
