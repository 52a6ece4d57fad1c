package embedded_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

func TestAProcessBehindAPoolerStartsOnlyIfItHasSessionsOfItsOwn(t *testing.T) {
	t.Parallel()
	for mode, starts := range map[string]bool{"session": true, "transaction": false} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			env := []string{"WAREHOUSE_LISTEN=127.0.0.1:0", "WAREHOUSE_DATABASE_URL=" + pgtest.PgBouncer(t, "pool_mode = "+mode)}
			if starts {
				port, err := localstack.FreePort()
				require.NoError(t, err)
				address := fmt.Sprintf("127.0.0.1:%d", port)
				env[0] = "WAREHOUSE_LISTEN=" + address
				harness.NewProcess(t, "warehouse", "http://"+address, env).Start(t)
				return
			}
			out, errs, status := harness.NewProcess(t, "warehouse", "http://127.0.0.1:0", env).Ask(t)
			require.Equal(t, 1, status)
			require.Contains(t, out+errs, "a connection pooler lends a session for one transaction only")
		})
	}
}
