package notification

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/emersion/go-smtp"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	notificationv1 "github.com/checkoutsaga/orchestrator/gen/notification/v1"
	"github.com/checkoutsaga/orchestrator/gen/notification/v1/notificationv1connect"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	ordersv1 "github.com/checkoutsaga/orchestrator/gen/orders/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// brisk is a pace for tests: what is put back is due at once, and a look is far away unless a test is about looking.
var brisk = pace{
	look: 20 * time.Millisecond, send: 10 * time.Second, lease: 30 * time.Second,
	first: time.Millisecond, longest: 20 * time.Millisecond, attempts: 1000,
}

func TestACustomerIsToldEachStatusOfAnOrder(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	f := start(t, pgtest.URL(t), mailer(t, server), brisk)
	for seq, status := range []string{"placed", "confirmed"} {
		require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", int64(seq+1), status)))
		f.requireStates(t, "ord-1", slices.Repeat([]string{"sent"}, seq+1)...)
	}
	require.Equal(t, []string{"Your order ord-1 is placed", "Your order ord-1 is confirmed"}, server.subjects(t))
	require.Equal(t, "cus-1@customers.example", server.taken()[0].to)
	require.Contains(t, server.taken()[1].text, "Your order ord-1 is confirmed and paid.")

	told := f.list(t, "ord-1")
	require.Len(t, told, 2)
	require.Equal(t, "orders:order:ord-1:1", told[0].EventId)
	require.Equal(t, "cus-1", told[0].CustomerId)
	require.Equal(t, "Your order ord-1 is placed", told[0].Subject)
	require.Equal(t, int32(1), told[0].Attempts)
	require.Empty(t, told[0].Error)
	require.WithinRange(t, told[0].SentAt.AsTime(), told[0].CreatedAt.AsTime(), time.Now().Add(time.Second))
	require.Empty(t, f.list(t, "ord-2"))
}

func TestItIsWokenByTheEventAndDoesNotWaitForALook(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	seldom := brisk
	seldom.look = time.Hour
	f := start(t, pgtest.URL(t), mailer(t, server), seldom)
	for i := range 20 {
		require.Equal(t, bus.Success, f.deliver(t, changed(fmt.Sprintf("ord-%d", i), 1, "placed")))
	}
	for i := range 20 {
		f.requireStates(t, fmt.Sprintf("ord-%d", i), "sent")
	}
}

func TestABacklogIsSentSideBySide(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	var inHand sync.WaitGroup
	inHand.Add(5)
	server.behave(func(at moment, _ *session) error {
		if at == inText {
			inHand.Done()
			inHand.Wait() // One after the other would wait for ever.
		}
		return nil
	})
	url := pgtest.URL(t)
	seldom := brisk
	seldom.look = time.Hour
	f, silent := start(t, url, mailer(t, server), seldom), start(t, url, nil, pace{})
	for i := range 4 {
		require.Equal(t, bus.Success, silent.deliver(t, changed(fmt.Sprintf("ord-%d", i), 1, "placed")))
	}
	require.Equal(t, bus.Success, f.deliver(t, changed("ord-4", 1, "placed")))
	for i := range 5 {
		f.requireStates(t, fmt.Sprintf("ord-%d", i), "sent")
	}
}

func TestI2ARepeatedEventIsOneMail(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	f := start(t, pgtest.URL(t), mailer(t, server), brisk)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() { assert.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 1, "placed"))) })
	}
	all.Wait()
	f.requireStates(t, "ord-1", "sent")
	require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 1, "placed")))
	require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 2, "confirmed")))
	f.requireStates(t, "ord-1", "sent", "sent")
	require.Len(t, server.taken(), 2)
}

func TestI6AStatusThatComesLateIsNotTold(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	f := start(t, pgtest.URL(t), mailer(t, server), brisk)
	require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 2, "confirmed")))
	require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 1, "placed")))
	f.requireStates(t, "ord-1", "superseded", "sent")
	require.Equal(t, []string{"Your order ord-1 is confirmed"}, server.subjects(t))
	var outcomes string
	const query = `SELECT string_agg(outcome, ' ' ORDER BY seq) FROM inbox`
	require.NoError(t, f.service.store.pool.QueryRow(t.Context(), query).Scan(&outcomes))
	require.Equal(t, "late applied", outcomes)
}

