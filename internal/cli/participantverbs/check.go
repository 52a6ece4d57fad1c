// Package participantverbs has the verbs about participants, which ask no orchestrator.
package participantverbs

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/participanttest"
)

// checkAtOnce is how many connections to a participant are kept while it is checked: as many as the kit has calls at once.
const checkAtOnce = 64

// participantCheck is what `participant check` was asked for.
type participantCheck struct {
	samples               participanttest.Samples
	input, other, refused string
	patience              time.Duration
}

// New is the command `participant`.
func New(s cli.Surroundings) *cobra.Command {
	return cli.Group(&cobra.Command{Use: "participant", Short: "Prove a participant of a saga"}, newCheck(s))
}

func newCheck(s cli.Surroundings) *cobra.Command {
	var c participantCheck
	cmd := &cobra.Command{
		Use:   "check URL --step NAME",
		Short: "Prove that a participant keeps its promises, in any language",
		Long: `Asks the participant that serves saga.participant.v1 at URL for one step, a few hundred times: again, at once, undone before it
arrives, with other content, with callers that hang up. It tells of each rule whether it is kept. What the participant does
stays: check one that does no harm, such as one with a database of its own. It takes about half a minute.

--input is what the step is done with, as often as it is asked for. --other is another input by which it would be done, and
--refused one by which it is refused. Without these two the rules about them are not checked. What the participant says of
itself (Get) is all that this command sees of the effect; it says what that does not prove. A participant in Go proves the rest
in a test of its own, by package participanttest.

Exit status 8 if a rule is broken.`,
		Example: `  orchestrator participant check http://127.0.0.1:8090 --step book-flight --input flight.json --other other.json
  orchestrator participant check http://127.0.0.1:8090 --step book-flight --definition book-trip --input flight.json -o json`,
		Args: cli.Takes("URL"),
	}
	flags := cmd.Flags()
	flags.StringVar(&c.samples.Step, "step", "", "name of the step (required)")
	flags.StringVar(&c.samples.Definition, "definition", "kit", "name of the definition that the check's sagas have")
	flags.StringVar(&c.input, "input", "", "file with the JSON input by which the step is done; without one there is no input")
	flags.StringVar(&c.other, "other", "", "file with another input by which the step would be done")
	flags.StringVar(&c.refused, "refused", "", "file with an input by which the step is refused")
	flags.BoolVar(&c.samples.NothingUndoes, "nothing-undoes", false, "the step has no undo, such as one behind the pivot")
	flags.DurationVar(&c.patience, "patience", 30*time.Second, "how long the participant may take to answer for good")
	out := cli.AddOutput(cmd, s)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := out.Validate(); err != nil {
			return err
		}
		if err := c.read(args[0]); err != nil {
			return err
		}
		report, err := c.run(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if err := out.Print(checkResult(report)); err != nil {
			return err
		}
		if !out.Structured() {
			for _, what := range report.NotProven {
				s.Err.Say("not proven: %s", what)
			}
		}
		if broken := report.Count(participanttest.Failed); broken > 0 {
			return cli.ExitWith(cli.ExitFindings, "the participant breaks %d of the rules", broken)
		}
		return nil
	}
	return cmd
}

// read reads the samples, and refuses what is none before anybody is asked.
func (c *participantCheck) read(address string) error {
	if at, err := url.Parse(address); err != nil || at.Host == "" || at.Scheme != "http" && at.Scheme != "https" {
		return cli.Usage("%q is no address such as http://127.0.0.1:8090", address)
	}
	if c.patience <= 0 {
		return cli.Usage("--patience must be more than 0")
	}
	if c.samples.Step == "" {
		return cli.Usage("--step is missing")
	}
	for _, sample := range []struct {
		flag, file string
		to         *json.RawMessage
	}{{"input", c.input, &c.samples.Done}, {"other", c.other, &c.samples.Other}, {"refused", c.refused, &c.samples.Refused}} {
		if sample.file != "" {
			text, err := os.ReadFile(sample.file)
			if err != nil {
				return cli.Usage("--%s: %w", sample.flag, err)
			}
			*sample.to = text
		}
		r := participant.Request{Definition: c.samples.Definition, Key: "a", Step: c.samples.Step, Input: *sample.to}
		if err := r.Check(); err != nil {
			return cli.Usage("--%s: %w", sample.flag, err)
		}
	}
	return nil
}

func (c *participantCheck) run(ctx context.Context, address string) (participanttest.Report, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = checkAtOnce
	defer transport.CloseIdleConnections()
	p := participant.Client(&http.Client{Transport: transport, Timeout: c.patience}, address)
	// Once before all: a participant that is not there, or is none, would else fail each rule after all of its patience.
	asked := participant.ID{Definition: c.samples.Definition, Key: "kit-is-it-there", Step: c.samples.Step}
	if _, err := p.Get(ctx, asked); err != nil {
		return participanttest.Report{}, fmt.Errorf("ask the participant at %s: %w", address, err)
	}
	adapter := participanttest.Of(p, c.samples)
	adapter.Patience = c.patience
	report, err := participanttest.Check(ctx, adapter)
	if ctx.Err() != nil { // What was broken off proves nothing.
		return participanttest.Report{}, context.Cause(ctx)
	}
	return report, err
}

func checkResult(report participanttest.Report) cli.Result {
	var broken []string
	for _, f := range report.Findings {
		if f.Result == participanttest.Failed {
			broken = append(broken, f.Tried)
		}
	}
	return cli.Result{Value: report, IDs: broken, Tables: func(wide bool) []cli.Table {
		summary := cli.Table{Headings: []string{"STEP", "PASSED", "FAILED", "NOT CHECKED"}}
		summary.Add(report.Step, fmt.Sprint(report.Count(participanttest.Passed)), fmt.Sprint(report.Count(participanttest.Failed)),
			fmt.Sprint(report.Count(participanttest.NotChecked)))
		rules := cli.Table{Headings: []string{"RESULT", "RULE", "TRIED", "EVIDENCE"}}
		for _, f := range report.Findings {
			evidence := f.Evidence
			if !wide && f.Result == participanttest.Failed {
				evidence = evidence[:1] // One saga tells what is wrong.
			}
			rules.Add(string(f.Result), f.Rule, f.Tried, cli.OrDash(strings.Join(evidence, "; ")))
		}
		return []cli.Table{summary, rules}
	}}
}
