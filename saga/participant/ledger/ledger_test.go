package ledger

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// migrations make the ledger's tables in every participant's database.
var migrations = []string{"00001_operations.sql", "00004_forgotten_orders.sql"}

// What the ledger does to the rows of operations is proven through the participants (participanttest).

func TestEveryParticipantHasTheSameTables(t *testing.T) {
	t.Parallel()
	for _, migration := range migrations {
		files, err := filepath.Glob("../../../participants/*/migrations/" + migration)
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(files), 2)
		first, err := os.ReadFile(files[0])
		require.NoError(t, err)
		for _, file := range files[1:] {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, string(first), string(text), "%s and %s must be the same: package ledger reads both", files[0], file)
		}
	}
}

func TestDigestsDifferWhereRequestsDo(t *testing.T) {
	t.Parallel()
	require.Equal(t, "1:2f80e43627f687eedd3961b96409294c40183b91d28929a3d38d9bd6ccbc1fd5", Digest(1, "sku", "A", "quantity", "1"),
		"digests stand in rows: a change of what one means needs a new version")
	seen := map[string]bool{}
	for _, d := range []string{
		Digest(1, "sku", "A", "quantity", "1"), Digest(2, "sku", "A", "quantity", "1"), Digest(1, "sku", "A", "quantity", "2"),
		Digest(1, "sku", "A", "quantity", ""), Digest(1, "sku", "Aquantity"), Digest(1, "s", "kuA"), Digest(1),
	} {
		require.False(t, seen[d])
		seen[d] = true
	}
}

func TestSentencesAreCutAtTwoHundredBytesBetweenCharacters(t *testing.T) {
	t.Parallel()
	var s Side
	s.Reject("r", strings.Repeat("é", 150))
	require.Len(t, s.Detail, 200)
	s.Reject("r", "x"+strings.Repeat("é", 150))
	require.Len(t, s.Detail, 199)
	require.True(t, utf8.ValidString(s.Detail))
	s.Reject("r", "a\xffb")
	require.Equal(t, "a?b", s.Detail)
}
