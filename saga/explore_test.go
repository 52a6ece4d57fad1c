package saga_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dapr/durabletask-go/task"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/replay"
	. "github.com/checkoutsaga/orchestrator/saga/sagatest"
)

// behaviour is a way in which an activity may answer.
type behaviour struct {
	name    string
	answers []Answer
}

var (
	well = behaviour{"applied", nil}
	// forward are the ways of a step.
	forward = []behaviour{
		well,
		{"rejected", []Answer{Rejected("no")}},
		{"error, then applied", []Answer{Fails("down")}},
		{"unknown for long, then applied", Unknown().Times(15)},
		{"error, then rejected", []Answer{Fails("down"), Rejected("no")}},
		{"turned back", []Answer{TurnedBack()}},
		{"error, then turned back", []Answer{Fails("down"), TurnedBack()}},
		{"applied with turn back", []Answer{AppliedTurnBack()}},
		{"held, then applied", []Answer{Held(time.Minute), Held(0)}},
		{"unknown, then held, then turned back", []Answer{Unknown(), Held(time.Hour), TurnedBack()}},
		{"superseded", []Answer{Superseded()}},
		{"unknown, then superseded", []Answer{Unknown(), Superseded()}},
		{"woken from its wait, then rejected", []Answer{then(Unknown(), command("a")), then(Unknown(), command("a"), Raw("?"), command("b")), Rejected("no")}},
		{"never answers", Unknown().Times(99)},
	}
	// backward are the ways of an undo.
	backward = []behaviour{
		well,
		{"error, then applied", []Answer{Fails("down")}},
		{"rejected and turned back, then applied", []Answer{Rejected("in use"), TurnedBack()}},
		{"unknown for long, then applied", Unknown().Times(15)},
		{"held, then applied", []Answer{Held(time.Minute)}},
		{"woken from its wait, then applied", []Answer{meanwhile(Unknown(), command("c")), then(Unknown(), command("d"))}},
		{"superseded", []Answer{Superseded()}},
	}
)

