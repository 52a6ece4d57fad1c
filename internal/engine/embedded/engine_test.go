package embedded_test

import (
	"testing"

	"github.com/dapr/durabletask-go/task"

	"github.com/checkoutsaga/orchestrator/internal/testing/enginetest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestEngine(t *testing.T) {
	url := pgtest.URL(t)
	enginetest.Run(t, func(t *testing.T, registry *task.TaskRegistry) enginetest.Opened {
		o := open(t, url, registry)
		return enginetest.Opened{Engine: o, Cut: o.cut}
	})
}
