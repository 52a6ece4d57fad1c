package host_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
)

func TestSagasAreListedByWhatTheyAre(t *testing.T) {
	s := newSystem(t, trips, tours, galas)
	bob, dear, lost := ada, ada, ada
	bob.Traveller, lost.Card = "Bob", "refused by charge-card"
	dear.Price.MinorUnits = 5000
	s.start("trip", "a", ada)
	s.ends("trip", "a", sagav1.Status_STATUS_CONFIRMED)
	s.start("trip", "b", bob)
	s.ends("trip", "b", sagav1.Status_STATUS_CONFIRMED)
	s.start("trip", "c", lost)
	s.ends("trip", "c", sagav1.Status_STATUS_REJECTED)
	between := timestamppb.New(time.Now())
	s.start("tour", "a", ada)
	s.ends("tour", "a", sagav1.Status_STATUS_CONFIRMED)
	s.start("gala", "a", dear)
	s.until("gala", "a", "it should wait for a person", func(g *sagav1.Saga) bool { return g.Status == sagav1.Status_STATUS_AWAITING_APPROVAL })
	s.crew.on("do book-hotel", fails)
	s.start("trip", "d", ada)
	s.needs("trip", "d", "failing")

	newestFirst := []string{"trip d", "gala a", "tour a", "trip c", "trip b", "trip a"}
	for name, c := range map[string]struct {
		ask  *sagav1.ListRequest
		want []string
	}{
		"all of them":         {&sagav1.ListRequest{}, newestFirst},
		"of a definition":     {&sagav1.ListRequest{Definition: "trip"}, []string{"trip d", "trip c", "trip b", "trip a"}},
		"of no definition":    {&sagav1.ListRequest{Definition: "cruise"}, nil},
		"by status":           {&sagav1.ListRequest{Statuses: []sagav1.Status{sagav1.Status_STATUS_REJECTED}}, []string{"trip c"}},
		"by several statuses": {&sagav1.ListRequest{Statuses: []sagav1.Status{sagav1.Status_STATUS_REJECTED, sagav1.Status_STATUS_AWAITING_APPROVAL}}, []string{"gala a", "trip c"}},
		"by whom":             {&sagav1.ListRequest{About: "Bob"}, []string{"trip b"}},
		"by step":             {&sagav1.ListRequest{Step: "book-hotel"}, []string{"trip d"}},
		"by decision":         {&sagav1.ListRequest{Step: "sign-off"}, []string{"gala a"}},
		"by amount":           {&sagav1.ListRequest{AmountOver: 1000}, []string{"gala a"}},
		"by attention":        {&sagav1.ListRequest{Attention: true}, []string{"trip d"}},
		"by reason":           {&sagav1.ListRequest{ReasonCode: "sold_out"}, []string{"trip c"}},
		"since":               {&sagav1.ListRequest{Since: between}, []string{"trip d", "gala a", "tour a"}},
		"old ones":            {&sagav1.ListRequest{OlderThan: durationpb.New(time.Hour)}, nil},
		"by two things":       {&sagav1.ListRequest{Definition: "tour", Statuses: []sagav1.Status{sagav1.Status_STATUS_CONFIRMED}}, []string{"tour a"}},
	} {
		for limit := range int32(3) { // As one page, one by one, and two by two.
			t.Run(fmt.Sprintf("%s in pages of %d", name, limit), func(t *testing.T) {
				c.ask.Limit, c.ask.PageToken = limit, ""
				var got []string
				for {
					page, err := s.sagas.List(s.ctx(), connect.NewRequest(c.ask))
					require.NoError(t, err)
					for _, g := range page.Msg.Sagas {
						got = append(got, g.Definition+" "+g.Key)
					}
					if c.ask.PageToken = page.Msg.NextPageToken; c.ask.PageToken == "" {
						break
					}
					require.Len(t, page.Msg.Sagas, int(limit))
				}
				require.Equal(t, c.want, got)
			})
		}
	}
	_, err := s.sagas.List(s.ctx(), connect.NewRequest(&sagav1.ListRequest{PageToken: "bm9uc2Vuc2U"}))
	require.Contains(t, badFields(t, err)["page_token"], "must be one that a page ended with")
	_, err = s.sagas.List(s.ctx(), connect.NewRequest(&sagav1.ListRequest{Limit: 1001, AmountOver: -1}))
	require.Len(t, badFields(t, err), 2)
}

