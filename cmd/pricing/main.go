// Command pricing is the participant that says what articles cost. It reads PRICING_DATABASE_URL, PRICING_LISTEN (or APP_PORT,
// default 127.0.0.1:8085), PRICING_HOSTS and LOG_LEVEL.
package main

import (
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/participants/pricing"
)

func main() { process.Main(pricing.Kind) }
