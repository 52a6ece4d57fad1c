package saga_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/checkoutsaga/orchestrator/saga"
	. "github.com/checkoutsaga/orchestrator/saga/sagatest"
)

func TestMain(m *testing.M) {
	// The SQLite backend of durabletask-go never closes its handle.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// quick is a policy for waits in real time.
var quick = saga.Policy{FirstWait: 20 * time.Millisecond, LongestWait: 20 * time.Millisecond, FirstStuckWait: time.Hour}

func TestOnARealHub(t *testing.T) {
	tests := []struct {
		name   string
		phase  saga.Phase
		script Script
		want   []string
		end    saga.End
	}{
		{
			name: "all steps applied",
			want: []string{"room", "quote", "seat", "charge", "ticket"}, end: saga.Completed,
		},
		{
			name:   "an attempt fails, is tried again, and the pivot is refused",
			script: Script{"room": {Fails("down")}, "charge": {Rejected("declined")}},
			want:   []string{"room", "room", "quote", "seat", "charge", "no-seat", "no-room"}, end: saga.Undone,
		},
		{
			name:   "begins undoing, an undo fails and recovers",
			phase:  saga.Undoing,
			script: Script{"no-room": Then(Fails("down").Times(2), []Answer{Unknown(), Applied()})},
			want:   []string{"no-seat", "no-room", "no-room", "no-room", "no-room"}, end: saga.Undone,
		},
		{
			name:   "a command that arrives with an attempt wakes it from a wait of an hour",
			script: Script{"room": Then(Unknown().Times(11), []Answer{then(Unknown(), command("c1")), Applied()})},
			want:   []string{"room", "room", "room", "room", "room", "room", "room", "room", "room", "room", "room", "room", "room", "quote", "seat", "charge", "ticket"},
			end:    saga.Completed,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := trip(t)
			played := Scenario{Saga: s, Policy: quick, Input: saga.Input{Phase: test.phase}, Script: test.script}.Start(t).Wait()
			require.Equal(t, test.end, played.Result.End, "%v", played.Story())
			if diff := cmp.Diff(test.want, played.Activities()); diff != "" {
				t.Fatalf("activities (-want +got):\n%s", diff)
			}
			require.NoError(t, replayedWith(quick, played), "a history that a real backend wrote replays, too")
		})
	}
}
