package workflows

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/saga/sagatest"
)

func TestI1TheCheckoutsListKeepsItsPromisesThroughEverySchedule(t *testing.T) {
	s, err := Checkout()
	require.NoError(t, err)
	sagatest.Exploration{Saga: s}.Explore(t)
}

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
	require.NotContains(t, plan.WithoutDecision().Names(), checkout.Approval)
}