// TestI1EveryWayOfEverySagaKeepsItsPromises goes through every pair of troubles in every phase, and through random
// combinations of any number of them, and holds each run to what the package promises.
func TestI1EveryWayOfEverySagaKeepsItsPromises(t *testing.T) {
	s := trip(t)
	phases := []saga.Phase{saga.Forward, saga.Pivoted, saga.Undoing, saga.Reversing}
	// called is what a run may call that begins in the phase.
	called := map[saga.Phase][]string{
		saga.Forward:   s.Plan().Activities(),
		saga.Reversing: {"no-seat", "no-room", "no-charge"},
		saga.Pivoted:   {"charge", "ticket", "no-seat", "no-room"},
		saga.Undoing:   {"no-seat", "no-room"},
	}
	var plays int
	for _, phase := range phases {
		for i, first := range called[phase] {
			for _, one := range ways(s, first) {
				for _, second := range called[phase][i+1:] {
					for _, other := range ways(s, second) {
						plays++
						explore(t, s, phase, plays%2 == 0, map[string]behaviour{first: one, second: other})
					}
				}
			}
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		troubles := make(map[string]behaviour)
		for _, name := range s.Plan().Activities() {
			w := ways(s, name)
			troubles[name] = w[random.IntN(len(w))]
		}
		plays++
		explore(t, s, phases[random.IntN(len(phases))], random.IntN(2) == 0, troubles)
	}
	t.Logf("%d runs explored", plays)
}

func ways(s *saga.Definition, activity string) []behaviour {
	for _, step := range s.Plan().Steps {
		if step.Name == activity {
			return forward
		}
	}
	return backward
}

func explore(t *testing.T, s *saga.Definition, phase saga.Phase, together bool, troubles map[string]behaviour) {
	t.Helper()
	script := make(Script)
	var told []string
	for _, name := range s.Plan().Activities() {
		if b := troubles[name]; len(b.answers) > 0 {
			script[name] = b.answers
			told = append(told, name+": "+b.name)
		}
	}
	scenario := Scenario{Saga: s, Input: saga.Input{Phase: phase}, Script: script, Together: together}
	played, err := scenario.Play()
	if err == nil {
		err = promises(s, phase, played)
	}
	if err == nil {
		err = replayed(played)
	}
	if err != nil {
		t.Fatalf("%v\nbeginning %s, together %v, with\n  %s\nwent\n  %s", err, phase, together, strings.Join(told, "\n  "), strings.Join(played.Story(), "\n  "))
	}
}

// promises looks at the calls alone and tells which promise of the package they break.
func promises(s *saga.Definition, phase saga.Phase, played Played) error {
	if played.Failure != "" {
		return fmt.Errorf("the run failed: %s", played.Failure)
	}
	var (
		undoOf   = make(map[string]string)
		position = make(map[string]int)
		pivotAt  int
	)
	steps := slices.DeleteFunc(s.Plan().Steps, func(d saga.Step) bool { return d.Decision })
	for i, step := range steps {
		undoOf[step.Compensation] = step.Name
		position[step.Name] = i
		if step.Pivot {
			pivotAt = i
		}
	}
	delete(undoOf, "")

	next := map[saga.Phase]int{saga.Forward: 0, saga.Pivoted: pivotAt, saga.Undoing: -1, saga.Reversing: -1}[phase]
	var begun []string // steps that may have left something behind and are undone, the last first
	if phase == saga.Reversing {
		begun = append(begun, steps[pivotAt].Name)
	}
	if phase != saga.Forward {
		for _, step := range steps[:pivotAt] {
			begun = append(begun, step.Name)
		}
	}
	var undone []string
	backward := phase == saga.Undoing || phase == saga.Reversing
	pivoted, undoing, turned, over := false, backward, backward, false
	for i, c := range played.Calls() {
		step, undoes := undoOf[c.Activity]
		applied := c.Err == "" && c.Reply.Outcome == saga.Applied
		switch {
		case over:
			return fmt.Errorf("call %d, %s, comes after the run was superseded", i+1, c)
		case undoes && pivoted:
			return fmt.Errorf("call %d, %s, undoes after the pivot was applied", i+1, c)
		case undoes && !turned:
			return fmt.Errorf("call %d, %s, undoes though nothing turned the saga back", i+1, c)
		case undoes:
			undoing = true
			if applied {
				undone = append(undone, step)
			}
		case undoing, turned:
			return fmt.Errorf("call %d, %s, tries a step after the saga turned back", i+1, c)
		case position[c.Activity] != next:
			return fmt.Errorf("call %d, %s, is out of order: step %d is next", i+1, c, next+1)
		default:
			at := next
			if at != pivotAt && (len(begun) == 0 || begun[len(begun)-1] != c.Activity) {
				begun = append(begun, c.Activity)
			}
			if applied {
				next++
				pivoted = pivoted || at == pivotAt
				turned = c.Reply.TurnBack && !pivoted
			}
			if c.Reply.Outcome == saga.Rejected && !pivoted {
				if at != pivotAt {
					begun = begun[:len(begun)-1]
				}
				turned = true
			}
			turned = turned || c.Reply.Outcome == saga.TurnedBack && !pivoted
		}
		over = c.Reply.Outcome == saga.Superseded
	}

	if over != (played.Result.End == saga.Replaced) {
		return fmt.Errorf("superseded %v, but it ended %s", over, played.Result.End)
	}
	switch played.Result.End {
	case saga.Completed:
		if next != len(steps) {
			return fmt.Errorf("it completed with %d of %d steps applied", next, len(steps))
		}
	case saga.Undone:
		var want []string
		for i := len(begun) - 1; i >= 0; i-- {
			for _, step := range steps {
				if step.Name == begun[i] && step.Compensation != "" {
					want = append(want, step.Name)
				}
			}
		}
		if diff := cmp.Diff(want, undone); diff != "" {
			return fmt.Errorf("undone (-want +got):\n%s", diff)
		}
	case saga.Continue:
		if n := len(played.Calls()); n > 50 || n < 30 {
			return fmt.Errorf("it paused after %d attempts", n)
		}
	}
	return nil
}

// replayed checks that the code does the same again, turn by turn, given any beginning of the history.
func replayed(played Played) error { return replayedWith(saga.Policy{}, played) }

func replayedWith(policy saga.Policy, played Played) error {
	registry := task.NewTaskRegistry()
	if err := saga.Register(registry, policy); err != nil {
		return err
	}
	return replay.Check(registry, "key-1-1", played.History)
}

// TestI1TheExplorationSeesABrokenPromise shows that promises is able to fail: each line is a run that must not be.
func TestI1TheExplorationSeesABrokenPromise(t *testing.T) {
	s := trip(t)
	played, err := Scenario{Saga: s, Script: Script{"seat": {Fails("down"), TurnedBack()}}}.Play()
	require.NoError(t, err)
	require.NoError(t, promises(s, saga.Forward, played))

	late, err := saga.Define("trip", 1, saga.Do("room").At("somewhere").UndoneBy("no-room"), saga.Do("quote").At("somewhere").NothingToUndo(),
		saga.Do("seat").At("somewhere").NothingToUndo(), saga.Pivot("charge").At("somewhere"), saga.Do("ticket").At("somewhere").NothingToUndo())
	require.NoError(t, err)
	forgot, err := Scenario{Saga: late, Script: Script{"seat": {Fails("down"), TurnedBack()}}}.Play()
	require.NoError(t, err)
	require.ErrorContains(t, promises(s, saga.Forward, forgot), "undone", "the seat's undo was not registered")

	unpivoted, err := saga.Define("trip", 1, saga.Do("room").At("somewhere").UndoneBy("no-room"), saga.Do("quote").At("somewhere").NothingToUndo(),
		saga.Do("seat").At("somewhere").UndoneBy("no-seat"), saga.Do("charge").At("somewhere").NothingToUndo(), saga.Do("ticket").At("somewhere").NothingToUndo())
	require.NoError(t, err)
	tooLate, err := Scenario{Saga: unpivoted, Script: Script{"ticket": {Rejected("no")}}}.Play()
	require.NoError(t, err)
	require.ErrorContains(t, promises(s, saga.Forward, tooLate), "undoes after the pivot was applied")

	swapped, err := saga.Define("trip", 1, saga.Do("quote").At("somewhere").NothingToUndo(), saga.Do("room").At("somewhere").UndoneBy("no-room"),
		saga.Do("seat").At("somewhere").UndoneBy("no-seat"), saga.Pivot("charge").At("somewhere"), saga.Do("ticket").At("somewhere").NothingToUndo())
	require.NoError(t, err)
	outOfOrder, err := Scenario{Saga: swapped}.Play()
	require.NoError(t, err)
	require.ErrorContains(t, promises(s, saga.Forward, outOfOrder), "out of order")
	require.NoError(t, replayed(outOfOrder), "a run carries its plan, so that no other list can break it")
}
