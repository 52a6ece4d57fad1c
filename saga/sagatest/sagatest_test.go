package sagatest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/sagatest"
)

func TestMain(m *testing.M) {
	// The SQLite backend of durabletask-go never closes its handle.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

func oneStep(t *testing.T) *saga.Definition {
	t.Helper()
	s, err := saga.Define("trip", 1, saga.Do("a").At("somewhere").UndoneBy("no-a"))
	require.NoError(t, err)
	return s
}

func TestAScriptForAnActivityThatIsNeverCalledIsAMistake(t *testing.T) {
	_, err := sagatest.Scenario{Saga: oneStep(t), Script: sagatest.Script{"b": {sagatest.Applied()}}}.Play()
	require.ErrorContains(t, err, `the saga calls no activity "b"`)
}

func TestTheSameScenarioGivesTheSameHistory(t *testing.T) {
	scenario := sagatest.Scenario{Saga: oneStep(t), Script: sagatest.Script{"a": {sagatest.Fails("down"), sagatest.Rejected("no")}}}
	first, err := scenario.Play()
	require.NoError(t, err)
	second, err := scenario.Play()
	require.NoError(t, err)
	require.Equal(t, len(first.History), len(second.History))
	for i := range first.History {
		require.True(t, proto.Equal(first.History[i], second.History[i]), "event %d", i)
	}
	require.Equal(t, first.Story(), second.Story())
}

func TestACommandRaisedFromOutsideWakesARunOnAHub(t *testing.T) {
	waiting := make(chan struct{})
	running := sagatest.Scenario{
		Saga:   oneStep(t),
		Policy: saga.Policy{FirstWait: time.Hour, LongestWait: time.Hour},
		Script: sagatest.Script{"a": {sagatest.Unknown(), sagatest.Rejected("no")}},
		Answered: func(c sagatest.Call) {
			if c.Input.Round == 1 {
				close(waiting)
			}
		},
	}.Start(t)
	<-waiting
	require.NoError(t, running.Raise(saga.Command{ID: "c1", Kind: "cancel"}))
	played := running.Wait()
	require.Equal(t, saga.Result{End: saga.Undone}, played.Result)
	require.Equal(t, []string{"a", "a"}, played.Activities())
}
