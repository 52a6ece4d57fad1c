package operator_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/sagas/operator"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

func TestAdviceNamesTheProgramTheParticipantAndWhatToType(t *testing.T) {
	definition, err := saga.Define("trip", 1,
		saga.Do("book-flight").At("airline").UndoneBy("cancel-flight"),
		saga.Pivot("charge-card").At("bank").UndoneBy("refund-card"),
		saga.Do("issue-ticket").At("airline").NothingToUndo())
	require.NoError(t, err)
	row := journal.Begin("t-1", definition.Plan(), time.Now(), time.Minute)
	for name, c := range map[string]struct {
		attention journal.Attention
		phase     saga.Phase
		want      string
	}{
		"a participant that fails": {
			attention: journal.Attention{Code: journal.AttentionFailing, Step: "book-flight"}, phase: saga.Forward,
			want: "look at airline and its log; when it works again, `travel saga resolve trip t-1 --step book-flight --as retry --reason …`; " +
				"`travel saga resolve trip t-1 --step book-flight --as done --reason …` settles it where the record of airline says that it is done; " +
				"`travel saga cancel trip t-1 --reason …` gives it up",
		},
		"an answer that is none": {
			attention: journal.Attention{Code: journal.AttentionBadAnswer, Step: "cancel-flight"}, phase: saga.Undoing,
			want: "airline answers what its contract does not have: mend it there; then `travel saga resolve trip t-1 --step cancel-flight --as retry --reason …`",
		},
		"other contents under its key": {
			attention: journal.Attention{Code: journal.AttentionConflict, Step: "cancel-flight"}, phase: saga.Undoing,
			want: "find out what airline has on record of this saga (`travel saga history trip t-1`) and mend it there; " +
				"then `travel saga resolve trip t-1 --step cancel-flight --as retry --reason …`",
		},
		"a run that stopped": {
			attention: journal.Attention{Code: journal.AttentionStopped}, phase: saga.Undoing,
			want: "mend the orchestrator's build (`travel doctor --replay` shows what does not fit), then `travel saga redrive trip t-1 --reason …`",
		},
		"runs that get nowhere": {
			attention: journal.Attention{Code: journal.AttentionNoProgress}, phase: saga.Undoing,
			want: "`travel doctor` tells what the engine lacks; when it is mended, `travel saga redrive trip t-1 --reason …`",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := store.Saga{Saga: row.Saga}
			s.Attention, s.Phase = &c.attention, c.phase
			require.Equal(t, c.want, operator.Advice(s, operator.WordsOf("travel", s)))
		})
	}
}
