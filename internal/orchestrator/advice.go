package orchestrator

import (
	"fmt"
	"strings"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// advice tells an operator what to do about a checkout that needs attention, as sentences with the commands to type.
func advice(c store.Checkout) string {
	a := c.Attention
	var say []string
	tell := func(format string, args ...any) { say = append(say, fmt.Sprintf(format, args...)) }
	resolve := func(as string) string {
		return fmt.Sprintf("`orchestrator checkout resolve %s --step %s --as %s --reason …`", c.Key, a.Step, as)
	}
	redrive := fmt.Sprintf("`orchestrator checkout redrive %s --reason …`", c.Key)
	participant := ""
	if step, _, known := c.Plan.Named(a.Step); known { // What concerns the run itself is at no step.
		participant = step.Participant
	}

	switch a.Code {
	case journal.AttentionStopped:
		tell("mend the orchestrator's build (`orchestrator doctor --replay` shows what does not fit), then %s", redrive)
	case journal.AttentionNoProgress:
		tell("`orchestrator doctor` tells what the engine lacks; when it is mended, %s", redrive)
	case journal.AttentionConflict, journal.AttentionBadRequest:
		tell("find out what %s has on record of this order (`orchestrator checkout history %s`) and mend it there; then %s",
			participant, c.Key, resolve("retry"))
	case journal.AttentionForgotten:
		tell("find out in the books behind %s, such as the card network's, what became of it; then %s, or, where it is mended there, %s",
			participant, resolve("done --without-proof"), resolve("retry"))
	default:
		tell("look at %s and its log; when it works again, %s", participant, resolve("retry"))
		tell("%s settles it where the record of %s says that it is done", resolve("done"), participant)
	}
	switch {
	case c.Phase == saga.Forward:
		tell("`orchestrator checkout cancel %s --reason …` gives it up", c.Key)
	case c.Phase == saga.Pivoted && inPlace(c, checkout.CapturePayment):
		tell("`orchestrator checkout resolve %s --step %s --as refund --reason …` releases the stock, gives the money back and ends it", c.Key, c.AtStep())
	}
	if !a.Next.IsZero() {
		tell("by itself it is tried again at %s", a.Next.UTC().Format(time.RFC3339))
	}
	return strings.Join(say, "; ")
}
