// Command payment is the participant that moves money, with its sandbox card network. It reads PAYMENT_DATABASE_URL,
// PAYMENT_LISTEN (or APP_PORT, default 127.0.0.1:8082), PAYMENT_HOSTS, LOG_LEVEL, and what `dapr run` sets.
package main

import (
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/participants/payment"
)

func main() { process.Main(payment.Kind) }
