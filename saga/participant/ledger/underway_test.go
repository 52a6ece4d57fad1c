package ledger

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatIsUnderWayIsAskedForInTimeAlsoAfterTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	l := open(t)
	for order, test := range map[string]struct {
		in     string
		isDue  bool
		reason string
	}{
		"due":   {"-1 second", true, "its time has come"},
		"soon":  {"5 minutes", false, "its time is yet to come"},
		"ahead": {"55 minutes", true, "nothing is put off for so long: it was written before the clock was set back"},
	} {
		l.insert(t, order, "reserve", Started, "none")
		_, err := l.pool.Exec(t.Context(), `UPDATE operations SET ask_at = clock_timestamp() + $2::interval WHERE key = $1`, order, test.in)
		require.NoError(t, err)
		due, err := ClaimUnderWay(t.Context(), l.pool, 10)
		require.NoError(t, err)
		require.Equal(t, test.isDue, len(due) == 1, "%s: %s", order, test.reason)
		due, err = ClaimUnderWay(t.Context(), l.pool, 10)
		require.NoError(t, err)
		require.Empty(t, due, "%s is put off once it was claimed", order)
	}
}
