package workflows

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/saga"
)

func TestTheCheckoutIsItsListOfSteps(t *testing.T) {
	s, err := Checkout()
	require.NoError(t, err)
	plan := s.Plan()
	require.Equal(t, checkout.Definition, plan.Definition)
	require.Equal(t, []string{checkout.Warehouse, checkout.Payment}, plan.Participants())
	require.Equal(t, []string{
		checkout.ReserveStock, checkout.ReleaseStock, checkout.AuthorizePayment, checkout.VoidAuthorization, checkout.Approval,
		checkout.CapturePayment, checkout.RefundPayment, checkout.CommitStock,
	}, plan.Names())
	require.Equal(t, checkout.CapturePayment, plan.Steps[plan.Pivot()].Name)
	require.NotContains(t, plan.Without(checkout.Approval).Names(), checkout.Approval)
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
