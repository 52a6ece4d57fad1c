package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/checkoutsaga/orchestrator/internal/testing/clitest"
)

func TestWhatIsHiddenInATextIsWrittenAsItsEscape(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"no answer":             "no answer",
		"Müller & 株式会社, 3 × 🪑":  "Müller & 株式会社, 3 × 🪑",
		"a\u00a0b\u3000c":       "a\u00a0b\u3000c", // Spaces of any script only look like spaces.
		"\x1b[2J":               `\x1b[2J`,
		"a\nb\r\tc\x00":         `a\nb\r\tc\x00`,
		"\u009b2J\u0085":        `\u009b2J\u0085`,
		"\u202egpj.exe":         `\u202egpj.exe`,
		"\u2028\u200b\ufeff":    `\u2028\u200b\ufeff`,
		"\U000e0041":            `\U000e0041`,
		"\xff\xc3 \ufffd":       `\xff\xc3 ` + "\ufffd",
		"it's \"quoted\" \\x1b": `it's "quoted" \x1b`,
	} {
		require.Equal(t, want, Visible(text))
	}
	require.Equal(t, "a\n\tb\\r\\x1b", visibleLines("a\n\tb\r\x1b"))
}

func TestASentenceKeepsItsOwnLinesAndMakesVisibleWhatItIsGiven(t *testing.T) {
	t.Parallel()
	type word string
	foreign := connect.NewError(connect.CodeNotFound, errors.New("a\nb"))
	for want, err := range map[string]error{
		"ours:\n  a\\nb":                       Usage("ours:\n  %s", "a\nb"),
		"ours: a\\nb.":                         Usage("ours: %s.", word("a\nb")),
		`ours: "a\nb"  a\nb| 7`:                Usage("ours: %q %5s| %d", "a\nb", "a\nb", 7),
		"a\\nb":                                foreign,
		"ask: a\\nb":                           fmt.Errorf("ask: %w", foreign),
		"stopped: ask: a\\nb":                  ExitWith(ExitFailed, "stopped: %w", fmt.Errorf("ask: %w", foreign)),
		"wrong configuration:\nA: x\nB: y\\nz": Usage("wrong configuration:\n%w", errors.Join(errors.New("A: x"), errors.New("B: y\nz"))),
		"2 and a\\nb":                          fmt.Errorf("%w and %w", errors.New("2"), errors.New("a\nb")),
	} {
		require.Equal(t, want, Explain(err))
	}
	require.ErrorIs(t, ExitWith(ExitFailed, "stopped: %w", foreign), foreign, "it is still that error")
}

func TestJSONAndYAMLSayTheSameWithEscapes(t *testing.T) {
	t.Parallel()
	value := map[string]any{clitest.Hostile: clitest.Hostile, "plain": "Müller: 株式会社", "list": []any{"\u202e", "- \U000e0041"}}
	for name, form := range map[string]struct {
		print func(*bytes.Buffer) error
		read  func([]byte, any) error
	}{
		"json": {func(b *bytes.Buffer) error { return printJSON(b, value, "  ") }, json.Unmarshal},
		"yaml": {func(b *bytes.Buffer) error { return printYAML(b, value) }, yaml.Unmarshal},
	} {
		var text bytes.Buffer
		require.NoError(t, form.print(&text), name)
		clitest.RequireHarmless(t, text.String())
		require.Contains(t, text.String(), "株式会社", "what can be read stays as it is")
		var again map[string]any
		require.NoError(t, form.read(text.Bytes(), &again), name)
		require.Equal(t, value, again, name)
	}
}
