package telemetry

import (
	"bytes"
	"testing"

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
