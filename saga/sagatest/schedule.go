package sagatest

import (
	"fmt"
	"slices"
	"strings"
)

// Trouble is one thing that goes wrong.
type Trouble string

// The troubles of a call.
const (
	// Refused: the participant refuses the step.
	Refused Trouble = "Refused"
	// Failing: the call does not arrive.
	Failing Trouble = "Failing"
	// Down: calls do not arrive for so long that an operator is called.
	Down Trouble = "Down"
	// Lost: it arrives, and its answer does not.
	Lost Trouble = "Lost"
	// Killed: it arrives, and its caller is killed before the answer is recorded.
	Killed Trouble = "Killed"
	// Twice: it arrives twice.
	Twice Trouble = "Twice"
	// Late: it arrives when all is over.
	Late Trouble = "Late"
	// Cancelled: somebody cancels the saga before the call, CancelledMeanwhile during it.
	Cancelled          Trouble = "Cancelled"
	CancelledMeanwhile Trouble = "CancelledMeanwhile"
	// Expired: the deadline passes before the call.
	Expired Trouble = "Expired"
)

// turning are the troubles that turn a saga back; troubles are all of them, the plain ones first.
var (
	turning  = []Trouble{Refused, Cancelled, CancelledMeanwhile, Expired}
	troubles = append(slices.Clone(turning), Failing, Lost, Killed, Twice, Late, Down)
)

// At is a trouble with the n-th call to a participant, from 1.
type At struct {
	Call    int
	Trouble Trouble
}

// Schedule is all that goes wrong with one saga.
type Schedule []At

// String is the schedule as Go code.
func (s Schedule) String() string {
	parts := make([]string, len(s))
	for i, at := range s {
		parts[i] = fmt.Sprintf("{Call: %d, Trouble: sagatest.%s}", at.Call, at.Trouble)
	}
	return "sagatest.Schedule{" + strings.Join(parts, ", ") + "}"
}
