// Package checkouttest has what tests of checkouts in several packages need alike.
package checkouttest

import (
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/workflows"
)

// Plan is the list of a checkout that needs no approval.
func Plan() saga.Plan { return PlanWithApproval().Without(checkout.Approval) }

// PlanWithApproval is the list of a checkout that a person has to approve.
func PlanWithApproval() saga.Plan {
	definition, err := workflows.Checkout()
	if err != nil {
		panic(err) // The list is a constant, which package workflows tests.
	}
	return definition.Plan()
}
