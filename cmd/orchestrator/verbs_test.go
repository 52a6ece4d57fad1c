package main

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// everyVerb is a line for each verb that asks the server, and for each way in which one asks. A verb that is missing here fails the
// test that asks for it.
func everyVerb(t *testing.T) []string {
	t.Helper()
	lines := []string{
		"checkout start --order-id ord-1 --item CHAIR-OAK=1 --payment-method tok_visa",
		"checkout start --order-id ord-1 --item CHAIR-OAK=1 --payment-method tok_visa --wait",
		"checkout status ord-1",
		"checkout status ord-1 --watch",
		"checkout list",
		"checkout history ord-1",
		"checkout history ord-1 --follow",
		"checkout wait ord-1",
		"checkout cancel ord-1 --reason r",
		"checkout cancel --attention --reason r --yes --rps 1000",
		"checkout approve ord-1 --reason r",
		"checkout reject ord-1 --reason r",
		"checkout resolve ord-1 --step release-stock --as retry --reason r",
		"checkout resolve --attention --step release-stock --as retry --reason r --yes --rps 1000",
		"checkout redrive ord-1 --reason r",
		"checkout redrive --attention --reason r --yes --rps 1000",
		"dead-letter list",
		"dead-letter show dl-1",
		"dead-letter replay dl-1 --reason r",
		"dead-letter replay --all --reason r --yes",
		"dead-letter archive dl-1 --reason r",
		"event list",
		"event republish --unpublished",
		"audit",
		"doctor",
		"doctor --replay",
	}
	root := newRoot(surroundings{out: printer{io.Discard}, err: printer{io.Discard}, getenv: func(string) string { return "" }})
	var missing []string
	var look func(cmd *cobra.Command)
	look = func(cmd *cobra.Command) {
		for _, below := range cmd.Commands() {
			look(below)
		}
		path := strings.TrimPrefix(cmd.CommandPath(), "orchestrator ")
		asksNobody := slices.Contains([]string{"serve", "dev", "version"}, path)
		if !cmd.HasSubCommands() && !asksNobody && !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line+" ", path+" ") }) {
			missing = append(missing, path)
		}
	}
	look(root)
	require.Empty(t, missing, "verbs that no line here tries")
	return lines
}
