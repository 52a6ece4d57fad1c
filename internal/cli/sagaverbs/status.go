package sagaverbs

import (
	"github.com/spf13/cobra"

	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// Status completes cmd as the verb that tells how a saga stands.
func (k *Kind) Status(cmd *cobra.Command) *cobra.Command {
	var watching bool
	cmd.Args, cmd.ValidArgsFunction = cli.Takes(k.Args...), k.CompleteIDs()
	cmd.Flags().BoolVar(&watching, "watch", false, "print it again after each change, until it is final; with -o json one object a line")
	out := cli.AddOutput(cmd, k.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := out.Validate(); err != nil {
			return err
		}
		id, err := k.id(args)
		if err != nil {
			return err
		}
		api, err := k.Reach(cmd.Context())
		if err != nil {
			return err
		}
		if !watching {
			found, err := api.Get(cmd.Context(), id)
			if err != nil {
				return err
			}
			return out.Print(k.result(found))
		}
		first := true
		return api.Watch(cmd.Context(), Watched{ID: id}, func(now *Standing) error {
			if !first && (out.Form == cli.AsTable || out.Form == cli.AsWide) {
				k.Out.Say("")
			}
			first = false
			return out.PrintOne(k.result(now))
		})
	}
	return cmd
}
