package host

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

func TestAStepThatNobodyDoesOrUndoesIsRefusedAtTheStart(t *testing.T) {
	trip, err := saga.Define("trip", 1,
		saga.Do("book-flight").At("airline").UndoneBy("cancel-flight"),
		saga.Do("rent-car").At("agency").NothingToUndo())
	require.NoError(t, err)
	undo := ledger.Step{Undo: func(context.Context, pgx.Tx, participant.Request) error { return nil }}
	for name, c := range map[string]struct {
		airline participant.Participant
		want    string
	}{
		"all is bound":                 {airline: ledger.New(nil, map[string]ledger.Step{"book-flight": undo})},
		"who is far away is not asked": {airline: participant.Client(nil, "http://127.0.0.1:1")},
		"a step that it does not have": {airline: ledger.New(nil, nil), want: "saga trip: step book-flight: airline does not do it"},
		"a step that it does not undo": {airline: ledger.New(nil, map[string]ledger.Step{"book-flight": {}}),
			want: "saga trip: step book-flight: airline does it, but cancel-flight, which is to undo it, is nothing that it does"},
	} {
		t.Run(name, func(t *testing.T) {
			err := bound([]*saga.Definition{trip}, map[string]participant.Participant{
				"airline": c.airline, "agency": ledger.New(nil, map[string]ledger.Step{"rent-car": {}}),
			})
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, c.want)
		})
	}
}
