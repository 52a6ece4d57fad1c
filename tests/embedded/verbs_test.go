package embedded_test

import (
	"testing"

	"github.com/checkoutsaga/orchestrator/internal/node"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/tests/harness"
	"github.com/checkoutsaga/orchestrator/tests/verbs"
)

func TestEveryVerbDoesWhatItShouldInEveryState(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{
		// Someone is called after 20 s rather than a minute.
		Policy:        saga.Policy{Patience: 8},
		ApprovalAbove: node.Amounts{"USD": 0},
	})
	n.WatchSums(t)
	verbs.Run(t, n)
}