// Names have spaces: whom a saga is about must be found as it was said.
func TestASagaIsFoundByANameWithASpace(t *testing.T) {
	s := newSystem(t, trips)
	s.start("trip", "a", ada)
	found, err := s.sagas.List(s.ctx(), connect.NewRequest(&sagav1.ListRequest{About: "Ada Lovelace"}))
	require.NoError(t, err)
	require.Len(t, found.Msg.Sagas, 1)
}

func TestAWatcherSeesASagaComeToItsEnd(t *testing.T) {
	s := newSystem(t, trips)
	release := s.crew.hang("do charge-card")
	s.start("trip", "t-1", ada)
	watch := func(only bool) (seen []string, err error) {
		ctx, cancel := context.WithTimeout(s.ctx(), 40*time.Second)
		defer cancel()
		stream, err := s.sagas.Watch(ctx, connect.NewRequest(&sagav1.WatchRequest{Definition: "trip", Key: "t-1", OnlySettled: only}))
		if err != nil {
			return nil, err
		}
		for stream.Receive() {
			seen = append(seen, stream.Msg().Saga.Status.String()+" "+stream.Msg().Saga.Phase)
			release()
		}
		return slices.Compact(seen), stream.Err()
	}
	seen, err := watch(false)
	require.NoError(t, err)
	require.Contains(t, []string{"STATUS_RUNNING forward", "STATUS_RUNNING pivoted"}, seen[0])
	require.Equal(t, "STATUS_CONFIRMED final", seen[len(seen)-1])
	seen, err = watch(true)
	require.NoError(t, err)
	require.Equal(t, []string{"STATUS_CONFIRMED final"}, seen)

	stream, err := s.sagas.Watch(s.ctx(), connect.NewRequest(&sagav1.WatchRequest{Definition: "trip", Key: "nobody"}))
	require.NoError(t, err)
	require.False(t, stream.Receive())
	require.Contains(t, refusedWith(t, connect.CodeNotFound, stream.Err()), `there is no trip "nobody"`)
}

func TestAWatcherWhoWaitsForASettledSagaIsToldOfTrouble(t *testing.T) {
	s := newSystem(t, trips)
	s.crew.on("do issue-ticket", fails)
	s.start("trip", "t-1", ada)
	stream, err := s.sagas.Watch(s.ctx(), connect.NewRequest(&sagav1.WatchRequest{Definition: "trip", Key: "t-1", UntilSettled: true, OnlySettled: true}))
	require.NoError(t, err)
	var last *sagav1.Saga
	for stream.Receive() {
		last = stream.Msg().Saga
	}
	require.NoError(t, stream.Err())
	require.Equal(t, sagav1.Status_STATUS_NEEDS_ATTENTION, last.Status)
}

func TestAHistoryTellsWhatHappenedAndWhatIsOnRecord(t *testing.T) {
	s := newSystem(t, trips)
	s.crew.on("do issue-ticket", loses)
	s.start("trip", "t-1", ada)
	s.needs("trip", "t-1", "failing")
	_, err := s.cancel("trip", "t-1", false)
	refusedWith(t, connect.CodeFailedPrecondition, err)
	s.agency.CloseClientConnections()
	s.agency.Listener.Close()

	answer, err := s.sagas.History(s.ctx(), connect.NewRequest(&sagav1.HistoryRequest{Definition: "trip", Key: "t-1"}))
	require.NoError(t, err)
	var happened []string
	for _, e := range answer.Msg.Entries {
		happened = append(happened, e.Kind+" "+e.Step+" "+e.Outcome)
		if e.Kind == "command" {
			require.Equal(t, "kim: changed their mind", e.Actor+": "+e.Reason)
		}
	}
	require.Equal(t, []string{
		"status  RUNNING", "attempt book-flight applied", "attempt book-hotel applied", "attempt charge-card applied", "attempt issue-ticket unknown",
	}, happened[:5])
	require.Contains(t, happened, "status  NEEDS_ATTENTION")
	require.Contains(t, happened, "command  cancel too-late")

	records := answer.Msg.Operations
	require.Len(t, records, 4)
	for i, step := range []string{"book-flight", "book-hotel", "charge-card", "issue-ticket"} {
		require.Equal(t, step, records[i].Step, "in the order of the plan")
		if step == "book-hotel" {
			require.NotEmpty(t, records[i].Unreachable, "who does not answer costs its own line only")
			continue
		}
		require.Equal(t, "applied", records[i].Do, "also where the answer was lost")
		require.Equal(t, step+"/t-1", records[i].Reference)
	}
}
