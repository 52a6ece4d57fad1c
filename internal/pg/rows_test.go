package pg_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/pg"
)

func TestATextIsCutToWhatPostgreSQLStores(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"a short text stays":                  {"no room", "no room"},
		"a text is cut":                       {strings.Repeat("x", 100), strings.Repeat("x", 10)},
		"a zero byte is replaced":             {"a\x00b", "a?b"},
		"what is no UTF-8 is replaced":        {"a\xffb", "a?b"},
		"no character is cut in the middle":   {"x" + strings.Repeat("ü", 9), "x" + strings.Repeat("ü", 4)},
		"nor one of three bytes":              {"xx" + strings.Repeat("€", 9), "xx€€"},
		"a replaced byte is no broken ending": {"123456789\xff", "123456789?"},
	} {
		t.Run(name, func(t *testing.T) {
			got := pg.Text(c.text, 10)
			require.Equal(t, c.want, got)
			require.True(t, utf8.ValidString(got))
		})
	}
}
