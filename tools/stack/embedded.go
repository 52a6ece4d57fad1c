package main

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
)

// upEmbedded starts everything in one process, on a private PostgreSQL.
func (s *stack) upEmbedded(ctx context.Context) error {
	urls, err := s.startPostgres(ctx, apps...)
	if err != nil {
		return err
	}
	ports, err := localstack.FreePorts(len(apps))
	if err != nil {
		return err
	}
	databases, listen, addresses := databaseURLs(urls), map[string]string{}, map[string]string{}
	for i, app := range apps {
		address := fmt.Sprintf("127.0.0.1:%d", ports[i])
		listen[strings.ToUpper(app)+"_LISTEN"] = address
		addresses[addressKey(app)] = "http://" + address
	}
	s.say("Starting %s in one process ...", strings.Join(apps, ", "))
	st := state{Engine: embedded}
	dev, err := s.start(&st, "orchestrator", merged(databases, listen), filepath.Join(s.root, "bin", "orchestrator"), "dev")
	if err != nil {
		return err
	}
	if err := s.awaitReady(ctx, time.Minute, dev, slices.Collect(maps.Values(addresses))...); err != nil {
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
