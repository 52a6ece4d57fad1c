package host_test

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/saga"
)

func TestATripIsBookedStepByStep(t *testing.T) {
	s := newSystem(t, trips)
	started := s.start("trip", "t-1", ada)
	require.True(t, started.Created)
	require.Equal(t, sagav1.Status_STATUS_RUNNING, started.Saga.Status)
	final := s.ends("trip", "t-1", sagav1.Status_STATUS_CONFIRMED)
	require.Equal(t, []string{"book-flight done", "book-hotel done", "charge-card done", "issue-ticket done"}, states(final))
	require.Equal(t, "Ada Lovelace", final.About)
	require.Equal(t, "EUR", final.Money.Currency)
	require.EqualValues(t, 900, final.Money.MinorUnits)
	require.Equal(t, map[string]int{"book-flight": 1, "book-hotel": 1, "charge-card": 1, "issue-ticket": 1}, s.crew.books("trip", "t-1"))
	s.auditFindsNothing("trip", 1)
}

func TestARefusalUndoesWhatWasDone(t *testing.T) {
	s := newSystem(t, trips, tours)
	for name, c := range map[string]struct {
		definition string
		to         trip
		want       []string
	}{
		"at the first step":             {"trip", trip{To: "refused by book-flight"}, []string{"book-flight rejected", "book-hotel skipped", "charge-card skipped", "issue-ticket skipped"}},
		"in the middle":                 {"trip", trip{To: "refused by book-hotel"}, []string{"book-flight done, undone: done", "book-hotel rejected", "charge-card skipped", "issue-ticket skipped"}},
		"at the pivot":                  {"trip", trip{Card: "refused by charge-card"}, []string{"book-flight done, undone: done", "book-hotel done, undone: done", "charge-card rejected", "issue-ticket skipped"}},
		"at the last one without pivot": {"tour", trip{To: "refused by book-flight"}, []string{"book-hotel done, undone: done", "book-flight rejected"}},
	} {
		key := strings.ReplaceAll(name, " ", "-")
		c.to.Traveller = "Bob"
		s.start(c.definition, key, c.to)
		final := s.ends(c.definition, key, sagav1.Status_STATUS_REJECTED)
		require.Equal(t, c.want, states(final), name)
		require.Equal(t, "sold_out", final.ReasonCode, name)
		require.Empty(t, s.crew.books(c.definition, key), name)
	}
	s.auditFindsNothing("trip", 3)
	s.auditFindsNothing("tour", 1)
}

func TestAStartMayWaitForTheEnd(t *testing.T) {
	s := newSystem(t, trips)
	wait := func(key string, most time.Duration) *sagav1.StartResponse {
		answer, err := s.sagas.Start(s.ctx(), connect.NewRequest(&sagav1.StartRequest{
			Definition: "trip", Key: key, Input: value(t, ada), Wait: durationpb.New(most),
		}))
		require.NoError(t, err)
		return answer.Msg
	}
	final := wait("t-1", 20*time.Second)
	require.True(t, final.Created)
	require.Equal(t, sagav1.Status_STATUS_CONFIRMED, final.Saga.Status)
	if diff := cmp.Diff(s.get("trip", "t-1"), final.Saga, protocmp.Transform()); diff != "" {
		t.Errorf("what was waited for is not what is read (-read +waited for):\n%s", diff)
	}
	again := wait("t-1", 20*time.Second)
	require.False(t, again.Created)
	require.Equal(t, sagav1.Status_STATUS_CONFIRMED, again.Saga.Status)

	release := s.crew.hang("do charge-card")
	defer release()
	require.Equal(t, sagav1.Status_STATUS_RUNNING, wait("t-2", 100*time.Millisecond).Saga.Status, "the wait is over")
	release()

	_, err := s.sagas.Start(s.ctx(), connect.NewRequest(&sagav1.StartRequest{Definition: "trip", Key: "t-3", Input: value(t, ada), Wait: durationpb.New(21 * time.Second)}))
	require.ErrorContains(t, err, "wait: must be 0 to 20 seconds")
}

