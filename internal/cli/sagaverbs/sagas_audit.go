package sagaverbs

import (
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
)

type auditView struct {
	Checked    int64           `json:"checked"`
	Violations []violationView `json:"violations"`
}

type violationView struct {
	Saga      string `json:"saga"`
	Key       string `json:"key"`
	Invariant string `json:"invariant"`
	What      string `json:"what"`
}

func newAudit(k kind, saga string) *cobra.Command {
	var since string
	cmd := &cobra.Command{
		Use:   "audit [NAME [KEY]]",
		Short: "Compare ended sagas with what their participants have on record",
		Long: `Compares every ended saga, by its own plan, with what its participants have on record: of a confirmed one every step must be in place,
of any other none. What differs is looked at twice. Exit status 8 if something is wrong.`,
		Example: "  " + saga + "audit --since 1h\n  " + saga + "audit travel trip-17 -o json",
		Args:    cobra.MaximumNArgs(2),
	}
	cmd.Flags().StringVar(&since, "since", "", "only what ended since: RFC 3339, a date, or a duration such as 1h")
	out := cli.AddOutput(cmd, k.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := &sagav1.AuditRequest{}
		if len(args) > 0 {
			request.Definition = args[0]
		}
		if len(args) > 1 {
			request.Key = args[1]
		}
		var err error
		if request.Since, err = k.ParseSince(since); err != nil {
			return err
		}
		if err := out.Validate(); err != nil {
			return err
		}
		api, err := k.service(cmd.Context())
		if err != nil {
			return err
		}
		stream, err := api.Audit(cmd.Context(), connect.NewRequest(request))
		if err != nil {
			return err
		}
		view := auditView{Violations: []violationView{}}
		var ids []string
		for stream.Receive() {
			view.Checked = stream.Msg().Checked
			for _, v := range stream.Msg().Violations {
				view.Violations = append(view.Violations, violationView{Saga: v.Definition, Key: v.Key, Invariant: v.Invariant, What: v.What})
				ids = append(ids, v.Definition+" "+v.Key)
			}
		}
		if err := errors.Join(stream.Err(), stream.Close()); err != nil {
			return err
		}
		if err := out.Print(cli.Result{Value: view, IDs: ids, Tables: func(bool) []cli.Table { return auditTables(view) }}); err != nil {
			return err
		}
		if len(view.Violations) > 0 {
			return cli.ExitWith(cli.ExitFindings, "the audit found %d violations in %d sagas", len(view.Violations), view.Checked)
		}
		return nil
	}
	return cmd
}

func auditTables(view auditView) []cli.Table {
	summary := cli.Table{Headings: []string{"CHECKED", "VIOLATIONS"}}
	summary.Add(fmt.Sprint(view.Checked), fmt.Sprint(len(view.Violations)))
	violations := cli.Table{Headings: []string{"SAGA", "KEY", "INVARIANT", "WHAT"}}
	for _, v := range view.Violations {
		violations.Add(v.Saga, v.Key, v.Invariant, v.What)
	}
	return []cli.Table{summary, violations}
}
