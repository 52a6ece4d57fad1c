package sagaverbs

import (
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
)

type historyView struct {
	Saga       string          `json:"saga"`
	Key        string          `json:"key"`
	Entries    []EntryView     `json:"entries"`
	Operations []operationView `json:"operations"`
	// Standing is how the saga stands; what it was started with is in there.
	Standing any `json:"standing"`
}

type operationView struct {
	Participant string     `json:"participant"`
	Step        string     `json:"step"`
	Do          string     `json:"do"`
	Undo        string     `json:"undo"`
	Reference   string     `json:"reference"`
	Reason      string     `json:"reason"`
	CreatedAt   *time.Time `json:"created_at"`
	UpdatedAt   *time.Time `json:"updated_at"`
	// Unreachable says why the participant cannot be asked; empty where it was.
	Unreachable string `json:"unreachable"`
}

func newHistory(k kind, saga string) *cobra.Command {
	var following bool
	cmd := &cobra.Command{
		Use:   "history NAME KEY",
		Short: "Tell all that happened to a saga, and what each participant recorded of it",
		Long: `Tells all that happened to a saga, oldest first: each attempt with its duration, outcome and error, what operators did and why, and
each status; and what each participant recorded of it. With -o json also its input, and how it stands.`,
		Example:           "  " + saga + "history travel trip-17 -o wide\n  " + saga + "history travel trip-17 --follow -o json",
		Args:              cli.Takes(k.Args...),
		ValidArgsFunction: k.CompleteIDs(),
	}
	cmd.Flags().BoolVar(&following, "follow", false, "print entries as they come, until the saga is final; with -o json one entry a line")
	out := cli.AddOutput(cmd, k.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := out.Validate(); err != nil {
			return err
		}
		id, err := k.id(args)
		if err != nil {
			return err
		}
		service, err := k.service(cmd.Context())
		if err != nil {
			return err
		}
		if following {
			return FollowHistory(cmd.Context(), k.Kind, out, id, func() (*connect.ServerStreamForClient[sagav1.FollowHistoryResponse], error) {
				return service.FollowHistory(cmd.Context(), connect.NewRequest(&sagav1.FollowHistoryRequest{Definition: id.Definition, Key: id.Key}))
			}, func(m *sagav1.FollowHistoryResponse) (lines []Line) {
				for _, e := range m.Entries {
					view := viewEntry(e)
					lines = append(lines, Line{EntryView: view, Value: view})
				}
				return lines
			})
		}
		answer, err := cli.Call(cmd.Context(), service.History, &sagav1.HistoryRequest{Definition: id.Definition, Key: id.Key})
		if err != nil {
			return err
		}
		for _, o := range answer.Operations {
			if o.Unreachable != "" {
				k.Err.Say("%s cannot be asked: %s", o.Participant, o.Unreachable)
			}
		}
		return out.Print(k.historyResult(id, answer))
	}
	return cmd
}

func viewEntry(e *sagav1.Entry) EntryView {
	return EntryView{
		At: cli.ViewTime(e.At), Kind: e.Kind, Step: e.Step, Attempt: e.Attempt, Actor: e.Actor, Reason: e.Reason, DurationMS: e.DurationMs,
		Outcome: e.Outcome, Error: e.Error,
	}
}

func (k kind) historyResult(id ID, answer *sagav1.HistoryResponse) cli.Result {
	now := standing(answer.Saga)
	view := historyView{Saga: id.Definition, Key: id.Key, Entries: []EntryView{}, Operations: []operationView{}, Standing: now.View(nil)}
	for _, e := range answer.Entries {
		view.Entries = append(view.Entries, viewEntry(e))
	}
	for _, o := range answer.Operations {
		view.Operations = append(view.Operations, operationView{
			Participant: o.Participant, Step: o.Step, Do: o.Do, Undo: o.Undo, Reference: o.Reference, Reason: o.Reason,
			CreatedAt: cli.ViewTime(o.CreatedAt), UpdatedAt: cli.ViewTime(o.UpdatedAt), Unreachable: o.Unreachable,
		})
	}
	return cli.Result{Value: view, IDs: []string{id.Key}, Tables: func(wide bool) []cli.Table {
		entries := cli.Table{Headings: EntryHeadings()}
		for _, e := range view.Entries {
			entries.Add(e.Row(k.Surroundings)...)
		}
		operations := cli.Table{Headings: []string{"PARTICIPANT", "STEP", "DO", "UNDO", "REFERENCE", "WHY"}}
		if wide {
			operations.Headings = append(operations.Headings, "CREATED", "UPDATED")
		}
		for _, o := range view.Operations {
			why := cli.OrDash(o.Reason)
			if o.Unreachable != "" {
				why = "cannot be asked"
			}
			row := []string{o.Participant, o.Step, cli.OrDash(o.Do), cli.OrDash(o.Undo), cli.OrDash(o.Reference), why}
			if wide {
				row = append(row, k.Age(o.CreatedAt), k.Age(o.UpdatedAt))
			}
			operations.Add(row...)
		}
		tables := []cli.Table{entries, operations}
		if wide {
			tables = append(tables, k.Table([]*Standing{now}, wide))
		}
		return tables
	}}
}
