package participanttest

import (
	"context"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
)

func TestAParticipantWithoutAMistakePasses(t *testing.T) {
	t.Parallel()
	for name, outer := range map[string]bool{"with its effect in its database": false, "with its effect at a gateway": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report := Prove(t, newReference(t, none, outer).adapter())
			require.True(t, report.Passed())
			require.Len(t, report.Findings, len(rules))
			for _, f := range report.Findings {
				needsGateway := slices.Contains(f.Evidence, "the adapter offers no variant lost")
				require.Equal(t, !outer && needsGateway, f.Result == NotChecked, f)
			}
		})
	}
}

// What a kit cannot catch it only seems to prove: each mistake is caught by the rule that is about it.
func TestEachMistakeIsCaughtByTheRuleAboutIt(t *testing.T) {
	t.Parallel()
	only := func(capability func(from Adapter, to *Adapter)) func(*Adapter) {
		return func(a *Adapter) {
			all := *a
			a.FailCommits, a.Crash, a.Restart = nil, nil, nil
			if capability != nil {
				capability(all, a)
			}
		}
	}
	for name, c := range map[string]struct {
		mistake mistake
		outer   bool
		offers  func(*Adapter)
		caught  string
	}{
		"a": {mistake: twoTransactions, caught: "a commit that fails leaves neither the effect nor its record",
			offers: only(func(from Adapter, to *Adapter) { to.FailCommits = from.FailCommits })},
		"a, by killing alone": {mistake: twoTransactions, caught: "killed in the middle of work, it has the effect with its record, or neither",
			offers: only(func(from Adapter, to *Adapter) { to.Crash, to.Restart = from.Crash, from.Restart })},
		"a, of a participant that offers nothing": {mistake: twoTransactions, caught: "a caller that hangs up finds the effect with its record, or neither",
			offers: only(nil)},
		"b":                       {mistake: keyWithoutDigest, caught: "the same key with other content is a conflict and applies nothing"},
		"b, of many at once":      {mistake: keyWithoutDigest, caught: "of two contents at once one is done and the other is a conflict"},
		"c":                       {mistake: undoFirstIgnored, caught: "undone before it arrived, the late step is refused"},
		"d":                       {mistake: undoTwice, caught: "undoing again undoes nothing twice"},
		"d, of many at once":      {mistake: undoTwice, caught: "16 undoings at once undo once"},
		"e":                       {mistake: lateDoIsSuccess, caught: "undone before it arrived, the late step is refused"},
		"e, of who does not say":  {mistake: unseenUnsaid, caught: "undone before it arrived, the late step is refused"},
		"f":                       {mistake: separateRows, caught: "doing and undoing at once leaves nothing in place"},
		"g":                       {mistake: anotherKey, outer: true, caught: "a lost answer of the outer system is learnt by asking it again with the same key"},
		"h":                       {mistake: neverRecovered, outer: true, caught: "what a crash left started comes to its end though nobody asks"},
		"h, without being killed": {mistake: neverRecovered, outer: true, caught: "what a crash left started comes to its end though nobody asks", offers: only(nil)},
	} {
		t.Run(name+": "+string(c.mistake), func(t *testing.T) {
			t.Parallel()
			a := newReference(t, c.mistake, c.outer).adapter()
			if c.offers != nil {
				c.offers(&a)
			}
			found := ruleAbout(t, c.caught).check(t.Context(), a)
			for range 4 { // Some faults hit by chance.
				if found.Result == Failed {
					break
				}
				t.Log("it got away with it once")
				found = ruleAbout(t, c.caught).check(t.Context(), a)
			}
			t.Log(strings.Join(found.Evidence, "\n"))
			require.Equal(t, Failed, found.Result)
		})
	}
}