func TestI6EventsOfManyOrdersInAnyOrderAndTwiceEndWithTheNewestTold(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	f := start(t, pgtest.URL(t), mailer(t, server), brisk)
	var events []*ordersv1.OrderStatusChanged
	for i := range 30 {
		for seq, status := range []string{"placed", "confirmed", "cancelled"} {
			events = append(events, changed(fmt.Sprintf("ord-%d", i), int64(seq+1), status))
		}
	}
	events = append(events, events...)
	rand.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	queue := make(chan *ordersv1.OrderStatusChanged)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for m := range queue {
				assert.Equal(t, bus.Success, f.deliver(t, m))
			}
		})
	}
	for _, m := range events {
		queue <- m
	}
	close(queue)
	all.Wait()

	for i := range 30 {
		f.requireSettled(t, fmt.Sprintf("ord-%d", i), 3)
	}
	rank := map[string]int{"placed": 1, "confirmed": 2, "cancelled": 3}
	last := make(map[string]int)
	for _, subject := range server.subjects(t) {
		words := strings.Fields(subject)
		order, status := words[2], words[4]
		require.Greater(t, rank[status], last[order], "%s was told %s after something newer, or twice", order, status)
		last[order] = rank[status]
	}
	for i := range 30 {
		require.Equal(t, 3, last[fmt.Sprintf("ord-%d", i)], "the newest is told")
	}
}

func TestWhileTheServerIsDownANewerStatusSupersedesWhatIsUnsent(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	server.stop()
	f := start(t, pgtest.URL(t), mailer(t, server), brisk)
	require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 1, "placed")))
	require.Equal(t, bus.Success, f.deliver(t, changed("ord-2", 1, "placed")))
	require.Eventually(t, func() bool {
		told := f.list(t, "ord-1")[0]
		return told.Attempts > 2 && strings.Contains(told.Error, "reach mail server: ") && told.SentAt == nil
	}, 30*time.Second, 5*time.Millisecond, "what is tried in vain can be seen")
	require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 2, "confirmed")))
	require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 3, "cancelled")))

	server.start(t)
	f.requireStates(t, "ord-1", "superseded", "superseded", "sent")
	f.requireStates(t, "ord-2", "sent")
	subjects := server.subjects(t)
	slices.Sort(subjects)
	require.Equal(t, []string{"Your order ord-1 is cancelled", "Your order ord-2 is placed"}, subjects)
	require.Empty(t, f.list(t, "ord-2")[0].Error, "an error that is overcome is not shown")
}

func TestANewerStatusWaitsForTheOlderOneThatIsInHand(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]struct {
		answer error
		states []string
		told   []string
	}{
		"which is sent after all": {nil, []string{"sent", "sent"}, []string{"Your order ord-1 is placed", "Your order ord-1 is confirmed"}},
		"which is not tried again": {
			&smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "try later"},
			[]string{"superseded", "sent"}, []string{"Your order ord-1 is confirmed"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMailServer(t)
			inHand, goOn := server.hold(ends.answer)
			f := start(t, pgtest.URL(t), mailer(t, server), brisk)
			require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 1, "placed")))
			<-inHand
			require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 2, "confirmed")))
			// Another order's goes out meanwhile, and by a sender that looks after the newer one became due.
			require.Equal(t, bus.Success, f.deliver(t, changed("ord-2", 1, "placed")))
			f.requireStates(t, "ord-2", "sent")
			_, found := f.claim(t, brisk)
			require.False(t, found, "the newer one is nobody's yet")
			require.Equal(t, []string{"superseded", "waiting"}, f.states(t, "ord-1"))

			goOn()
			f.requireStates(t, "ord-1", ends.states...)
			require.Equal(t, ends.told, slices.DeleteFunc(server.subjects(t), func(s string) bool { return strings.Contains(s, "ord-2") }))
		})
	}
}

