package saga_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/saga"
)

// visit is what somebody wants to book.
type visit struct {
	Who    string   `json:"who"`
	Nights int      `json:"nights"`
	With   []string `json:"with,omitempty"`
	Room   struct {
		Size  float64 `json:"size"`
		Quiet bool    `json:"quiet"`
	} `json:"room"`
}

var (
	visitSteps = []saga.Step{
		saga.Do("book-room").At("hotel").UndoneBy("cancel-room"),
		saga.Decision("sign-off"),
		saga.Pivot("charge-card").At("bank"),
	}
	visits = saga.For[visit]{Name: "visit", Version: 3, Steps: visitSteps}
)

func defined(t *testing.T, declaration saga.Declaration) *saga.Definition {
	t.Helper()
	d, err := declaration.Define()
	require.NoError(t, err)
	return d
}

func TestAnInputIsReadStrictly(t *testing.T) {
	d := defined(t, visits)
	for name, c := range map[string]struct{ input, problem string }{
		"an unknown field":                 {`{"who":"Ada","nights":1,"breakfast":true}`, `unknown field "breakfast"`},
		"an unknown field further down":    {`{"room":{"view":"sea"}}`, `unknown field "view"`},
		"a text for a number":              {`{"nights":"two"}`, "nights must be a whole number, not string"},
		"half a night":                     {`{"nights":1.5}`, "nights must be a whole number, not number 1.5"},
		"more nights than a number has":    {`{"nights":1e30}`, "nights must be a whole number, not number 1e30"},
		"a number for a text":              {`{"who":7}`, "who must be a text, not number"},
		"a text for a number further down": {`{"room":{"size":"big"}}`, "room.size must be a number, not string"},
		"a text for yes or no":             {`{"room":{"quiet":"yes"}}`, "room.quiet must be true or false, not string"},
		"a text for an object":             {`{"room":"big"}`, "room must be an object, not string"},
		"a text for a list":                {`{"with":"Bob"}`, "with must be a list, not string"},
		"a list for all of it":             {`[]`, "must be an object, not array"},
		"a text for all of it":             {`"Ada"`, "must be an object, not string"},
		"a second value behind it":         {`{"who":"Ada"} {"who":"Bob"}`, "is more than one JSON value"},
		"a bracket behind it":              {`{"who":"Ada"}}`, "is more than one JSON value"},
		"nothing":                          {``, "is missing"},
		"nothing but spaces":               {"  \n", "is missing"},
		"null":                             {` null `, "is missing"},
		"what is no JSON":                  {`{who:"Ada"}`, "invalid character 'w' looking for beginning of object key string"},
		"half of it":                       {`{"who":"Ada"`, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.Accept(json.RawMessage(c.input))
			wrong := new(saga.InputError)
			require.ErrorAs(t, err, &wrong)
			require.EqualError(t, wrong.Problem, c.problem)
			require.EqualError(t, err, "input: "+c.problem)
		})
	}
}

func TestAnInputIsKeptAsItsTypeWritesIt(t *testing.T) {
	accepted, err := defined(t, visits).Accept(json.RawMessage("{ \"nights\": 2,\n \"who\": \"Ada\" }"))
	require.NoError(t, err)
	require.JSONEq(t, `{"who":"Ada","nights":2,"room":{"size":0,"quiet":false}}`, string(accepted.Input))
	require.Equal(t, visits.Steps[0].Name, accepted.Plan.Steps[0].Name)
	require.Equal(t, 3, accepted.Plan.Version)
	require.Equal(t, saga.DefaultDeadline, accepted.Deadline)
}

