package main

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/cli"
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
		"saga list-definitions",
		"saga show travel",
		"saga show travel trip-1",
		"saga start travel trip-1",
		"saga start travel trip-1 --wait",
		"saga status travel trip-1",
		"saga status travel trip-1 --watch",
		"saga list",
		"saga history travel trip-1",
		"saga wait travel trip-1",
		"saga cancel travel trip-1 --reason r",
		"saga cancel --attention --reason r --yes --rps 1000",
		"saga approve travel trip-1 --reason r",
		"saga reject travel trip-1 --reason r",
		"saga resolve travel trip-1 --step book --as retry --reason r",
		"saga resolve travel --attention --step book --as retry --reason r --yes --rps 1000",
		"saga redrive travel trip-1 --reason r",
		"saga redrive --attention --reason r --yes --rps 1000",
		"saga audit",
		"saga audit travel trip-1",
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
	root := ourProgram().Command(cli.Surroundings{Out: cli.Printer{To: io.Discard}, Err: cli.Printer{To: io.Discard}, Getenv: func(string) string { return "" }})
	var missing []string
	var look func(cmd *cobra.Command)
	look = func(cmd *cobra.Command) {
		for _, below := range cmd.Commands() {
			look(below)
		}
		path := strings.TrimPrefix(cmd.CommandPath(), "orchestrator ")
		asksNobody := slices.Contains([]string{"serve", "dev", "version", "participant check"}, path)
		if !cmd.HasSubCommands() && !asksNobody && !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line+" ", path+" ") }) {
			missing = append(missing, path)
		}
	}
	look(root)
	require.Empty(t, missing, "verbs that no line here tries")
	return lines
}
