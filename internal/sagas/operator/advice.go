package operator

import (
	"fmt"
	"strings"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// Words are how a definition's sagas are spoken of in advice.
type Words struct {
	// Program is what people type. Command begins the command lines about sagas of this kind, such as "saga", and ID names the saga in
	// them, such as "trip t-1".
	Program, Command, ID string
	// Record is what a participant's record is about, such as "this trip"; Refund says what `--as refund` does, such as "gives the
	// money back and ends it".
	Record, Refund string
}

// WordsOf are those of any saga at a program.
func WordsOf(program string, s store.Saga) Words {
	return Words{
		Program: program, Command: "saga", ID: s.Plan.Definition + " " + s.Key, Record: "this saga",
		Refund: "undoes what stands before the pivot, then the pivot, and ends it",
	}
}

// Advice tells an operator what to do about a saga that needs attention, as sentences with the commands to type.
func Advice(s store.Saga, words Words) string {
	a := s.Attention
	var say []string
	tell := func(format string, args ...any) { say = append(say, fmt.Sprintf(format, args...)) }
	command := func(verb string) string {
		return fmt.Sprintf("`%s %s %s %s", words.Program, words.Command, verb, words.ID)
	}
	resolve := func(as string) string {
		return fmt.Sprintf("%s --step %s --as %s --reason …`", command("resolve"), a.Step, as)
	}
	redrive := command("redrive") + " --reason …`"
	participant := ""
	if step, _, known := s.Plan.Named(a.Step); known { // What concerns the run itself is at no step.
		participant = step.Participant
	}

	switch a.Code {
	case journal.AttentionStopped:
		tell("mend the orchestrator's build (`%s doctor --replay` shows what does not fit), then %s", words.Program, redrive)
	case journal.AttentionNoProgress:
		tell("`%s doctor` tells what the engine lacks; when it is mended, %s", words.Program, redrive)
	case journal.AttentionConflict, journal.AttentionBadRequest:
		tell("find out what %s has on record of %s (%s`) and mend it there; then %s", participant, words.Record, command("history"), resolve("retry"))
	case journal.AttentionBadAnswer:
		tell("%s answers what its contract does not have: mend it there; then %s", participant, resolve("retry"))
	case journal.AttentionForgotten:
		tell("find out in the books behind %s, such as the card network's, what became of it; then %s, or, where it is mended there, %s",
			participant, resolve("done --without-proof"), resolve("retry"))
	default:
		tell("look at %s and its log; when it works again, %s", participant, resolve("retry"))
		tell("%s settles it where the record of %s says that it is done", resolve("done"), participant)
	}
	pivot := s.Plan.Pivot()
	switch {
	case s.Phase == saga.Forward:
		tell("%s --reason …` gives it up", command("cancel"))
	case s.Phase == saga.Pivoted && pivot >= 0 && s.Steps[pivot].InPlace() && s.Steps[pivot].Compensation != "":
		tell("%s --step %s --as refund --reason …` %s", command("resolve"), s.AtStep(), words.Refund)
	}
	if !a.Next.IsZero() {
		tell("by itself it is tried again at %s", a.Next.UTC().Format(time.RFC3339))
	}
	return strings.Join(say, "; ")
}
