package activities

import (
	"context"

	"connectrpc.com/connect"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/requests"
)

func reserveStock(warehouse warehousev1connect.WarehouseServiceClient) call {
	return func(ctx context.Context, order checkout.Order) (*operationv1.Result, error) {
		answer, err := warehouse.Reserve(ctx, connect.NewRequest(requests.Reserve(order)))
		if err != nil {
			return nil, err
		}
		return answer.Msg.GetResult(), nil
	}
}

func releaseStock(warehouse warehousev1connect.WarehouseServiceClient) call {
	return func(ctx context.Context, order checkout.Order) (*operationv1.Result, error) {
		answer, err := warehouse.Release(ctx, connect.NewRequest(&warehousev1.ReleaseRequest{OrderId: order.ID}))
		if err != nil {
			return nil, err
		}
		return answer.Msg.GetResult(), nil
	}
}

func commitStock(warehouse warehousev1connect.WarehouseServiceClient) call {
	return func(ctx context.Context, order checkout.Order) (*operationv1.Result, error) {
		answer, err := warehouse.Commit(ctx, connect.NewRequest(&warehousev1.CommitRequest{OrderId: order.ID}))
		if err != nil {
			return nil, err
		}
		return answer.Msg.GetResult(), nil
	}
}
