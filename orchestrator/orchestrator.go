// Package orchestrator makes a whole program of sagas: the process that drives them (serve, dev) and the command line that starts, shows
// and steers them. A program is its sagas and a call of Main:
//
//	func main() { orchestrator.Main(orchestrator.Config{Sagas: []saga.Declaration{trip}}) }
//
// `serve` calls the participants that the sagas name over the contract of package participant: at the address in the environment
// variable <PARTICIPANT>_URL or, run by `dapr run`, through the sidecar, where a participant's name is its app id. `dev` has everything in
// one process, with a PostgreSQL of its own.
package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/cli/participantverbs"
	"github.com/checkoutsaga/orchestrator/internal/cli/sagaverbs"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// Config is a program of sagas.
type Config struct {
	// Sagas are those that it drives and accepts; at least one.
	Sagas []saga.Declaration
	// Participants are those that run in this process, by name. The others are called.
	Participants map[string]participant.Participant
	// Dev makes the participants that run in the process of dev beside those, given the address of a PostgreSQL database that is theirs
	// alone. Close is called when nothing is in hand any more. Nil: dev calls the others as serve does.
	Dev func(ctx context.Context, databaseURL string) (participants map[string]participant.Participant, close func(), err error)
}

// definitions are those of all sagas. The error tells all that is wrong with them.
func (c Config) definitions() ([]*saga.Definition, error) {
	var wrong []error
	var all []*saga.Definition
	if len(c.Sagas) == 0 {
		wrong = append(wrong, errors.New("Sagas: there is none"))
	}
	seen := make(map[string]bool)
	for i, declared := range c.Sagas {
		d, err := declared.Define()
		if err != nil {
			wrong = append(wrong, fmt.Errorf("Sagas[%d]: %w", i, err))
			continue
		}
		if seen[d.Name()] {
			wrong = append(wrong, fmt.Errorf("Sagas[%d]: there is another saga %q", i, d.Name()))
		}
		seen[d.Name()] = true
		all = append(all, d)
	}
	return all, errors.Join(wrong...)
}

// Main runs the program as a process and ends it.
func Main(c Config) { os.Exit(cli.Main(program(filepath.Base(os.Args[0]), c))) }

func program(name string, c Config) cli.Program {
	return cli.Program{
		Name: name, Short: "Runs sagas, and shows and steers them",
		Long: fmt.Sprintf(`%[1]s serve is the process; %[1]s dev is everything in one process, with a database of its own. All other verbs are
clients of its API: --server, or ORCHESTRATOR_SERVER, or what .local/env says.`, name),
		HowToStart: fmt.Sprintf("`%s dev` starts one here", name),
		Verbs: func(client *cli.Client) []*cobra.Command {
			return []*cobra.Command{
				newServe(client.Surroundings, name, c), newDev(client.Surroundings, name, c),
				sagaverbs.Sagas(client), participantverbs.New(client.Surroundings), sagaverbs.Doctor(client),
			}
		},
	}
}