func TestWhatTheServerRefusesForGoodFailsAtOnceAndVisibly(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	server.behave(func(at moment, s *session) error {
		if at == atRecipient && strings.HasPrefix(s.mail.to, "gone@") {
			return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
		}
		return nil
	})
	f := start(t, pgtest.URL(t), mailer(t, server), brisk)
	gone, odd := changed("ord-1", 1, "placed"), changed("ord-2", 1, "placed")
	gone.CustomerId, odd.CustomerId = "gone", "a@b"
	for _, m := range []*ordersv1.OrderStatusChanged{gone, odd, changed("ord-3", 1, "placed")} {
		require.Equal(t, bus.Success, f.deliver(t, m))
	}
	f.requireStates(t, "ord-3", "sent")
	for order, says := range map[string]string{"ord-1": `refused for good: 550 "5.1.1 no such user"`, "ord-2": `"a@b" can be nobody's mailbox`} {
		f.requireStates(t, order, "failed")
		told := f.list(t, order)[0]
		require.Contains(t, told.Error, says)
		require.True(t, strings.HasPrefix(told.Error, "given up: "), told.Error)
		require.Equal(t, int32(1), told.Attempts)
		require.Nil(t, told.SentAt)
	}
	require.Len(t, server.taken(), 1)

	// The next status of such an order is a new chance.
	server.behave(nil)
	next := changed("ord-1", 2, "confirmed")
	next.CustomerId = "gone"
	require.Equal(t, bus.Success, f.deliver(t, next))
	f.requireStates(t, "ord-1", "failed", "sent")
}

func TestAServerThatDiesInTheMiddleOfTheTextGetsTheMailAgain(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	f := start(t, pgtest.URL(t), mailer(t, server), brisk)
	died := server.dieOnce(inText)
	require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 1, "placed")))
	f.requireStates(t, "ord-1", "sent")
	require.True(t, died(), "it died")
	require.Len(t, server.taken(), 1)
	require.Equal(t, int32(2), f.list(t, "ord-1")[0].Attempts)
}

func TestAMailWhoseAnswerWasLostIsRepeatedToTheByte(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	f := start(t, pgtest.URL(t), mailer(t, server), brisk)
	died := server.dieOnce(onceTaken)
	require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 1, "placed")))
	f.requireStates(t, "ord-1", "sent")
	require.True(t, died(), "it died")
	mails := server.taken()
	require.Len(t, mails, 2)
	require.Equal(t, mails[0], mails[1])
	require.NotEmpty(t, mails[0].message(t).Header.Get("Message-ID"))
}

func TestASlowServerIsLeftAndTriedAgain(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	inHand, goOn := server.hold(nil)
	impatient := brisk
	impatient.send = 200 * time.Millisecond
	f := start(t, pgtest.URL(t), mailer(t, server), impatient)
	require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 1, "placed")))
	<-inHand
	// The second attempt finds a server that is quick again.
	f.requireStates(t, "ord-1", "sent")
	require.GreaterOrEqual(t, f.list(t, "ord-1")[0].Attempts, int32(2))
	goOn()
}

func TestItGivesUpAfterSoManyAttempts(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	server.stop()
	few := brisk
	few.attempts = 3
	f := start(t, pgtest.URL(t), mailer(t, server), few)
	require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 1, "placed")))
	f.requireStates(t, "ord-1", "failed")
	told := f.list(t, "ord-1")[0]
	require.Equal(t, int32(3), told.Attempts)
	require.True(t, strings.HasPrefix(told.Error, "given up: reach mail server: "), told.Error)
	require.Nil(t, told.SentAt)
}

func TestThePausesDoubleUpToTheLongest(t *testing.T) {
	t.Parallel()
	var all time.Duration
	var pauses []time.Duration
	for attempt := 1; attempt < usual.attempts; attempt++ {
		pauses = append(pauses, usual.pause(attempt))
		all += usual.pause(attempt)
	}
	const s = time.Second
	require.Equal(t, []time.Duration{5 * s, 10 * s, 20 * s, 40 * s, 80 * s, 160 * s, 320 * s, 600 * s, 600 * s}, pauses[:9])
	require.InDelta(t, (7 * time.Hour).Minutes(), all.Minutes(), 15)
	require.Greater(t, usual.lease, usual.send+2*recordTimeout)
}

