package activities

import (
	"context"

	"connectrpc.com/connect"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
)

func reserveStock(warehouse warehousev1connect.WarehouseServiceClient) call {
	return func(ctx context.Context, order checkout.Order) (*operationv1.Result, error) {
		lines := make([]*warehousev1.Line, len(order.Items))
		for i, item := range order.Items {
			lines[i] = &warehousev1.Line{Sku: item.SKU, Quantity: item.Quantity}
		}
		answer, err := warehouse.Reserve(ctx, connect.NewRequest(&warehousev1.ReserveRequest{OrderId: order.ID, Lines: lines}))
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