func TestASagaMayBeOneOfNothingOrOfAnything(t *testing.T) {
	type nothing struct{}
	step := saga.Do("ring").At("bell").NothingToUndo()
	loud := step.Asking(saga.From(func(in any) string { return fmt.Sprint(in) }))
	for name, c := range map[string]struct {
		declared saga.Declaration
		input    string
		want     string
	}{
		"nothing":               {saga.For[nothing]{Name: "ring", Version: 1, Steps: []saga.Step{step}}, `null`, `{}`},
		"anything":              {saga.For[any]{Name: "ring", Version: 1, Steps: []saga.Step{loud}}, `null`, `"<nil>"`},
		"any list":              {saga.For[[]int]{Name: "ring", Version: 1, Steps: []saga.Step{step}}, `[1,2]`, `[1,2]`},
		"JSON as it is":         {saga.For[json.RawMessage]{Name: "ring", Version: 1, Steps: []saga.Step{step}}, `{"a":1}`, `{"a":1}`},
		"a number":              {saga.For[int]{Name: "ring", Version: 1, Steps: []saga.Step{step}}, `7`, `7`},
		"what nobody looked at": {plain{step}, `{"a":1}`, `{"a":1}`},
	} {
		t.Run(name, func(t *testing.T) {
			accepted, err := defined(t, c.declared).Accept(json.RawMessage(c.input))
			require.NoError(t, err)
			require.JSONEq(t, c.want, string(accepted.Request("ring")))
		})
	}
	_, err := defined(t, saga.For[int]{Name: "ring", Version: 1, Steps: []saga.Step{step}}).Accept(json.RawMessage("null"))
	require.EqualError(t, err, "input: is missing", "null is no number")
	_, err = defined(t, saga.For[*visit]{Name: "ring", Version: 1, Steps: []saga.Step{step}}).Accept(json.RawMessage("null"))
	require.EqualError(t, err, "input: is missing", "whoever is given a pointer follows it")
}

// plain is a definition without an input of its own.
type plain []saga.Step

func (p plain) Define() (*saga.Definition, error) { return saga.Define("ring", 1, p...) }

func TestAnInputHasAtMost64KiB(t *testing.T) {
	step := saga.Do("ring").At("bell").NothingToUndo()
	for name, d := range map[string]*saga.Definition{
		"with a type":    defined(t, saga.For[string]{Name: "ring", Version: 1, Steps: []saga.Step{step}}),
		"without a type": defined(t, plain{step}),
	} {
		t.Run(name, func(t *testing.T) {
			text := func(bytes int) json.RawMessage { return json.RawMessage(`"` + strings.Repeat("x", bytes-2) + `"`) }
			_, err := d.Accept(text(saga.MaxInput))
			require.NoError(t, err)
			_, err = d.Accept(text(saga.MaxInput + 1))
			require.EqualError(t, err, "input: is 65537 bytes long, at most 65536 are taken")
			require.ErrorAs(t, err, new(*saga.InputError))
		})
	}
}

func TestCheckSeesTheInputAndRefusesIt(t *testing.T) {
	noNights := errors.New("a visit needs at least one night")
	declared := visits
	declared.Check = func(v visit) error {
		if v.Nights < 1 {
			return noNights
		}
		return nil
	}
	d := defined(t, declared)
	_, err := d.Accept(json.RawMessage(`{"nights":0}`))
	require.ErrorAs(t, err, new(*saga.InputError))
	require.ErrorIs(t, err, noNights)
	_, err = d.Accept(json.RawMessage(`{"nights":1}`))
	require.NoError(t, err)
}

func TestAboutIsWhatPeopleLookFor(t *testing.T) {
	for name, c := range map[string]struct {
		about   saga.About
		problem string
	}{
		"somebody":             {saga.About{Whom: "Ada Lovelace"}, ""},
		"money":                {saga.About{Money: saga.Money{Currency: "EUR", MinorUnits: 1}}, ""},
		"nobody and nothing":   {saga.About{}, ""},
		"a very long name":     {saga.About{Whom: strings.Repeat("ä", 128)}, ""},
		"too long a name":      {saga.About{Whom: strings.Repeat("a", 129)}, "whom it is about must be at most 128 printable characters"},
		"a zero byte":          {saga.About{Whom: "Ada\x00"}, "whom it is about must be at most 128 printable characters"},
		"what is no text":      {saga.About{Whom: "Ada\xff"}, "whom it is about must be at most 128 printable characters"},
		"less than no money":   {saga.About{Money: saga.Money{Currency: "EUR", MinorUnits: -1}}, "the money that is at stake must not be negative"},
		"money of no currency": {saga.About{Money: saga.Money{MinorUnits: 5}}, `the currency must be three letters, such as EUR, not ""`},
		"a currency's name":    {saga.About{Money: saga.Money{Currency: "euro", MinorUnits: 5}}, `the currency must be three letters, such as EUR, not "euro"`},
	} {
		t.Run(name, func(t *testing.T) {
			declared := visits
			declared.About = func(visit) saga.About { return c.about }
			accepted, err := defined(t, declared).Accept(json.RawMessage(`{"who":"Ada"}`))
			if c.problem != "" {
				require.EqualError(t, err, "input: "+c.problem)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.about, accepted.About)
		})
	}
}

