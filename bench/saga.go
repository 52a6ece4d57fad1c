package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/gen/saga/v1/sagav1connect"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
)

// startParticipants starts those of the saga, each in a process and with a database of its own, unless they run.
func (g *ground) startParticipants(ctx context.Context) error {
	if g.participants != nil {
		return nil
	}
	names := []string{"reserve", "charge", "confirm"}
	const owner = "participants"
	url, err := g.databases(ctx, owner+"_", names...)
	if err != nil {
		return err
	}
	ports, err := localstack.FreePorts(len(names))
	if err != nil {
		return err
	}
	for i, name := range names {
		listen := fmt.Sprintf("127.0.0.1:%d", ports[i])
		stop, err := g.start(ctx, kind{owner, name}, localstack.ProgramConfig{
			Path: g.sagaProgram(), Args: []string{"participant"}, Env: []string{"LISTEN=" + listen, "DATABASE_URL=" + url(name)}, ReadyURL: "http://" + listen + "/readyz",
		})
		if err != nil {
			return err
		}
		g.stops = append(g.stops, stop)
		g.participants = append(g.participants, strings.ToUpper(name)+"_URL=http://"+listen)
	}
	return nil
}

func (g *ground) sagaProgram() string { return filepath.Join(g.bin(), "saga") }

// startSaga returns what starts one of the programs that run the saga: those written by hand by their names, and this engine's by "saga".
func startSaga(name string) starter {
	return func(ctx context.Context, g *ground) (*system, error) {
		if err := g.build(ctx, "./bench/saga"); err != nil {
			return nil, err
		}
		if err := g.startParticipants(ctx); err != nil {
			return nil, err
		}
		url, err := g.databases(ctx, name+"_", "log")
		if err != nil {
			return nil, err
		}
		ports, err := localstack.FreePorts(2)
		if err != nil {
			return nil, err
		}
		listen := fmt.Sprintf("127.0.0.1:%d", ports[0])
		env, profile := g.profileAt(ports[1])
		role, one := name, postAt("http://"+listen)
		env = append(append(env, g.participants...), "LISTEN="+listen, "DATABASE_URL="+url("log"))
		if name == "saga" {
			role, one = "serve", sagaAt("http://"+listen)
			env = append(env, "ORCHESTRATOR_ENGINE=embedded", "ORCHESTRATOR_LISTEN="+listen, "ORCHESTRATOR_DATABASE_URL="+url("log"))
		}
		stop, err := g.start(ctx, kind{name, name}, localstack.ProgramConfig{Path: g.sagaProgram(), Args: []string{role}, Env: env, ReadyURL: "http://" + listen + "/readyz"})
		if err != nil {
			return nil, err
		}
		return &system{name: name, owners: []string{name, "participants"}, one: one, stop: stop, profile: profile}, nil
	}
}

// postAt runs sagas at a program that is written by hand: its answer is the end.
func postAt(url string) func(ctx context.Context, id string) error {
	client := newClient()
	return func(ctx context.Context, id string) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/"+id, strings.NewReader(`{"amount":4999}`))
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("run %s: %s: %s", id, resp.Status, text)
		}
		return err
	}
}

// longest is how long a start may wait for the end.
var longest = durationpb.New(20 * time.Second)

// sagaAt runs sagas at a program of this engine, each by one request, whose answer is the end.
func sagaAt(url string) func(ctx context.Context, id string) error {
	sagas := sagav1connect.NewSagaServiceClient(newClient(), url)
	input := structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"amount": structpb.NewNumberValue(4999)}})
	return func(ctx context.Context, id string) error {
		answer, err := sagas.Start(ctx, connect.NewRequest(&sagav1.StartRequest{Definition: "bench", Key: id, Input: input, Wait: longest}))
		if err != nil {
			return fmt.Errorf("run %s: %w", id, err)
		}
		if status := answer.Msg.Saga.Status; status != sagav1.Status_STATUS_CONFIRMED {
			return fmt.Errorf("%s ended %s, want confirmed", id, status)
		}
		return nil
	}
}
