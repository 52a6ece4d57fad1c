// Command bare is what the checkout on Dapr is measured against: the least that a durable workflow with four remote calls can
// be. `bare worker` runs a workflow of four activities, each of which makes one empty invocation through its sidecar;
// `bare app` is who is called, and does nothing. Neither has a database. `bare direct` is the worker whose activities call the
// real participants instead: a checkout without an orchestrator, which shows what the participants' own work costs.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/dapr/durabletask-go/backend"
	"github.com/dapr/durabletask-go/client"
	"github.com/dapr/durabletask-go/task"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
)

// Workflow is the name under which the bare workflow is registered.
const Workflow = "bare"

// activities are as many as a confirmed checkout has.
var activities = []string{"reserve", "authorize", "capture", "commit"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch role := append(os.Args, "")[1]; role {
	case "worker":
		url := "http://127.0.0.1:" + os.Getenv("DAPR_HTTP_PORT") + "/empty"
		err = work(ctx, func(_ string) task.Activity { return empty(url, os.Getenv("APP_ID")) })
	case "direct":
		err = work(ctx, direct("http://127.0.0.1:"+os.Getenv("DAPR_HTTP_PORT"), os.Getenv("WAREHOUSE_APP_ID"), os.Getenv("PAYMENT_APP_ID")))
	case "app":
		err = serve(ctx, os.Getenv("LISTEN"), nil)
	default:
		err = fmt.Errorf("role is %q: want worker, direct or app", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bare:", err)
		os.Exit(1)
	}
}

func work(ctx context.Context, activityOf func(name string) task.Activity) error {
	conn, err := grpc.NewClient("passthrough:///127.0.0.1:"+os.Getenv("DAPR_GRPC_PORT"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	registry := task.NewTaskRegistry()
	if err := registry.AddWorkflowN(Workflow, bare); err != nil {
		return err
	}
	for _, name := range activities {
		if err := registry.AddActivityN(name, activityOf(name)); err != nil {
			return err
		}
	}
	ready := make(chan struct{})
	served := make(chan error, 1)
	go func() { served <- serve(ctx, os.Getenv("LISTEN"), ready) }()
	if err := client.NewTaskHubGrpcClient(conn, backend.DefaultLogger()).StartWorkItemListener(ctx, registry); err != nil {
		return fmt.Errorf("listen for work: %w", err)
	}
	close(ready)
	return <-served
}

// bare is the workflow.
func bare(ctx *task.WorkflowContext) (any, error) {
	var key string
	if err := ctx.GetInput(&key); err != nil {
		return nil, err
	}
	for _, name := range activities {
		if err := ctx.CallActivity(name, task.WithActivityInput(key)).Await(nil); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// newClient keeps as many connections as calls may be under way; Go's default of two would open one for nearly every call.
func newClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 256
	return &http.Client{Transport: transport}
}

// empty is the activity that makes an empty request to appID through the sidecar.
func empty(url, appID string) task.Activity {
	httpClient := newClient()
	return func(ctx task.ActivityContext) (any, error) {
		callCtx, cancel := context.WithTimeout(ctx.Context(), 5*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(callCtx, http.MethodPost, url, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("dapr-app-id", appID)
		resp, err := httpClient.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s answers %s", appID, resp.Status)
		}
		return nil, nil
	}
}

// direct makes the activities that do a checkout's steps at its participants, with nothing around them.
func direct(sidecar, warehouseApp, paymentApp string) func(name string) task.Activity {
	to := func(appID string) connect.ClientOption {
		return connect.WithInterceptors(connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
			return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
				req.Header().Set("dapr-app-id", appID)
				return next(ctx, req)
			}
		}))
	}
	httpClient := newClient()
	warehouse := warehousev1connect.NewWarehouseServiceClient(httpClient, sidecar, to(warehouseApp))
	payment := paymentv1connect.NewPaymentServiceClient(httpClient, sidecar, to(paymentApp))
	amount := &operationv1.Money{Currency: "EUR", MinorUnits: 4999}
	calls := map[string]func(ctx context.Context, id string) (*operationv1.Result, error){
		"reserve": func(ctx context.Context, id string) (*operationv1.Result, error) {
			lines := []*warehousev1.Line{{Sku: articles[rand.IntN(len(articles))], Quantity: 1}}
			resp, err := warehouse.Reserve(ctx, connect.NewRequest(&warehousev1.ReserveRequest{OrderId: id, Lines: lines}))
			if err != nil {
				return nil, err
			}
			return resp.Msg.Result, nil
		},
		"authorize": func(ctx context.Context, id string) (*operationv1.Result, error) {
			resp, err := payment.Authorize(ctx, connect.NewRequest(&paymentv1.AuthorizeRequest{
				OrderId: id, CustomerId: "cus-bench", Amount: amount, PaymentMethod: "tok_visa",
			}))
			if err != nil {
				return nil, err
			}
			return resp.Msg.Result, nil
		},
		"capture": func(ctx context.Context, id string) (*operationv1.Result, error) {
			resp, err := payment.Capture(ctx, connect.NewRequest(&paymentv1.CaptureRequest{OrderId: id, Amount: amount}))
			if err != nil {
				return nil, err
			}
			return resp.Msg.Result, nil
		},
		"commit": func(ctx context.Context, id string) (*operationv1.Result, error) {
			resp, err := warehouse.Commit(ctx, connect.NewRequest(&warehousev1.CommitRequest{OrderId: id}))
			if err != nil {
				return nil, err
			}
			return resp.Msg.Result, nil
		},
	}
	return func(name string) task.Activity {
		call := calls[name]
		return func(ctx task.ActivityContext) (any, error) {
			var id string
			if err := ctx.GetInput(&id); err != nil {
				return nil, err
			}
			callCtx, cancel := context.WithTimeout(ctx.Context(), 5*time.Second)
			defer cancel()
			result, err := call(callCtx, id)
			if err != nil {
				return nil, err
			}
			if result.GetOutcome() != operationv1.Outcome_OUTCOME_APPLIED {
				return nil, fmt.Errorf("%s of %s: %s: %s", name, id, result.GetOutcome(), result.GetReason())
			}
			return nil, nil
		}
	}
}

// articles are some of the catalogue's, so that orders do not all wait for one row.
var articles = []string{
	"CHAIR-OAK", "TABLE-OAK", "LAMP-BRASS", "BENCH-PINE", "STOOL-BIRCH", "SHELF-WALNUT", "DESK-OAK", "SOFA-LINEN", "ARMCHAIR-WOOL", "BED-ASH",
	"WARDROBE-PINE", "MIRROR-ROUND", "RUG-JUTE", "CUSHION-VELVET", "VASE-CLAY", "CLOCK-STEEL", "LAMP-PAPER", "BASKET-WILLOW", "BOWL-OLIVE", "COAT-RACK",
}

// serve answers everything with an empty success until ctx ends, /readyz only once ready is closed.
func serve(ctx context.Context, address string, ready <-chan struct{}) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		if ready == nil {
			return
		}
		select {
		case <-ready:
		default:
			http.Error(w, "no worker yet", http.StatusServiceUnavailable)
		}
	})
	server := &http.Server{Addr: address, Handler: mux}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