func TestI8WhatACrashLeftInHandIsSentWhenItsLeaseEnds(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	url := pgtest.URL(t)
	f := start(t, url, mailer(t, server), pace{}) // Nothing is sent yet.
	for _, order := range []string{"ord-1", "ord-2", "ord-3"} {
		require.Equal(t, bus.Success, f.deliver(t, changed(order, 1, "placed")))
	}
	few := brisk
	few.attempts = 2
	for range 3 { // By a process that is no more.
		_, found := f.claim(t, few)
		require.True(t, found)
	}
	_, found := f.claim(t, few)
	require.False(t, found, "what is in hand is nobody else's")
	const leaseEnds = `UPDATE notifications SET due_at = now(), in_hand_until = now(), attempts = $2 WHERE order_id = $1`
	_, err := f.service.store.pool.Exec(t.Context(), leaseEnds, "ord-2", 2)
	require.NoError(t, err)
	_, found = f.claim(t, few)
	require.False(t, found, "what has no attempt left is not begun again")
	_, err = f.service.store.pool.Exec(t.Context(), leaseEnds, "ord-1", 1)
	require.NoError(t, err)

	next := start(t, url, mailer(t, server), few)
	next.requireStates(t, "ord-1", "sent")
	next.requireStates(t, "ord-2", "failed")
	next.requireStates(t, "ord-3", "waiting")
	require.Contains(t, next.list(t, "ord-2")[0].Error, "given up: the process ended in the middle of the last attempt")
	require.Equal(t, []string{"Your order ord-1 is placed"}, server.subjects(t))
}

func TestAnAttemptThatOutlivedItsLeaseHasNoSay(t *testing.T) {
	t.Parallel()
	f := start(t, pgtest.URL(t), nil, pace{})
	require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 1, "placed")))
	none := brisk
	none.lease = 0
	first, _ := f.claim(t, none)
	second, _ := f.claim(t, brisk)
	require.Equal(t, 2, second.attempts)

	_, err := f.service.store.markFailed(t.Context(), first, errors.New("late"), true, 0)
	require.NoError(t, err)
	require.Equal(t, []string{"waiting"}, f.states(t, "ord-1"))
	_, err = f.service.store.turn(t.Context(), brisk, []string{second.EventID}, 0)
	require.NoError(t, err)
	_, err = f.service.store.markFailed(t.Context(), second, errors.New("late"), true, 0)
	require.NoError(t, err)
	require.Equal(t, []string{"sent"}, f.states(t, "ord-1"))
	require.Empty(t, f.list(t, "ord-1")[0].Error)
}

func TestI2ManyProcessesOnOneDatabaseSendEachMailOnce(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	url := pgtest.URL(t)
	var processes []*fixture
	for range 3 {
		processes = append(processes, start(t, url, mailer(t, server), brisk))
	}
	const orders = 60
	for i := range orders {
		require.Equal(t, bus.Success, processes[i%3].deliver(t, changed(fmt.Sprintf("ord-%d", i), 1, "placed")))
	}
	for i := range orders {
		processes[0].requireStates(t, fmt.Sprintf("ord-%d", i), "sent")
	}
	subjects := server.subjects(t)
	slices.Sort(subjects)
	require.Len(t, subjects, orders)
	require.Len(t, slices.Compact(subjects), orders)
}

func TestI8AStopFinishesTheMailInHand(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	inHand, goOn := server.hold(nil)
	f := start(t, pgtest.URL(t), mailer(t, server), brisk)
	require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 1, "placed")))
	<-inHand
	f.stop()
	require.Never(t, func() bool { return len(f.ran) > 0 }, 100*time.Millisecond, 10*time.Millisecond, "it ended with a mail in hand")
	goOn()
	require.NoError(t, <-f.ran)
	f.ran <- nil // For the cleanup.
	require.Equal(t, []string{"sent"}, f.states(t, "ord-1"))
	require.Len(t, server.taken(), 1)
}

func TestI5NothingIsSentOfAnEventThatWasNotCommitted(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	f := start(t, pgtest.URL(t), mailer(t, server), brisk)
	// Fails at the commit, when all is written.
	const fail = `
		CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the disk is full'; END $$;
		CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON notifications DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()`
	_, err := f.service.store.pool.Exec(t.Context(), fail)
	require.NoError(t, err)
	require.Equal(t, bus.Retry, f.deliver(t, changed("ord-1", 1, "placed")))
	require.Empty(t, f.list(t, "ord-1"))

	_, err = f.service.store.pool.Exec(t.Context(), `DROP TRIGGER fail ON notifications`)
	require.NoError(t, err)
	require.Equal(t, bus.Success, f.deliver(t, changed("ord-1", 1, "placed")))
	f.requireStates(t, "ord-1", "sent")
	require.Len(t, server.taken(), 1)
}

