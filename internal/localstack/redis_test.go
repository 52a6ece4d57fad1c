package localstack

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRedisIsFoundRunningKeepsItsDataAndStops(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "redis")
	r, err := StartRedis(t.Context(), dir)
	require.NoError(t, err)
	stopAtEnd(t, dir)

	again, err := StartRedis(t.Context(), dir)
	require.NoError(t, err)
	require.Equal(t, r.Address(), again.Address(), "a second start finds the first")

	_, err = r.ask(t.Context(), "SET greeting hello")
	require.NoError(t, err)
	require.NoError(t, StopRedis(t.Context(), dir))
	require.NoError(t, StopRedis(t.Context(), dir), "stopping twice is fine")

	r, err = StartRedis(t.Context(), dir)
	require.NoError(t, err)
	answer, err := r.ask(t.Context(), "GET greeting")
	require.NoError(t, err)
	require.Contains(t, answer, "hello")
	require.NoError(t, StopRedis(t.Context(), dir))
}

func TestTwoRedisFoldersDoNotCollide(t *testing.T) {
	first, second := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	a, err := StartRedis(t.Context(), first)
	require.NoError(t, err)
	stopAtEnd(t, first)
	b, err := StartRedis(t.Context(), second)
	require.NoError(t, err)
	stopAtEnd(t, second)
	require.NotEqual(t, a.Address(), b.Address())
	require.Error(t, a.serves(t.Context(), second), "a server is recognised by its folder")
	require.NoError(t, StopRedis(t.Context(), first))
	require.NoError(t, b.serves(t.Context(), second))
	require.NoError(t, StopRedis(t.Context(), second))
}

// stopAtEnd leaves no server behind when a test fails halfway; the test's own context has ended by then.
func stopAtEnd(t *testing.T, dir string) {
	t.Cleanup(func() { _ = StopRedis(context.Background(), dir) })
}
