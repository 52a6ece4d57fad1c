package telemetry

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheLevelIsWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := NewLogger(&out, "warehouse", "warn")
	require.NoError(t, err)
	log.Info("not told")
	log.Warn("told", "order_id", "ord-1")
	require.Contains(t, out.String(), `"level":"WARN","msg":"told","service":"warehouse","order_id":"ord-1"`)
	require.NotContains(t, out.String(), "not told")

	_, err = NewLogger(&out, "warehouse", "loud")
	require.ErrorContains(t, err, "LOG_LEVEL")
}

func TestNoPasswordReachesTheLog(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := NewLogger(&out, "warehouse", "")
	require.NoError(t, err)
	const url = "postgres://warehouse:secret@db/warehouse"
	log.With("at", url).WithGroup("g").Warn("reach "+url, "url", url, "error", fmt.Errorf("open: %w", errors.New("dial "+url)), "after", time.Second)
	require.NotContains(t, out.String(), "secret")
	require.Contains(t, out.String(), `"msg":"reach postgres://warehouse:xxxxx@db/warehouse"`)
	require.Contains(t, out.String(), `"error":"open: dial postgres://warehouse:xxxxx@db/warehouse"`)
	require.Contains(t, out.String(), `"after":1000000000`, "what is no text stays what it is")
}
