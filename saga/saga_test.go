package saga_test

import (
	"strings"
	"testing"
	"time"

	"github.com/dapr/durabletask-go/task"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/saga"
	. "github.com/checkoutsaga/orchestrator/saga/sagatest"
)

// trip is the saga that these tests play: two steps with an undo, one without, the pivot, one after it.
func trip(t testing.TB) *saga.Definition {
	t.Helper()
	s, err := saga.Define("trip", 1,
		saga.Do("room").At("somewhere").UndoneBy("no-room"),
		saga.Do("quote").At("somewhere").NothingToUndo(),
		saga.Do("seat").At("somewhere").UndoneBy("no-seat"),
		saga.Decision("boss"),
		saga.Pivot("charge").At("somewhere").UndoneBy("no-charge"),
		saga.Do("ticket").At("somewhere").NothingToUndo(),
	)
	require.NoError(t, err)
	return s
}

func command(id string) saga.Command { return saga.Command{ID: id, Kind: "retry"} }

func meanwhile(a Answer, payloads ...any) Answer { a.Meanwhile = payloads; return a }

func then(a Answer, payloads ...any) Answer { a.Then = payloads; return a }

func TestSagaStories(t *testing.T) {
	tests := []struct {
		name   string
		input  saga.Input
		policy saga.Policy
		script Script
		want   []string
	}{
		{
			name: "all steps applied, nothing else is called",
			want: []string{"room: applied", "quote: applied", "seat: applied", "charge: applied", "ticket: applied", "end: completed"},
		},
		{
			name:   "a refused first step leaves nothing to undo",
			script: Script{"room": {Rejected("full")}},
			want:   []string{"room: rejected, full", "end: undone"},
		},
		{
			name:   "a refused later step undoes what came before it, in reverse, and not itself",
			script: Script{"charge": {Rejected("declined")}},
			want: []string{"room: applied", "quote: applied", "seat: applied", "charge: rejected, declined",
				"no-seat: applied", "no-room: applied", "end: undone"},
		},
		{
			name:   "a refused step with an undo is not undone",
			script: Script{"seat": {Rejected("sold out")}},
			want:   []string{"room: applied", "quote: applied", "seat: rejected, sold out", "no-room: applied", "end: undone"},
		},
		{
			name:   "a step whose answers got lost is undone even if it was never seen applied (undo is registered before the step)",
			script: Script{"seat": {Fails("timeout"), TurnedBack()}},
			want: []string{"room: applied", "quote: applied", "seat #1: error: timeout", "wait 250ms", "seat #2: turned-back",
				"no-seat: applied", "no-room: applied", "end: undone"},
		},
		{
			name:   "turned back at once, the step itself is undone too",
			script: Script{"seat": {TurnedBack()}},
			want:   []string{"room: applied", "quote: applied", "seat: turned-back", "no-seat: applied", "no-room: applied", "end: undone"},
		},
		{
			name:   "applied with turn back, the step itself is undone and the next one not tried",
			script: Script{"room": {AppliedTurnBack()}},
			want:   []string{"room: applied, turn back", "no-room: applied", "end: undone"},
		},
		{
			name:   "the pivot turned back undoes everything",
			script: Script{"charge": {Unknown(), TurnedBack()}},
			want: []string{"room: applied", "quote: applied", "seat: applied", "charge #1: unknown", "wait 250ms", "charge #2: turned-back",
				"no-seat: applied", "no-room: applied", "end: undone"},
		},
		{
			name:   "once the pivot is applied there is no way back, whatever is asked",
			script: Script{"charge": {AppliedTurnBack()}, "ticket": {AppliedTurnBack()}},
			want: []string{"room: applied", "quote: applied", "seat: applied", "charge: applied, turn back", "ticket: applied, turn back",
				"end: completed"},
		},
		{
			name:   "a step after the pivot that is refused is tried again as stuck",
			script: Script{"ticket": {Fails("down"), Rejected("no paper"), TurnedBack(), Unknown()}},
			want: []string{"room: applied", "quote: applied", "seat: applied", "charge: applied",
				"ticket #1: error: down", "wait 250ms",
				"ticket #2: rejected, no paper", "wait 500ms",
				"ticket #3 (stuck): turned-back", "wait 1s",
				"ticket #4 (stuck): unknown", "wait 2s",
				"ticket #5 (stuck): applied", "end: completed"},
		},
		{
			name:   "superseded ends the run and undoes nothing",
			script: Script{"seat": {Unknown(), Superseded()}},
			want:   []string{"room: applied", "quote: applied", "seat #1: unknown", "wait 250ms", "seat #2: superseded", "end: replaced"},
		},
		{
			name:   "superseded while undoing ends the run too",
			script: Script{"charge": {Rejected("")}, "no-seat": {Superseded()}},
			want:   []string{"room: applied", "quote: applied", "seat: applied", "charge: rejected", "no-seat: superseded", "end: replaced"},
		},
		{
			name:   "an undo is tried until it is applied, whatever else it answers",
			script: Script{"quote": {Rejected("")}, "no-room": {Fails("down"), Rejected("in use"), Unknown(), TurnedBack()}},
			want: []string{"room: applied", "quote: rejected",
				"no-room #1: error: down", "wait 250ms", "no-room #2: rejected, in use", "wait 500ms", "no-room #3: unknown", "wait 1s",
				"no-room #4: turned-back", "wait 2s", "no-room #5: applied", "end: undone"},
		},
		{
			name:   "an outcome that nobody knows counts as unknown",
			script: Script{"room": {{Reply: saga.Reply{Outcome: "who-knows"}}, {Reply: saga.Reply{Outcome: ""}}}},
			want: []string{"room: who-knows", "wait 250ms", "room #2: no answer", "wait 500ms", "room #3: applied", "quote: applied", "seat: applied",
				"charge: applied", "ticket: applied", "end: completed"},
		},
		{
			name:   "the backoff doubles, and from round 12 on somebody should know",
			input:  saga.Input{Phase: saga.Undoing},
			script: Script{"no-seat": Fails("down").Times(22)},
			want: []string{
				"no-seat #1: error: down", "wait 250ms", "no-seat #2: error: down", "wait 500ms", "no-seat #3: error: down", "wait 1s",
				"no-seat #4: error: down", "wait 2s", "no-seat #5: error: down", "wait 4s", "no-seat #6: error: down", "wait 8s",
				"no-seat #7: error: down", "wait 8s", "no-seat #8: error: down", "wait 8s", "no-seat #9: error: down", "wait 8s",
				"no-seat #10: error: down", "wait 8s", "no-seat #11: error: down", "wait 8s", "no-seat #12 (stuck): error: down", "wait 16s",
				"no-seat #13 (stuck): error: down", "wait 32s", "no-seat #14 (stuck): error: down", "wait 1m4s",
				"no-seat #15 (stuck): error: down", "wait 2m8s", "no-seat #16 (stuck): error: down", "wait 4m16s",
				"no-seat #17 (stuck): error: down", "wait 8m32s", "no-seat #18 (stuck): error: down", "wait 17m4s",
				"no-seat #19 (stuck): error: down", "wait 34m8s", "no-seat #20 (stuck): error: down", "wait 1h0m0s",
				"no-seat #21 (stuck): error: down", "wait 1h0m0s", "no-seat #22 (stuck): error: down", "wait 1h0m0s",
				"no-seat #23 (stuck): applied", "no-room: applied", "end: undone"},
		},
		{
			name:  "a run that begins undoing tries no step and undoes all before the pivot",
			input: saga.Input{Phase: saga.Undoing},
			want:  []string{"no-seat: applied", "no-room: applied", "end: undone"},
		},
		{
			name:  "a run that begins pivoted begins with the pivot",
			input: saga.Input{Phase: saga.Pivoted},
			want:  []string{"charge: applied", "ticket: applied", "end: completed"},
		},
		{
			name:   "a run that begins pivoted and is refused undoes what the runs before it did",
			input:  saga.Input{Phase: saga.Pivoted},
			script: Script{"charge": {Rejected("expired")}},
			want:   []string{"charge: rejected, expired", "no-seat: applied", "no-room: applied", "end: undone"},
		},
		{
			name:   "a run out of attempts ends, having waited, and leaves the rest to the next run",
			policy: saga.Policy{MaxAttemptsPerRun: 8},
			script: Script{"seat": Unknown().Times(99)},
			want: []string{"room: applied", "quote: applied", "seat #1: unknown", "wait 250ms", "seat #2: unknown", "wait 500ms", "seat #3: unknown",
				"wait 1s", "seat #4: unknown", "wait 2s", "seat #5: unknown", "wait 4s", "seat #6: unknown", "wait 8s", "end: continue"},
		},
		{
			name:   "a run out of attempts while undoing ends likewise",
			input:  saga.Input{Phase: saga.Undoing},
			policy: saga.Policy{MaxAttemptsPerRun: 8, Patience: 2, FirstStuckWait: time.Minute, LongestStuckWait: time.Minute},
			script: Script{"no-room": Unknown().Times(99)},
			want: []string{"no-seat: applied", "no-room #1: unknown", "wait 250ms", "no-room #2 (stuck): unknown", "wait 1m0s",
				"no-room #3 (stuck): unknown", "wait 1m0s", "no-room #4 (stuck): unknown", "wait 1m0s", "no-room #5 (stuck): unknown", "wait 1m0s",
				"no-room #6 (stuck): unknown", "wait 1m0s", "no-room #7 (stuck): unknown", "wait 1m0s", "end: continue"},
		},
		{
			name:   "a command ends the wait and nothing else: the round counts on",
			script: Script{"room": {Unknown(), Unknown(), then(Unknown(), command("c1")), Unknown()}},
			want: []string{"room #1: unknown", "wait 250ms", "room #2: unknown", "wait 500ms", "room #3: unknown", "wait 1s",
				`event {"id":"c1","kind":"retry"}`, "room #4: unknown", "wait 2s", "room #5: applied",
				"quote: applied", "seat: applied", "charge: applied", "ticket: applied", "end: completed"},
		},
		{
			name:   "a command that comes during an attempt spares the wait after it",
			script: Script{"room": {meanwhile(Unknown(), command("c1"))}},
			want: []string{"room #1: unknown", `event {"id":"c1","kind":"retry"}`, "room #2: applied",
				"quote: applied", "seat: applied", "charge: applied", "ticket: applied", "end: completed"},
		},
		{
			name:   "a command that came before an attempt does not shorten the wait after it",
			script: Script{"room": {meanwhile(Applied(), command("c1"))}, "quote": {Unknown()}},
			want: []string{"room: applied", `event {"id":"c1","kind":"retry"}`, "quote #1: unknown", "wait 250ms", "quote #2: applied",
				"seat: applied", "charge: applied", "ticket: applied", "end: completed"},
		},
		{
			name:   "a command seen before, and what is no command, leave the wait as long as it was",
			script: Script{"room": {meanwhile(Unknown(), command("c1")), then(Unknown(), command("c1"), Raw("{not json"), Raw(""), Raw("null"), 42, "cancel", []int{1}, saga.Command{Kind: "retry"}, saga.Command{ID: "c2"})}},
			want: []string{"room #1: unknown", `event {"id":"c1","kind":"retry"}`, "room #2: unknown", "wait 500ms",
				`event {"id":"c1","kind":"retry"}`, "wait 500ms", "event {not json", "wait 500ms", "event ", "wait 500ms", "event null", "wait 500ms",
				"event 42", "wait 500ms", `event "cancel"`, "wait 500ms", "event [1]", "wait 500ms", `event {"id":"","kind":"retry"}`, "wait 500ms",
				`event {"id":"c2","kind":""}`, "wait 500ms", "room #3: applied",
				"quote: applied", "seat: applied", "charge: applied", "ticket: applied", "end: completed"},
		},
		{
			name:   "a step that is held is asked for again after the wait it names, which counts as no attempt",
			script: Script{"seat": {Held(time.Hour), Unknown(), Held(time.Minute), Held(0)}, "no-room": {}},
			want: []string{"room: applied", "quote: applied", "seat: held", "wait 1h0m0s", "seat #1: unknown", "wait 250ms",
				"seat #2: held", "wait 1m0s", "seat #2: held", "wait 250ms", "seat #2: applied", "charge: applied", "ticket: applied", "end: completed"},
		},
		{
			name:   "a command ends the wait of a held step",
			script: Script{"seat": {then(Held(time.Hour), command("c1"))}},
			want: []string{"room: applied", "quote: applied", "seat: held", "wait 1h0m0s", `event {"id":"c1","kind":"retry"}`, "seat: applied", "charge: applied",
				"ticket: applied", "end: completed"},
		},
		{
			name:   "a held step that is then turned back is undone",
			script: Script{"seat": {Held(time.Minute), TurnedBack()}, "no-seat": {Held(time.Minute)}},
			want: []string{"room: applied", "quote: applied", "seat: held", "wait 1m0s", "seat: turned-back", "no-seat: held", "wait 1m0s",
				"no-seat: applied", "no-room: applied", "end: undone"},
		},
		{
			name:  "a run in the phase reversing undoes all before the pivot, and then the pivot",
			input: saga.Input{Phase: saga.Reversing},
			want:  []string{"no-seat: applied", "no-room: applied", "no-charge: applied", "end: undone"},
		},
		{
			name:   "an answer for another step stops the run and undoes nothing",
			script: Script{"seat": {{Reply: saga.Reply{Step: "room", Outcome: saga.Rejected}}}},
			want: []string{"room: applied", "quote: applied", "seat: rejected",
				`failed: saga stopped: reply to another step: seat was asked for step "seat" and answered for "room"`},
		},
		{
			name:  "an unknown phase stops the run before anything is called",
			input: saga.Input{Phase: "sideways"},
			want:  []string{`failed: saga stopped: bad input: unknown phase "sideways"`},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			played, err := Scenario{Saga: trip(t), Input: test.input, Policy: test.policy, Script: test.script}.Play()
			require.NoError(t, err)
			if diff := cmp.Diff(test.want, played.Story()); diff != "" {
				t.Fatalf("story (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCallsTellTheActivityWhatItMustKnow(t *testing.T) {
	played, err := Scenario{
		Saga:   trip(t),
		Input:  saga.Input{Key: "trip-7", Run: 3},
		Policy: saga.Policy{Patience: 2},
		Script: Script{"room": {Unknown(), AppliedTurnBack()}},
	}.Play()
	require.NoError(t, err)
	var calls []saga.Call
	for _, c := range played.Calls() {
		calls = append(calls, c.Input)
	}
	want := []saga.Call{
		{Definition: "trip", Key: "trip-7", Run: 3, Step: "room", Participant: "somewhere", Round: 1, WaitMS: 250, Claims: true},
		{Definition: "trip", Key: "trip-7", Run: 3, Step: "room", Participant: "somewhere", Round: 2, WaitMS: 16000, Stuck: true},
		{Definition: "trip", Key: "trip-7", Run: 3, Step: "room", Participant: "somewhere", Undo: true, Round: 1, WaitMS: 250},
	}
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Fatalf("calls (-want +got):\n%s", diff)
	}
}

func TestGarbageInTheMailboxDoesNotGrowARunForEver(t *testing.T) {
	garbage := make([]any, 200)
	for i := range garbage {
		garbage[i] = Raw("?")
	}
	played, err := Scenario{Saga: trip(t), Script: Script{"room": {then(Unknown(), garbage...)}}}.Play()
	require.NoError(t, err)
	require.Equal(t, saga.Continue, played.Result.End)
	waits := 0
	for _, e := range played.History {
		if e.GetTimerCreated() != nil {
			waits++
		}
	}
	require.Less(t, waits, 51, "each wait that begins anew counts like an attempt")
}

func TestWrongDeclarationsAreTold(t *testing.T) {
	step := func(name string) saga.Step { return saga.Do(name).At("somewhere").NothingToUndo() }
	tests := []struct {
		name  string
		steps []saga.Step
		want  string
	}{
		{"no steps", nil, "no steps"},
		{"a step without a name", []saga.Step{step("")}, "step 1 has no name"},
		{"an undo that is not told", []saga.Step{saga.Do("a").At("somewhere")}, `step "a" does not say what undoes it`},
		{"a participant that is not told", []saga.Step{saga.Do("a").NothingToUndo()}, `step "a" does not say which participant does it: use At`},
		{"an undo without a name", []saga.Step{saga.Do("a").At("somewhere").UndoneBy("")}, `step "a" does not say what undoes it`},
		{"a step made by hand", []saga.Step{{Name: "a", Participant: "p"}}, `step "a" does not say what undoes it`},
		{"the same step twice", []saga.Step{step("a"), step("a")}, `name "a" is used twice`},
		{"the same undo twice", []saga.Step{saga.Do("a").At("somewhere").UndoneBy("u"), saga.Do("b").At("somewhere").UndoneBy("u")}, `name "u" is used twice`},
		{"an undo named like a step", []saga.Step{saga.Do("a").At("somewhere").UndoneBy("a")}, `name "a" is used twice`},
		{"two pivots", []saga.Step{saga.Pivot("p").At("somewhere"), saga.Pivot("q").At("somewhere")}, `pivot "q": the saga has a pivot already, "p"`},
		{"a pivot whose undo has no name", []saga.Step{saga.Pivot("p").At("somewhere").UndoneBy("")}, `step "p" does not say what undoes it`},
		{"a decision at the beginning", []saga.Step{saga.Decision("d"), step("a")}, `decision "d" stands first`},
		{"a decision after the pivot", []saga.Step{saga.Pivot("p").At("bank"), saga.Decision("d"), step("a")}, `decision "d" stands after the pivot "p"`},
		{"two decisions", []saga.Step{step("a"), saga.Decision("d"), step("b"), saga.Decision("e"), step("c")}, `decision "e": the saga has a decision already, "d"`},
		{"a decision that is undone", []saga.Step{step("a"), saga.Decision("d").UndoneBy("u"), step("b")}, `decision "d" is undone by "u"`},
		{"a refusal that denies what comes later", []saga.Step{step("a").Denies("no_b", "b"), step("b")}, `step "a" denies "b" by reason "no_b"`},
		{"a decision at the end", []saga.Step{step("a"), saga.Decision("d")}, `decision "d" has no step behind it`},
		{"an undo after the pivot", []saga.Step{saga.Pivot("p").At("somewhere"), saga.Do("a").At("somewhere").UndoneBy("u")}, `step "a" is undone by "u", but stands after the pivot "p"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := saga.Define("trip", 1, test.steps...)
			require.ErrorContains(t, err, test.want)
		})
	}
}

func TestWrongNamesAndVersionsAreTold(t *testing.T) {
	_, err := saga.Define("Trip!", 0, saga.Do("a").At("p").NothingToUndo())
	require.EqualError(t, err, `define saga "Trip!": the name must begin with a letter and hold at most 40 of a-z, 0-9 and -`+"\nversion is 0, the first is 1")
}

func TestAPlanThatIsLongerThanARunMayBeIsCarriedOutAllTheSame(t *testing.T) {
	played, err := Scenario{Saga: trip(t), Policy: saga.Policy{MaxAttemptsPerRun: 1}, Script: Script{"charge": {Rejected("declined")}}}.Play()
	require.NoError(t, err)
	require.Equal(t, saga.Undone, played.Result.End)
}

func TestWrongPoliciesAreTold(t *testing.T) {
	tests := map[string]saga.Policy{
		"FirstWait is -1s":            {FirstWait: -time.Second},
		"LongestWait 8s is less":      {FirstWait: time.Minute},
		"Patience is -1":              {Patience: -1},
		"FirstStuckWait is 1ns":       {FirstStuckWait: 1},
		"LongestStuckWait 1s is less": {LongestStuckWait: time.Second},
		"MaxAttemptsPerRun is -1":     {MaxAttemptsPerRun: -1},
	}
	for want, policy := range tests {
		t.Run(want, func(t *testing.T) {
			require.ErrorContains(t, saga.Register(task.NewTaskRegistry(), policy), want)
		})
	}
}

func TestDeclarationCanBeListed(t *testing.T) {
	s := trip(t)
	var lines []string
	for _, d := range s.Plan().Steps {
		line := d.Name
		if d.Compensation != "" {
			line += " <- " + d.Compensation
		}
		if d.Pivot {
			line += " (pivot)"
		}
		lines = append(lines, line)
	}
	require.Equal(t, "room <- no-room, quote, seat <- no-seat, boss, charge <- no-charge (pivot), ticket", strings.Join(lines, ", "))
	require.Equal(t, []string{"room", "no-room", "quote", "seat", "no-seat", "charge", "no-charge", "ticket"}, s.Plan().Activities())
}
