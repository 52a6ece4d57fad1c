package dapr

import (
	"testing"

	"github.com/checkoutsaga/orchestrator/tests/verbs"
)

func TestEveryVerbDoesWhatItShouldInEveryState(t *testing.T) {
	s := open(t)
	verbs.Run(t, s.System)
}
