// Command notification is the participant that tells customers what became of their orders. It reads NOTIFICATION_DATABASE_URL,
// NOTIFICATION_LISTEN (or APP_PORT, default 127.0.0.1:8084), NOTIFICATION_HOSTS, LOG_LEVEL and, to send mail,
// NOTIFICATION_SMTP_ADDR (host:port), NOTIFICATION_SMTP_FROM and NOTIFICATION_MAIL_DOMAIN; without the first it writes what it would
// send to its log.
package main

import (
	"os"

	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/participants/notification"
)

func main() { process.Main(notification.NewKind(notification.FromEnv(os.Getenv))) }
