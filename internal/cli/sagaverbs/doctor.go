package sagaverbs

import (
	"fmt"

	"github.com/spf13/cobra"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/gen/saga/v1/sagav1connect"
	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/redact"
)

type doctorView struct {
	Findings []findingView `json:"findings"`
	Settings []settingView `json:"settings"`
}

type findingView struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Mend   string `json:"mend"`
}

type settingView struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Doctor is the verb that asks what is wrong with a server. What it says of sagas is in the words of this kind. Looks is what is looked at.
func (k *Kind) Doctor(looks string) *cobra.Command {
	var replayed bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what the orchestrator needs, and say how to mend what is wrong",
		Long: looks + fmt.Sprintf(`

--replay asks another question, before a new build is deployed: run with the new build against the old one's server, it tells
whether the new code fits every open %[1]s. A %[1]s that it does not fit would be stopped and need attention.

Exit status 8 if something is wrong, or does not fit.`, k.One),
		Example: "  " + k.Program + " doctor\n  " + k.Program + " doctor --replay -o json",
		Args:    cli.Takes(),
	}
	cmd.Flags().BoolVar(&replayed, "replay", false, "instead of all other checks, run the histories of all open "+k.Many+" through this build's code")
	out := cli.AddOutput(cmd, k.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := out.Validate(); err != nil {
			return err
		}
		api, err := cli.Reach(cmd.Context(), k.Client, sagav1connect.NewSagaServiceClient)
		if err != nil {
			return err
		}
		if replayed {
			return k.replay(cmd.Context(), api, out)
		}
		address, source, err := k.Server()
		if err != nil {
			return err
		}
		answer, err := cli.Call(cmd.Context(), api.Doctor, &sagav1.DoctorRequest{})
		if err != nil {
			return err
		}
		view := doctorView{
			Findings: []findingView{},
			Settings: []settingView{{Name: cli.ServerVariable, Value: fmt.Sprintf("%s (%s)", redact.URL(address), source)}},
		}
		wrong := 0
		for _, f := range answer.Findings {
			view.Findings = append(view.Findings, findingView{Check: f.Check, OK: f.Ok, Detail: f.Detail, Mend: f.Mend})
			if !f.Ok {
				wrong++
			}
		}
		for _, s := range answer.Settings {
			view.Settings = append(view.Settings, settingView{Name: s.Name, Value: s.Value})
		}
		if err := out.Print(doctorResult(view)); err != nil {
			return err
		}
		if wrong > 0 {
			return cli.ExitWith(cli.ExitFindings, "%d of %d checks found something wrong", wrong, len(view.Findings))
		}
		return nil
	}
	return cmd
}

func doctorResult(view doctorView) cli.Result {
	var ids []string
	for _, f := range view.Findings {
		if !f.OK {
			ids = append(ids, f.Check)
		}
	}
	return cli.Result{Value: view, IDs: ids, Tables: func(bool) []cli.Table {
		findings := cli.Table{Headings: []string{"CHECK", "WHAT", "DETAIL", "HOW TO MEND IT"}}
		for _, f := range view.Findings {
			word := "ok"
			if !f.OK {
				word = "WRONG"
			}
			findings.Add(f.Check, word, f.Detail, cli.OrDash(f.Mend))
		}
		settings := cli.Table{Headings: []string{"SETTING", "VALUE"}}
		for _, s := range view.Settings {
			settings.Add(s.Name, cli.OrDash(s.Value))
		}
		return []cli.Table{findings, settings}
	}}
}