func TestTheSameStartIsTheSameSaga(t *testing.T) {
	s := newSystem(t, trips, tours)
	require.True(t, s.start("trip", "t-1", ada).Created)
	again := s.start("trip", "t-1", map[string]any{"price": ada.Price, "to": ada.To, "card": ada.Card, "traveller": ada.Traveller})
	require.False(t, again.Created, "the order of fields makes no difference")
	s.ends("trip", "t-1", sagav1.Status_STATUS_CONFIRMED)
	require.False(t, s.start("trip", "t-1", ada).Created, "not even when it has ended")
	require.Equal(t, 1, s.crew.books("trip", "t-1")["book-flight"])

	other := ada
	other.To = "Rome"
	_, err := s.sagas.Start(s.ctx(), connect.NewRequest(&sagav1.StartRequest{Definition: "trip", Key: "t-1", Input: value(t, other)}))
	require.Contains(t, refusedWith(t, connect.CodeAlreadyExists, err), "trip t-1 was accepted with another input")
	require.True(t, s.start("tour", "t-1", other).Created, "another definition has keys of its own")
	s.ends("tour", "t-1", sagav1.Status_STATUS_CONFIRMED)
}

func TestAStartMayBeNamedByItsHeaderAlone(t *testing.T) {
	s := newSystem(t, trips)
	start := func(header, key string, input trip) (*sagav1.StartResponse, error) {
		req := connect.NewRequest(&sagav1.StartRequest{Definition: "trip", Key: key, Input: value(t, input)})
		req.Header().Set("Idempotency-Key", header)
		answer, err := s.sagas.Start(s.ctx(), req)
		if err != nil {
			return nil, err
		}
		return answer.Msg, nil
	}
	first, err := start("click 1", "", ada)
	require.NoError(t, err)
	again, err := start("click 1", "", ada)
	require.NoError(t, err)
	require.Equal(t, first.Saga.Key, again.Saga.Key)
	require.Equal(t, []bool{true, false}, []bool{first.Created, again.Created})

	bob := ada
	bob.Traveller = "Bob"
	_, err = start("click 1", "", bob)
	require.Contains(t, refusedWith(t, connect.CodeAlreadyExists, err), "was accepted with another input")
	_, err = start("click 1", "t-2", ada)
	require.Contains(t, refusedWith(t, connect.CodeAlreadyExists, err), `idempotency key "click 1" was used with another key`)
	_, err = start("click 2", first.Saga.Key, ada)
	require.Contains(t, refusedWith(t, connect.CodeAlreadyExists, err), "was accepted under another idempotency key")
	_, err = start("", "", ada)
	require.Contains(t, badFields(t, err)["key"], "is missing, and so is the Idempotency-Key header")
	_, err = start(strings.Repeat("x", 256), "t-3", ada)
	require.Contains(t, badFields(t, err)["Idempotency-Key"], "must be at most 255 printable characters")
	s.ends("trip", first.Saga.Key, sagav1.Status_STATUS_CONFIRMED)
}

