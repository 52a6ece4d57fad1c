package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
)

// upEmbedded starts everything in one process, on a private PostgreSQL.
func (s *stack) upEmbedded(ctx context.Context) error {
	url, err := s.startPostgres(ctx, "orchestrator", "warehouse", "payment")
	if err != nil {
		return err
	}
	ports, err := localstack.FreePorts(3)
	if err != nil {
		return err
	}
	listen := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	databases := map[string]string{
		"ORCHESTRATOR_DATABASE_URL": url("orchestrator"),
		"WAREHOUSE_DATABASE_URL":    url("warehouse"),
		"PAYMENT_DATABASE_URL":      url("payment"),
	}
	addresses := map[string]string{
		"ORCHESTRATOR_SERVER": "http://" + listen(0),
		"WAREHOUSE_URL":       "http://" + listen(1),
		"PAYMENT_URL":         "http://" + listen(2),
	}
	s.say("Starting orchestrator, warehouse and payment in one process ...")
	st := state{Engine: embedded}
	dev, err := s.start(&st, "orchestrator", merged(databases, map[string]string{
		"ORCHESTRATOR_LISTEN": listen(0),
		"WAREHOUSE_LISTEN":    listen(1),
		"PAYMENT_LISTEN":      listen(2),
	}), filepath.Join(s.root, "bin", "orchestrator"), "dev")
	if err != nil {
		return err
	}
	if err := s.awaitReady(ctx, time.Minute, dev, addresses["WAREHOUSE_URL"], addresses["PAYMENT_URL"], addresses["ORCHESTRATOR_SERVER"]); err != nil {
		return err
	}
	return s.writeEnv(merged(databases, addresses))
}

func merged(all ...map[string]string) map[string]string {
	sum := map[string]string{}
	for _, m := range all {
		for k, v := range m {
			sum[k] = v
		}
	}
	return sum
}
