package activities

import (
	"context"

	"connectrpc.com/connect"

	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/requests"
)

// Warehouse makes the warehouse a participant of checkouts.
func Warehouse(client warehousev1connect.WarehouseServiceClient) Participant {
	return Participant{
		records: client,
		do: map[string]call{
			checkout.ReserveStock: func(ctx context.Context, order checkout.Order) (resulting, error) {
				return answer(client.Reserve(ctx, connect.NewRequest(requests.Reserve(order))))
			},
			checkout.CommitStock: func(ctx context.Context, order checkout.Order) (resulting, error) {
				return answer(client.Commit(ctx, connect.NewRequest(&warehousev1.CommitRequest{OrderId: order.ID})))
			},
		},
		undo: map[string]call{
			checkout.ReserveStock: func(ctx context.Context, order checkout.Order) (resulting, error) {
				return answer(client.Release(ctx, connect.NewRequest(&warehousev1.ReleaseRequest{OrderId: order.ID})))
			},
		},
	}
}
