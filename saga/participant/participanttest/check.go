package participanttest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// Report is what the kit found out about one step.
type Report struct {
	Step     string    `json:"step"`
	Began    time.Time `json:"began"`
	Findings []Finding `json:"findings"`
	// NotProven says what the adapter cannot show, whatever the findings are.
	NotProven []string `json:"not_proven,omitempty"`
}

// Finding is what became of one rule.
type Finding struct {
	// Rule is its number in docs/design.md: those of participants ("rule 3") and the invariants ("I2").
	Rule string `json:"rule"`
	// Tried says what holds if the rule is kept.
	Tried string `json:"tried"`
	// Orders is how many orders it was tried with.
	Orders int    `json:"orders"`
	Result Result `json:"result"`
	// Evidence says what was seen: for a broken rule its first orders, for one that was not checked why.
	Evidence []string `json:"evidence"`
	Seconds  float64  `json:"seconds"`
}

// Result of a rule.
type Result string

// The results.
const (
	Passed Result = "passed"
	Failed Result = "failed"
	// NotChecked: the adapter lacks what the rule needs, or the fault that it needs could not be brought about.
	NotChecked Result = "not checked"
)

// Passed tells whether no rule was broken. A rule that could not be checked counts as not broken; the findings name it.
func (r Report) Passed() bool { return r.Count(Failed) == 0 }

// Count is how many rules have a result. A participant's own tests should demand the number of rules that passed: otherwise a rule
// that was not checked today would go unseen.
func (r Report) Count(result Result) (rules int) {
	for _, f := range r.Findings {
		if f.Result == result {
			rules++
		}
	}
	return rules
}

// String is the report as a table.
func (r Report) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s: %d passed, %d failed, %d not checked\n", r.Step, r.Count(Passed), r.Count(Failed), r.Count(NotChecked))
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "RESULT\tRULE\tTRIED\tORDERS\tTIME\tEVIDENCE")
	for _, f := range r.Findings {
		evidence := f.Evidence
		if f.Result == Failed { // One order tells what is wrong; the others are in Evidence.
			evidence = evidence[:1]
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%.1fs\t%s\n", f.Result, f.Rule, f.Tried, f.Orders, f.Seconds, strings.Join(evidence, "; "))
	}
	table.Flush()
	for _, what := range r.NotProven {
		fmt.Fprintf(&text, "not proven: %s\n", what)
	}
	return text.String()
}

// Check tries, one after another, every rule that the adapter's step allows, and reports. An error says what the adapter lacks;
// broken rules are in the report. It makes new order ids each time, and leaves what it did.
func Check(ctx context.Context, a Adapter) (Report, error) {
	if err := a.validate(); err != nil {
		return Report{}, err
	}
	report := Report{Step: a.Step, Began: time.Now().UTC(), NotProven: a.NotProven}
	for _, r := range rules {
		report.Findings = append(report.Findings, r.check(ctx, a))
	}
	return report, nil
}

// Prove is Check for a test: each rule is a subtest, and the table of all is logged. A rule whose fault could not be brought about
// is skipped.
func Prove(t *testing.T, a Adapter) Report {
	t.Helper()
	if err := a.validate(); err != nil {
		t.Fatal(err)
	}
	report := Report{Step: a.Step, Began: time.Now().UTC(), NotProven: a.NotProven}
	for _, r := range rules {
		if r.lacks(a) != "" {
			report.Findings = append(report.Findings, r.check(t.Context(), a))
			continue
		}
		t.Run(r.number+": "+r.sentence, func(t *testing.T) {
			found := r.check(t.Context(), a)
			report.Findings = append(report.Findings, found)
			switch found.Result {
			case Failed:
				t.Error(strings.Join(found.Evidence, "\n"))
			case NotChecked:
				t.Skip(strings.Join(found.Evidence, "\n"))
			}
		})
	}
	t.Log(report)
	return report
}

// rule is one thing that every participant must keep.
type rule struct {
	number, sentence string
	// lacks says what the adapter must offer for the rule to be tried; empty if it can be.
	lacks func(Adapter) string
	try   func(*trial)
}

func (r rule) check(ctx context.Context, a Adapter) Finding {
	began := time.Now()
	found := Finding{Rule: r.number, Tried: r.sentence, Result: Passed, Evidence: []string{}}
	if lacks := r.lacks(a); lacks != "" {
		found.Result, found.Evidence = NotChecked, []string{lacks}
		return found
	}
	tr := newTrial(ctx, a)
	r.try(tr)
	found.Orders, found.Seconds = tr.orders, time.Since(began).Seconds()
	switch {
	case tr.broken > 0:
		found.Result = Failed
		found.Evidence = append(found.Evidence, tr.failures...)
		if more := tr.broken - len(tr.failures); more > 0 {
			found.Evidence = append(found.Evidence, fmt.Sprintf("and %d more", more))
		}
	case tr.moot != "":
		found.Result = NotChecked
		found.Evidence = append(found.Evidence, tr.moot)
	}
	found.Evidence = append(found.Evidence, tr.notes...)
	return found
}
