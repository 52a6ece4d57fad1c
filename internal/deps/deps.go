// Package deps keeps modules in go.mod while the code that needs them is being written. Removed before the end.
package deps

import (
	_ "connectrpc.com/connect"
	_ "github.com/dapr/durabletask-go/backend/postgres"
	_ "github.com/dapr/durabletask-go/backend/sqlite"
	_ "github.com/dapr/durabletask-go/client"
	_ "github.com/dapr/go-sdk/client"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/google/uuid"
	_ "github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/pressly/goose/v3"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/spf13/cobra"
	_ "github.com/stretchr/testify/require"
	_ "go.uber.org/goleak"
	_ "golang.org/x/sync/errgroup"
	_ "google.golang.org/grpc"
	_ "gopkg.in/yaml.v3"
)
