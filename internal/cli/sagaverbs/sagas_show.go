package sagaverbs

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
)

func newListDefinitions(k kind, saga string) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list-definitions",
		Short:   "List the sagas that the server can run, by name",
		Example: "  " + saga + "list-definitions -o wide",
		Args:    cli.Takes(),
	}
	out := cli.AddOutput(cmd, k.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := out.Validate(); err != nil {
			return err
		}
		definitions, err := k.definitions(cmd.Context())
		if err != nil {
			return err
		}
		views, names := make([]definitionView, len(definitions)), make([]string, len(definitions))
		for i, d := range definitions {
			views[i], names[i] = viewDefinition(d), d.Name
		}
		return out.Print(cli.Result{Value: views, IDs: names, Tables: func(wide bool) []cli.Table { return []cli.Table{definitionTable(views, wide)} }})
	}
	return cmd
}

func definitionTable(definitions []definitionView, wide bool) cli.Table {
	t := cli.Table{Headings: []string{"NAME", "VERSION", "DEADLINE", "STEPS"}}
	if wide {
		t.Headings = append(t.Headings, "IN ORDER")
	}
	for _, d := range definitions {
		deadline := "-"
		if d.Deadline != "" {
			deadline = cli.Span(d.deadline)
		}
		row := []string{d.Name, fmt.Sprint(d.Version), deadline, fmt.Sprint(len(d.Plan.Steps))}
		if wide {
			var names []string
			for _, s := range d.Plan.Steps {
				names = append(names, s.Name)
			}
			row = append(row, cli.OrDash(strings.Join(names, ", ")))
		}
		t.Add(row...)
	}
	return t
}

func newShow(k kind, saga string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show NAME [KEY]",
		Short: "Show the plan of a saga, and where one stands in it",
		Long: `Shows the plan of a definition, step by step: who does each, what undoes it, which one is the pivot, after which there is no way
back but its own refusal, and where a person decides. With KEY it is the plan that this saga was accepted with, whatever became of
its definition since, and how far it is.`,
		Example:           "  " + saga + "show travel\n  " + saga + "show travel trip-17",
		ValidArgsFunction: k.CompleteIDs(),
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return nil
		}
		return cli.Takes(k.Args...)(cmd, args)
	}
	out := cli.AddOutput(cmd, k.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch err := out.Validate(); {
		case err != nil:
			return err
		case args[0] == "":
			return cli.Usage("%s is empty", k.Args[0])
		case len(args) == 1:
			return k.showDefinition(cmd, out, args[0])
		}
		id, err := k.id(args)
		if err != nil {
			return err
		}
		return k.showSaga(cmd, out, id)
	}
	return cmd
}

func (k kind) showDefinition(cmd *cobra.Command, out *cli.Output, name string) error {
	definitions, err := k.definitions(cmd.Context())
	if err != nil {
		return err
	}
	var names []string
	for _, d := range definitions {
		if d.Name != name {
			names = append(names, d.Name)
			continue
		}
		view := viewDefinition(d)
		return out.Print(cli.Result{Value: view, IDs: []string{view.Name}, Tables: func(wide bool) []cli.Table {
			return []cli.Table{definitionTable([]definitionView{view}, false), planTable(view.Plan)}
		}})
	}
	return cli.ExitWith(cli.ExitNotFound, "there is no definition %q; there are: %s", name, cmp.Or(strings.Join(names, ", "), "none"))
}

type shownView struct {
	Saga string `json:"saga"`
	Key  string `json:"key"`
	// Plan is that with which it was accepted.
	Plan     planView `json:"plan"`
	Standing any      `json:"standing"`
}

func (k kind) showSaga(cmd *cobra.Command, out *cli.Output, id ID) error {
	service, err := k.service(cmd.Context())
	if err != nil {
		return err
	}
	answer, err := cli.Call(cmd.Context(), service.Get, &sagav1.GetRequest{Definition: id.Definition, Key: id.Key})
	if err != nil {
		return err
	}
	now, plan := standing(answer.Saga), viewPlan(answer.Plan)
	view := shownView{Saga: now.ID.Definition, Key: now.ID.Key, Plan: plan, Standing: now.View(nil)}
	return out.Print(cli.Result{Value: view, IDs: []string{view.Key}, Tables: func(wide bool) []cli.Table {
		return []cli.Table{k.Table([]*Standing{now}, wide), k.attentionTable(now, wide), k.approvalTable(now), progressTable(plan, now)}
	}})
}

// planTable is a plan with its steps numbered.
func planTable(p planView) cli.Table {
	t := cli.Table{Headings: []string{"#", "STEP", "PARTICIPANT", "COMPENSATION", "MARK"}}
	for _, s := range p.Steps {
		t.Add(fmt.Sprint(s.Number), s.Name, s.Participant, cli.OrDash(s.Compensation), s.mark())
	}
	return t
}

// progressTable is planTable with how far a saga is in it.
func progressTable(p planView, now *Standing) cli.Table {
	states := make(map[string]StepView)
	for _, s := range now.Steps {
		states[s.Name] = s
	}
	t := planTable(p)
	t.Headings = append(t.Headings, "STATE", "UNDOING", "ERROR")
	for i, s := range p.Steps {
		at := states[s.Name]
		t.Rows[i] = append(t.Rows[i], cli.OrDash(at.State), cli.OrDash(at.Compensation), cli.OrDash(at.Error))
	}
	return t
}
