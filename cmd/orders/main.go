// Command orders is the participant that keeps orders as the customer sees them. It reads ORDERS_DATABASE_URL, ORDERS_LISTEN (or
// APP_PORT, default 127.0.0.1:8083), ORDERS_HOSTS and LOG_LEVEL.
package main

import (
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/participants/orders"
)

func main() { process.Main(orders.Kind) }
