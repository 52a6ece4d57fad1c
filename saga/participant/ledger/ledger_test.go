package ledger

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// What the ledger does to the rows of operations is proven through the participants (participanttest).

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