func TestTheReportSaysWhatWasTriedAndWhatWasSeen(t *testing.T) {
	t.Parallel()
	a := newReference(t, undoTwice, false).adapter()
	a.Variants, a.FailCommits, a.Crash, a.Restart = nil, nil, nil, nil
	report, err := Check(t.Context(), a)
	require.NoError(t, err)

	table := report.String()
	for _, line := range []string{
		`(?m)^add: \d+ passed, \d+ failed, 8 not checked$`,
		`(?m)^failed +rule 1, I2 +undoing again undoes nothing twice +5 .*after undoing 4 times: recorded is do applied, undo applied, but in effect is "-9 by 5 movements", must be "0 by 2 movements"`,
		`(?m)^passed +rule 5 +what happened can be asked by key +3 `,
		`(?m)^not checked +rule 2 .*the adapter offers no variant other`,
	} {
		require.Regexp(t, line, table)
	}
	evidence := finding(t, report, "doing and undoing at once leaves nothing in place").Evidence
	require.Regexp(t, `\d+ were done and undone, \d+ undone before they arrived`, evidence[len(evidence)-1])

	text, err := json.Marshal(report)
	require.NoError(t, err)
	var again Report
	require.NoError(t, json.Unmarshal(text, &again))
	require.Equal(t, report, again)
	require.Contains(t, string(text), `"result":"not checked"`)
}

func TestAnAdapterThatCannotProveAnythingIsRefused(t *testing.T) {
	t.Parallel()
	_, err := Check(t.Context(), Adapter{Crash: func(context.Context) error { return nil }, Variants: []Variant{Lost}})
	for _, lacks := range []string{"Step is missing", "Do is missing", "Get is missing", "State is missing", "must differ from None", "go together", "needs Outer"} {
		require.ErrorContains(t, err, lacks)
	}
}

func TestAFaultThatDidNotHappenProvesNothing(t *testing.T) {
	t.Parallel()
	a := newReference(t, none, true).adapter()
	a.Crash = func(context.Context) error { return nil }
	a.Restart = a.Crash
	calm := a.Do
	a.Do = func(ctx context.Context, order string, v Variant) (*operationv1.Result, error) {
		if v == Lost {
			v = Plain
		}
		return calm(context.WithoutCancel(ctx), order, v)
	}
	undo := a.Undo
	a.Undo = func(ctx context.Context, order string) (*operationv1.Result, error) {
		return undo(context.WithoutCancel(ctx), order)
	}
	report, err := Check(t.Context(), a)
	require.NoError(t, err)
	for tried, why := range map[string]string{
		"a lost answer of the outer system is learnt by asking it again with the same key": "no answer was lost",
		"undone while the outcome is not known, nothing stays in place":                    "no outcome was unknown when it was undone",
		"a caller that hangs up finds the effect with its record, or neither":              "no call noticed that its caller had hung up",
		"killed in the middle of work, it has the effect with its record, or neither":      "no call was cut off",
	} {
		f := finding(t, report, tried)
		require.Equal(t, NotChecked, f.Result, tried)
		require.Contains(t, f.Evidence, why)
	}
}

func TestAProcessIsKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	p := &Process{Command: func() *exec.Cmd { return exec.Command("sh", "-c", `echo "http://localhost/$$"; exec sleep 60`) }}
	require.NoError(t, p.Kill(t.Context()), "what does not run is dead")
	require.NoError(t, p.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, p.Kill(context.Background())) })
	first := p.URL()
	require.Contains(t, first, "http://localhost/")
	require.NoError(t, p.Kill(t.Context()))
	require.NoError(t, p.Start(t.Context()))
	require.NotEqual(t, first, p.URL(), "the address is asked for anew")

	ends := &Process{Command: func() *exec.Cmd { return exec.Command("true") }}
	require.ErrorContains(t, ends.Start(t.Context()), "ended before it told its URL")
	hangs := &Process{Command: func() *exec.Cmd { return exec.Command("sleep", "60") }}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, hangs.Start(ctx), context.DeadlineExceeded)
}

func ruleAbout(t *testing.T, sentence string) rule {
	t.Helper()
	i := slices.IndexFunc(rules, func(r rule) bool { return r.sentence == sentence })
	require.GreaterOrEqual(t, i, 0, "there is no rule %q", sentence)
	return rules[i]
}

func finding(t *testing.T, r Report, tried string) Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.Tried == tried {
			return f
		}
	}
	t.Fatalf("there is no rule %q", tried)
	return Finding{}
}
