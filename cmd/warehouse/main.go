// Command warehouse is the participant that keeps stock. It reads WAREHOUSE_DATABASE_URL, WAREHOUSE_LISTEN (or APP_PORT, default
// 127.0.0.1:8081), WAREHOUSE_HOSTS, LOG_LEVEL, and what `dapr run` sets.
package main

import (
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/participants/warehouse"
)

func main() { process.Main(warehouse.Kind) }