func TestAnEventThatCanNeverBeTakenIsDroppedWithItsCause(t *testing.T) {
	t.Parallel()
	f := start(t, pgtest.URL(t), nil, pace{})
	for says, change := range map[string]func(*ordersv1.OrderStatusChanged){
		"header.order_id: must be":                       func(m *ordersv1.OrderStatusChanged) { m.Header.OrderId = "ord-1\r\nBcc: evil@evil.example" },
		"customer_id: is missing":                        func(m *ordersv1.OrderStatusChanged) { m.CustomerId = "" },
		"customer_id: must not":                          func(m *ordersv1.OrderStatusChanged) { m.CustomerId = "a\r\nRCPT TO:<evil@evil.example>" },
		`status: must be placed, confirmed or cancelled`: func(m *ordersv1.OrderStatusChanged) { m.Status = "eaten" },
	} {
		m := changed("ord-1", 1, "placed")
		change(m)
		m.Header.EventId = uuid.NewString()
		require.Equal(t, bus.Drop, f.deliver(t, m), says)
		failures, err := f.service.inbox.Failures(t.Context(), []string{m.Header.EventId})
		require.NoError(t, err)
		require.Len(t, failures, 1)
		require.Contains(t, failures[0].Error, says)
	}
	require.Empty(t, f.list(t, "ord-1"))
}

func TestWhatAServerSaysIsKeptWhateverItIs(t *testing.T) {
	t.Parallel()
	require.Equal(t, "a?b?c", why(errors.New("a\x00b\xffc")))
	require.Len(t, why(errors.New(strings.Repeat("ü", maxError))), maxError)
	require.LessOrEqual(t, len(why(errors.New("x"+strings.Repeat("ü", maxError)))), maxError)
}

func TestI9BadInputIsRefusedWithItsField(t *testing.T) {
	t.Parallel()
	f := start(t, pgtest.URL(t), nil, pace{})
	for _, id := range []string{"", "-", "a b", strings.Repeat("a", 65)} {
		_, err := f.client.ListNotifications(t.Context(), connect.NewRequest(&notificationv1.ListNotificationsRequest{OrderId: id}))
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), id)
		require.ErrorContains(t, err, "order_id: ")
	}
}

func TestAsAProcessWithoutAMailServerItWritesToTheLog(t *testing.T) {
	t.Parallel()
	kind := NewKind(FromEnv(func(string) string { return "" }))
	require.True(t, kind.Streams)
	carrier := embedded.New()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	p, err := process.Open(t.Context(), kind, process.Settings{DatabaseURL: pgtest.URL(t), Listen: "127.0.0.1:0"}, log)
	require.NoError(t, err)
	p.UseEmbedded(carrier)
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- process.RunParts(ctx, log, p.Parts()...) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ran)
		p.Close()
	})
	m := changed("ord-1", 1, "placed")
	require.NoError(t, carrier.Publish(t.Context(), []bus.Event{{ID: m.Header.EventId, Topic: m.Header.Topic, Key: "ord-1", Data: encode(t, m)}})[0])
	f := &fixture{client: notificationv1connect.NewNotificationServiceClient(http.DefaultClient, p.URL())}
	require.Eventually(t, func() bool { return f.list(t, "ord-1")[0].SentAt != nil }, 30*time.Second, 5*time.Millisecond)
}

func TestHalfASettingIsNoSetting(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{{From: "a@b.example"}, {MailDomain: "b.example"}, {SMTPAddress: "mail:25"}} {
		_, err := NewKind(c).Open(t.Context(), "postgres://nowhere.example/x", slog.New(slog.DiscardHandler))
		require.ErrorContains(t, err, "NOTIFICATION_")
	}
}

// hold has the server keep the first mail in hand, in the middle of its text; it says so on inHand, and goOn lets it answer.
func (m *mailServer) hold(answer error) (inHand <-chan struct{}, goOn func()) {
	held, released := make(chan struct{}), make(chan struct{})
	var once sync.Once
	m.behave(func(at moment, _ *session) error {
		first := false
		if at == inText {
			once.Do(func() { first = true })
		}
		if !first {
			return nil
		}
		close(held)
		<-released
		return answer
	})
	return held, sync.OnceFunc(func() { close(released) })
}

