package workflows

import (
	"encoding/json"
	"testing"

	"github.com/dapr/durabletask-go/task"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/saga"
)

func TestTheSagaIsTheListOfSteps(t *testing.T) {
	s, err := Checkout()
	require.NoError(t, err)
	want := checkout.Steps()
	var got []checkout.Step
	for i, d := range s.Steps() {
		// Who does a step is not for the saga to know.
		require.Equal(t, d.Name == checkout.Approval, d.Decision)
		got = append(got, checkout.Step{Name: d.Name, Participant: want[min(i, len(want)-1)].Participant, Compensation: d.UndoneBy, Pivot: d.Pivot})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("checkout.Steps() and workflows.Checkout (-steps +saga):\n%s", diff)
	}
}

func TestRegisterRefusesASecondTimeAndAWrongPolicy(t *testing.T) {
	registry := task.NewTaskRegistry()
	require.ErrorContains(t, Register(registry, saga.Policy{Patience: -1}), "register checkout: policy: Patience is -1")
	require.NoError(t, Register(registry, saga.Policy{}))
	require.ErrorContains(t, Register(registry, saga.Policy{}), "already registered")
	_, _, err := registry.ResolveWorkflow(checkout.Workflow, nil)
	require.NoError(t, err)
}

// The saga library and internal/checkout each have words of their own, because the library knows nothing of checkouts.
// They must be the same words.
func TestWordsOfTheLibraryAreThoseOfTheCheckout(t *testing.T) {
	for theirs, ours := range map[string]string{
		saga.CommandEvent:     checkout.CommandEvent,
		string(saga.Forward):  string(checkout.Forward),
		string(saga.Pivoted):  string(checkout.Pivoted),
		string(saga.Undoing):  string(checkout.Undoing),
		string(saga.Applied):  string(checkout.Applied),
		string(saga.Rejected): string(checkout.Refused),
		string(saga.Unknown):  string(checkout.Unknown),
		asJSON(t, saga.Command{ID: "1", Kind: "cancel", Step: "s"}): asJSON(t, checkout.Command{ID: "1", Kind: checkout.CommandCancel, Step: "s"}),
		asJSON(t, saga.Command{}):                                   asJSON(t, checkout.Command{}),
	} {
		require.Equal(t, ours, theirs)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}
