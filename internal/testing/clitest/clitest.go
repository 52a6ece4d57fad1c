// Package clitest has what tests of command lines share: a text that does all that a text must not do to a terminal, and the check that
// it did not.
package clitest

import (
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// Hostile is what a text of the server may hold: a line that looks like one of ours, sequences that recolour, retitle and clear, the
// same by C1, marks that turn the direction, line separators, what is not seen, and an astral format character.
const Hostile = "FORGED\nFORGED\r\x1b[31m\x1b]0;title\x07\x00\x08\t\x7f\u0085\u009b2J\u200e\u202e\u2066\u2028\u2029\u200b\ufeff\U000e0041!"

// HostileBytes is the same with bytes that are no UTF-8.
var HostileBytes = append([]byte(Hostile), 0xff, 0x9b, 0xc3)

// RequireHarmless fails if a text could do anything to a terminal but show characters in lines that are ours.
func RequireHarmless(t *testing.T, text string) {
	t.Helper()
	require.True(t, utf8.ValidString(text), "it is not UTF-8: %q", text)
	for _, r := range text {
		control := r < 0x20 && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0
		turning := r == 0x061c || r == 0x200e || r == 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
		unseen := r == 0x2028 || r == 0x2029 || r == 0x200b || r == 0xfeff || r >= 0xe0000 && r <= 0xe007f
		require.False(t, control || turning || unseen, "%U gets out: %q", r, text)
	}
	require.NotContains(t, "\n"+text, "\nFORGED\r", "a line of somebody else stands among ours")
}