// dieOnce breaks the first connection that comes to a moment; died tells whether that was so.
func (m *mailServer) dieOnce(when moment) (died func() bool) {
	var once sync.Once
	is := make(chan struct{})
	m.behave(func(at moment, s *session) (err error) {
		if at == when {
			once.Do(func() {
				close(is)
				err = s.die()
			})
		}
		return err
	})
	return func() bool {
		select {
		case <-is:
			return true
		default:
			return false
		}
	}
}

// fixture is the participant on a real server.
type fixture struct {
	service *Service
	client  notificationv1connect.NotificationServiceClient
	handle  bus.Handler
	stop    context.CancelFunc
	ran     chan error
}

// start starts it at a pace; the zero pace sends nothing.
func start(t *testing.T, url string, sender Sender, p pace) *fixture {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	service, err := open(t.Context(), url, sender, log)
	require.NoError(t, err)
	t.Cleanup(service.Close)
	service.pace = p
	server, err := rpcserver.Listen(rpcserver.Config{Address: "127.0.0.1:0", Ready: service.Ready, Log: log})
	require.NoError(t, err)
	service.Mount(server)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-served)
	})
	subscriptions, err := service.inbox.Subscriptions()
	require.NoError(t, err)
	require.Len(t, subscriptions, 1)

	f := &fixture{
		service: service, client: notificationv1connect.NewNotificationServiceClient(http.DefaultClient, server.URL()),
		handle: subscriptions[0].Handle, ran: make(chan error, 1),
	}
	if p == (pace{}) {
		return f
	}
	var sending context.Context
	sending, f.stop = context.WithCancel(context.Background())
	go func() { f.ran <- service.Run(sending) }()
	t.Cleanup(func() {
		f.stop()
		require.NoError(t, <-f.ran)
	})
	return f
}

// claim claims one notification as a process does.
func (f *fixture) claim(t *testing.T, p pace) (n notification, found bool) {
	t.Helper()
	claimed, err := f.service.store.turn(t.Context(), p, nil, 1)
	require.NoError(t, err)
	if len(claimed) == 0 {
		return notification{}, false
	}
	return claimed[0], true
}

// deliver hands an event over as a carrier does.
func (f *fixture) deliver(t *testing.T, m *ordersv1.OrderStatusChanged) bus.Answer {
	t.Helper()
	return f.handle(t.Context(), bus.Delivery{Topic: m.Header.Topic, ID: m.Header.EventId, Data: encode(t, m)})
}

func (f *fixture) list(t *testing.T, order string) []*notificationv1.Notification {
	t.Helper()
	res, err := f.client.ListNotifications(t.Context(), connect.NewRequest(&notificationv1.ListNotificationsRequest{OrderId: order}))
	require.NoError(t, err)
	return res.Msg.Notifications
}

// states are those of an order's notifications, oldest first.
func (f *fixture) states(t *testing.T, order string) (states []string) {
	t.Helper()
	found, err := f.service.store.list(t.Context(), order)
	require.NoError(t, err)
	for _, n := range found {
		states = append(states, string(n.state))
	}
	return states
}

// requireStates waits until an order's notifications are in these states.
func (f *fixture) requireStates(t *testing.T, order string, want ...string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.Equal(c, want, f.states(t, order), order)
	}, 30*time.Second, 5*time.Millisecond)
}

// requireSettled waits until nothing of an order waits any more.
func (f *fixture) requireSettled(t *testing.T, order string, notifications int) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		states := f.states(t, order)
		assert.Len(c, states, notifications, order)
		assert.NotContains(c, states, "waiting", order)
	}, 30*time.Second, 5*time.Millisecond)
}

func changed(order string, seq int64, status string) *ordersv1.OrderStatusChanged {
	return &ordersv1.OrderStatusChanged{
		Header: &eventv1.Header{
			EventId: fmt.Sprintf("orders:order:%s:%d", order, seq), Topic: "orders.order.status_changed", Producer: "orders", OrderId: order,
			Seq: seq, SchemaVersion: 1, Coordination: event.Orchestrated, OccurredAt: timestamppb.Now(),
		},
		CustomerId: "cus-1", Status: status, Amount: &operationv1.Money{Currency: "EUR", MinorUnits: 4999},
	}
}

func encode(t testing.TB, m event.Message) []byte {
	t.Helper()
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	require.NoError(t, err)
	return data
}