func TestDecidesSaysWhoHasToWaitForAPerson(t *testing.T) {
	always := visits
	sometimes := visits
	sometimes.Decides = func(v visit) bool { return v.Nights > 7 }
	for name, c := range map[string]struct {
		declared saga.Declaration
		input    string
		decides  bool
	}{
		"where nobody says, everybody": {always, `{"nights":1}`, true},
		"a long visit":                 {sometimes, `{"nights":8}`, true},
		"a short visit":                {sometimes, `{"nights":7}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := defined(t, c.declared)
			accepted, err := d.Accept(json.RawMessage(c.input))
			require.NoError(t, err)
			require.Equal(t, c.decides, accepted.Plan.Index("sign-off") >= 0)
			require.Equal(t, 1, d.Plan().Index("sign-off"), "the definition keeps its list")
			require.GreaterOrEqual(t, accepted.Plan.Pivot(), 1, "the others stay")
		})
	}
}

func TestADeadlineIsOneSecondTo30Days(t *testing.T) {
	for _, c := range []struct {
		deadline time.Duration
		want     time.Duration // Zero: refused.
	}{
		{0, 15 * time.Minute}, {time.Second, time.Second}, {30 * 24 * time.Hour, 30 * 24 * time.Hour},
		{time.Second - 1, 0}, {-time.Minute, 0}, {30*24*time.Hour + 1, 0},
	} {
		t.Run(c.deadline.String(), func(t *testing.T) {
			declared := visits
			declared.Deadline = c.deadline
			d, err := declared.Define()
			if c.want == 0 {
				require.ErrorContains(t, err, fmt.Sprintf("Deadline is %s, it must be 1s to 720h0m0s", c.deadline))
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, d.Deadline())
			accepted, err := d.Accept(json.RawMessage(`{}`))
			require.NoError(t, err)
			require.Equal(t, c.want, accepted.Deadline)
		})
	}
}

func TestARequestIsMadeOnceAndKept(t *testing.T) {
	made := 0
	nights := func(v visit) map[string]int {
		made++
		return map[string]int{"nights": v.Nights}
	}
	asking := visits
	asking.Steps = []saga.Step{visitSteps[0].Asking(saga.From(nights)), visitSteps[2]}
	d := defined(t, asking)
	require.Zero(t, made)
	accepted, err := d.Accept(json.RawMessage(`{"who":"Ada","nights":2}`))
	require.NoError(t, err)
	for range 3 {
		require.JSONEq(t, `{"nights":2}`, string(accepted.Request("book-room")))
		require.JSONEq(t, string(accepted.Input), string(accepted.Request("charge-card")), "who says nothing is asked with the input")
	}
	require.Equal(t, 1, made)
	require.Empty(t, cmp.Diff(map[string]json.RawMessage{"book-room": json.RawMessage(`{"nights":2}`)}, accepted.Requests))
}

// The list of one declaration may be the beginning of another's: what it says of its steps must be its own.
func TestWhoeverChangesTheListAfterwardsChangesNoDefinition(t *testing.T) {
	asking := visits
	asking.Steps = []saga.Step{visitSteps[0].Asking(saga.From(func(v visit) int { return v.Nights })), visitSteps[2]}
	d := defined(t, asking)
	asking.Steps[0] = saga.Do("rob-bank").At("bank").NothingToUndo()
	accepted, err := d.Accept(json.RawMessage(`{"nights":2}`))
	require.NoError(t, err)
	require.Equal(t, "book-room", accepted.Plan.Steps[0].Name)
	require.JSONEq(t, `2`, string(accepted.Request("book-room")))
}

func TestARequestThatCannotBeWrittenIsNoSaga(t *testing.T) {
	asking := visits
	asking.Steps = []saga.Step{visitSteps[0].Asking(saga.From(func(visit) any { return func() {} })), visitSteps[2]}
	_, err := defined(t, asking).Accept(json.RawMessage(`{"who":"Ada"}`))
	require.ErrorContains(t, err, `write the request of step "book-room" of saga "visit"`)
	require.False(t, errors.As(err, new(*saga.InputError)), "whoever wrote the input can do nothing about it")
}

// moody is written to JSON, or not, as it was read.
type moody string

func (m moody) MarshalJSON() ([]byte, error) {
	if m == "bad" {
		return nil, errors.New("in a bad mood")
	}
	return []byte(`"good"`), nil
}

// It has to run with -race to fail surely where two acceptances share anything.
func TestManyAreAcceptedAtOnceAndNoneKnowsOfAnother(t *testing.T) {
	step := saga.Do("ring").At("bell").NothingToUndo().Asking(saga.From(func(m moody) moody { return m }))
	d := defined(t, saga.For[moody]{Name: "ring", Version: 1, Steps: []saga.Step{step}})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 2000 {
				mood := []string{"good", "bad"}[i%2]
				_, err := d.Accept(json.RawMessage(`"` + mood + `"`))
				if (err != nil) != (mood == "bad") {
					t.Errorf("%s: %v", mood, err)
					return
				}
			}
		})
	}
	all.Wait()
}

func TestADeclarationTellsAllThatIsWrongWithIt(t *testing.T) {
	type other struct{ A int }
	_, err := saga.For[visit]{
		Name: "Visit", Version: 0, Deadline: time.Millisecond, Decides: func(visit) bool { return true },
		Steps: []saga.Step{
			saga.Do("book room").At("hotel").UndoneBy("cancel\nroom"),
			saga.Do("hold-seat").At("the airline").UndoneBy("free-seat").Asking(saga.From(func(other) int { return 1 })),
			saga.Do("buy-card").At("shop").UndoneBy("return-card").Asking(saga.From[visit, int](nil)),
			saga.Do("sell-card").At("shop").UndoneBy("fetch-card").Asking(saga.Request{}),
			saga.Do(strings.Repeat("x", 65)).At("shop"),
		},
	}.Define()
	for _, want := range []string{
		`define saga "Visit": `,
		"the name must begin with a letter and hold at most 40 of a-z, 0-9 and -",
		"version is 0, the first is 1",
		"Deadline is 1ms, it must be 1s to 720h0m0s",
		"Decides is given, but the list has no Decision, so nobody would be asked",
		`"book room" is no name`, `"cancel\nroom" is no name`, `"the airline" is no name`, `"` + strings.Repeat("x", 65) + `" is no name`,
		`step "hold-seat" is asked with what is made from a saga_test.other, but the saga's input is a saga_test.visit`,
		`step "buy-card" is asked with what nothing makes: use From with a function`,
		`step "sell-card" is asked with what nothing makes: use From with a function`,
		`does not say what undoes it`,
	} {
		require.ErrorContains(t, err, want)
	}
}

func TestWhatIsAskedOfAStepNeedsAnInputToBeMadeFrom(t *testing.T) {
	asking := saga.From(func(v visit) int { return v.Nights })
	_, err := saga.Define("visit", 1, saga.Do("book-room").At("hotel").NothingToUndo().Asking(asking))
	require.ErrorContains(t, err, `step "book-room" is asked with what is made from a saga_test.visit: declare the saga by For`)
	deciding := visits
	deciding.Steps = []saga.Step{visitSteps[0], visitSteps[1].Asking(asking), visitSteps[2]}
	_, err = deciding.Define()
	require.ErrorContains(t, err, `decision "sign-off" is asked with something, but nobody is asked`)
	pointed := visits
	pointed.Steps = []saga.Step{visitSteps[0].Asking(saga.From(func(v *visit) int { return v.Nights }))}
	_, err = pointed.Define()
	require.ErrorContains(t, err, "is made from a *saga_test.visit, but the saga's input is a saga_test.visit")
}
