// Command orchestrator runs the orchestrator of checkouts (serve, dev) and is the command line of its API (all other
// verbs). It wires and translates; what a checkout is and does lies below internal/ and workflows/, and what every
// program of this engine has at the command line is in internal/cli.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/cli/participantverbs"
	"github.com/checkoutsaga/orchestrator/internal/cli/sagaverbs"
)

func main() { os.Exit(cli.Main(ourProgram())) }

func ourProgram() cli.Program {
	return cli.Program{
		Name:  "orchestrator",
		Short: "Runs checkouts as durable sagas, and shows and steers them",
		Long: `orchestrator serve is the process; orchestrator dev is everything in one process. participant check asks a
participant. All other verbs are clients of its API: --server, or ORCHESTRATOR_SERVER, or what .local/env says.`,
		HowToStart: "`make up` starts one here",
		Verbs:      verbs,
	}
}

func verbs(c *cli.Client) []*cobra.Command {
	return []*cobra.Command{
		newServe(c.Surroundings), newDev(c.Surroundings),
		newCheckout(c), sagaverbs.Sagas(c),
		cli.Group(&cobra.Command{Use: "dead-letter", Short: "See, replay and archive messages that a consumer could not take"},
			newDeadLetterList(c), newDeadLetterShow(c), newReplay(c), newArchive(c)),
		cli.Group(&cobra.Command{Use: "event", Short: "See events and who received them, and publish them again"},
			newEventList(c), newRepublish(c)),
		participantverbs.New(c.Surroundings), newAudit(c),
		checkouts(c).Doctor(`Asks the orchestrator to check its database, clock, engine, sidecar, participants and their outboxes, and whether dead
letters or checkouts wait for somebody; and shows the settings it was started with, passwords left out. Of the sidecar's
component files it names every setting that loses data, where ORCHESTRATOR_COMPONENTS names their folders.`),
	}
}