func TestAStartThatCannotBeAcceptedSaysWhy(t *testing.T) {
	negative, nobody, longName := ada, ada, ada
	negative.Price.MinorUnits = -1
	nobody.Traveller = ""
	longName.Traveller = strings.Repeat("x", 129)
	s := newSystem(t, trips, tours)
	for name, c := range map[string]struct {
		input          any
		field, problem string
	}{
		"an unknown field":               {map[string]any{"traveller": "Ada", "seat": "12A"}, "input", `unknown field "seat"`},
		"the wrong type":                 {map[string]any{"traveller": 7}, "input", "traveller must be a text, not number"},
		"what Check refuses":             {nobody, "input", "a trip needs a traveller"},
		"no input":                       {nil, "input", "is missing"},
		"no object":                      {"Ada", "input", "must be an object, not string"},
		"a negative amount":              {negative, "input", "the money that is at stake must not be negative"},
		"a name that nobody looks for":   {longName, "input", "whom it is about must be at most 128 printable characters"},
		"a zero byte":                    {map[string]any{"traveller": "Ada", "to": "Tu\x00rin"}, "input", "must not contain a zero character"},
		"a number that has lost digits":  {map[string]any{"traveller": "Ada", "price": map[string]any{"currency": "EUR", "minor_units": 9007199254740993}}, "input", "may have lost digits on its way; write it as a text"},
		"more than participants take":    {map[string]any{"traveller": "Ada", "to": strings.Repeat("x", saga.MaxInput)}, "input", "at most 65536"},
		"what is nested without any end": {deep(100), "input", "traveller must be a text"},
	} {
		t.Run(name, func(t *testing.T) {
			req := &sagav1.StartRequest{Definition: "trip", Key: "bad", Input: value(t, c.input)}
			if c.input == nil {
				req.Input = nil
			}
			_, err := s.sagas.Start(s.ctx(), connect.NewRequest(req))
			require.Contains(t, badFields(t, err)[c.field], c.problem)
			_, err = s.sagas.Get(s.ctx(), connect.NewRequest(&sagav1.GetRequest{Definition: "trip", Key: "bad"}))
			require.Contains(t, refusedWith(t, connect.CodeNotFound, err), `there is no trip "bad"`)
		})
	}
	_, err := s.sagas.Start(s.ctx(), connect.NewRequest(&sagav1.StartRequest{Definition: "trip", Key: "no key", Input: structpb.NewNullValue()}))
	require.Contains(t, badFields(t, err), "key")
	_, err = s.sagas.Start(s.ctx(), connect.NewRequest(&sagav1.StartRequest{Definition: "cruise", Key: "c-1", Input: value(t, ada)}))
	require.Contains(t, refusedWith(t, connect.CodeNotFound, err), `there is no saga "cruise" here; this process has [tour trip]`)
	_, err = s.sagas.Get(s.ctx(), connect.NewRequest(&sagav1.GetRequest{Definition: "cruise", Key: "c-1"}))
	require.Contains(t, refusedWith(t, connect.CodeNotFound, err), `[tour trip]`)
}

// deep is an object with a list in a list in a list.
func deep(n int) map[string]any {
	var list any = 1
	for range n {
		list = []any{list}
	}
	return map[string]any{"traveller": list}
}

func TestTheDefinitionsAreListed(t *testing.T) {
	s := newSystem(t, trips, tours, galas)
	answer, err := s.sagas.ListDefinitions(s.ctx(), connect.NewRequest(&sagav1.ListDefinitionsRequest{}))
	require.NoError(t, err)
	var names []string
	for _, d := range answer.Msg.Definitions {
		names = append(names, d.Name)
		require.EqualValues(t, 1, d.Version)
		require.Equal(t, saga.DefaultDeadline, d.Deadline.AsDuration())
	}
	require.Equal(t, []string{"gala", "tour", "trip"}, names)
	gala := answer.Msg.Definitions[0].Plan
	require.Len(t, gala.Steps, 4)
	require.True(t, gala.Steps[1].Decision)
	require.Equal(t, "operator", gala.Steps[1].Participant)
	require.True(t, gala.Steps[2].Pivot)
	require.Equal(t, "refund-card", gala.Steps[2].Compensation)
}

// A definition that got a field writes what it reads in another way. Whoever was not answered and asks again is told the same saga.
func TestAStartIsTheSameAfterItsDefinitionGotAField(t *testing.T) {
	s := newSystem(t, trips)
	s.start("trip", "t-1", ada)
	s.ends("trip", "t-1", sagav1.Status_STATUS_CONFIRMED)
	s.close()

	type meal struct {
		trip
		Meal string `json:"meal"`
	}
	s.open(saga.For[meal]{Name: "trip", Version: 2, Steps: []saga.Step{bookFlight, bookHotel, chargeCard, issueTicket}})
	require.False(t, s.start("trip", "t-1", ada).Created)
	require.True(t, s.start("trip", "t-2", ada).Created)
	s.ends("trip", "t-2", sagav1.Status_STATUS_CONFIRMED)
}
