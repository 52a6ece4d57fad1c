package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	deadletterv1 "github.com/checkoutsaga/orchestrator/gen/deadletter/v1"
	"github.com/checkoutsaga/orchestrator/gen/deadletter/v1/deadletterv1connect"
	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
)

type deadLetterView struct {
	ID            string     `json:"id"`
	State         string     `json:"state"`
	Topic         string     `json:"topic"`
	Consumers     []string   `json:"consumers"`
	EventID       string     `json:"event_id"`
	OrderID       string     `json:"order_id"`
	Attempts      int32      `json:"attempts"`
	Cause         string     `json:"cause"`
	ArrivedAt     *time.Time `json:"arrived_at"`
	LastArrivedAt *time.Time `json:"last_arrived_at"`
	Arrivals      int32      `json:"arrivals"`
	Replays       int32      `json:"replays"`
	SettledAt     *time.Time `json:"settled_at"`
	Actor         string     `json:"actor"`
	Reason        string     `json:"reason"`
	SizeBytes     int64      `json:"size_bytes"`
}

type shownLetterView struct {
	deadLetterView
	// Message is the message where it is JSON or text, and null otherwise; MessageBase64 is it byte for byte.
	Message       json.RawMessage `json:"message"`
	MessageBase64 []byte          `json:"message_base64"`
	Acts          []actView       `json:"acts"`
}

type actView struct {
	At     *time.Time `json:"at"`
	What   string     `json:"what"`
	Actor  string     `json:"actor"`
	Reason string     `json:"reason"`
}

// settledView is what became of the letters that were replayed or archived.
type settledView struct {
	DryRun bool `json:"dry_run"`
	// One of them is named after the verb; the other is left out.
	Replayed *[]string     `json:"replayed,omitempty"`
	Archived *[]string     `json:"archived,omitempty"`
	Refused  []refusalView `json:"refused"`
}

type refusalView struct {
	ID  string `json:"id"`
	Why string `json:"why"`
}

// letterSelection are the flags by which dead letters are chosen.
type letterSelection struct{ topic, consumer, state string }

func (l *letterSelection) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&l.topic, "topic", "", "only from this topic")
	flags.StringVar(&l.consumer, "consumer", "", "only those that this app failed at")
	flags.StringVar(&l.state, "state", "", "open, replayed, archived or all (default: open)")
	cli.CompleteFlag(cmd, "topic", topicNames(event.Consumed()))
	cli.CompleteFlag(cmd, "consumer", consumerNames())
	cli.CompleteFlag(cmd, "state", letterStates)
}

var letterStates = []string{"open", "replayed", "archived", "all"}

func consumerNames() []string {
	var names []string
	for _, t := range event.Consumed() {
		for _, c := range t.Consumers {
			names = append(names, c.App)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (l *letterSelection) selection() (*deadletterv1.Selection, error) {
	for flag, c := range map[string]struct {
		value string
		of    []string
	}{
		"topic": {l.topic, topicNames(event.Consumed())}, "consumer": {l.consumer, consumerNames()}, "state": {l.state, letterStates},
	} {
		if c.value != "" && !slices.Contains(c.of, c.value) {
			return nil, cli.Usage("--%s %q is none of %s", flag, c.value, strings.Join(c.of, ", "))
		}
	}
	return &deadletterv1.Selection{Topic: l.topic, Consumer: l.consumer, State: l.state}, nil
}

func newDeadLetterList(c *cli.Client) *cobra.Command {
	var selected letterSelection
	var limit int32
	var pageToken string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List messages that a consumer could not take, oldest first",
		Long: `Lists the open dead letters, oldest first: from which topic, whose handler failed, how often it was tried, and why, in its
own words. "show" prints the message. Once the cause is mended, "replay" publishes it again.`,
		Args: cli.Takes(),
	}
	selected.addTo(cmd)
	cmd.Flags().Int32Var(&limit, "limit", 100, "how many at most, 1 to 1000")
	cmd.Flags().StringVar(&pageToken, "page-token", "", "go on where the last page ended")
	out := cli.AddOutput(cmd, c.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := out.Validate(); err != nil {
			return err
		}
		if limit < 1 {
			return cli.Usage("--limit must be 1 to 1000")
		}
		selection, err := selected.selection()
		if err != nil {
			return err
		}
		api, err := deadLetterService(cmd.Context(), c)
		if err != nil {
			return err
		}
		answer, err := cli.Call(cmd.Context(), api.List, &deadletterv1.ListRequest{Selection: selection, PageSize: limit, PageToken: pageToken})
		if err != nil {
			return err
		}
		if answer.NextPageToken != "" {
			c.Err.Say("there are more: --page-token %s", answer.NextPageToken)
		}
		return out.Print(lettersResult(c.Surroundings, answer.DeadLetters))
	}
	return cmd
}

// maxCause is where a cause is cut in a table that is not wide, in characters.
const maxCause = 100

func lettersResult(s cli.Surroundings, letters []*deadletterv1.DeadLetter) cli.Result {
	views, ids := make([]deadLetterView, len(letters)), make([]string, len(letters))
	for i, l := range letters {
		views[i], ids[i] = viewDeadLetter(l), l.Id
	}
	return cli.Result{Value: views, IDs: ids, Tables: func(wide bool) []cli.Table {
		t := cli.Table{Headings: []string{"ID", "STATE", "AGE", "TOPIC", "FAILED AT", "ORDER ID", "TRIES", "CAUSE"}}
		if wide {
			t.Headings = append(t.Headings, "EVENT ID", "ARRIVALS", "REPLAYS", "BY", "REASON", "BYTES")
		}
		for _, v := range views {
			cause := v.Cause
			if runes := []rune(cause); !wide && len(runes) > maxCause {
				cause = string(runes[:maxCause]) + "…"
			}
			row := []string{v.ID, v.State, s.Age(v.LastArrivedAt), v.Topic, cli.OrDash(strings.Join(v.Consumers, ", ")), cli.OrDash(v.OrderID),
				fmt.Sprint(v.Attempts), cause}
			if wide {
				row = append(row, cli.OrDash(v.EventID), fmt.Sprint(v.Arrivals), fmt.Sprint(v.Replays), cli.OrDash(v.Actor), cli.OrDash(v.Reason), fmt.Sprint(v.SizeBytes))
			}
			t.Add(row...)
		}
		return []cli.Table{t}
	}}
}

func viewDeadLetter(l *deadletterv1.DeadLetter) deadLetterView {
	return deadLetterView{
		ID: l.GetId(), State: l.GetState(), Topic: l.GetTopic(), Consumers: append([]string{}, l.GetConsumers()...), EventID: l.GetEventId(),
		OrderID: l.GetOrderId(), Attempts: l.GetAttempts(), Cause: l.GetCause(), ArrivedAt: cli.ViewTime(l.GetArrivedAt()),
		LastArrivedAt: cli.ViewTime(l.GetLastArrivedAt()), Arrivals: l.GetArrivals(), Replays: l.GetReplays(), SettledAt: cli.ViewTime(l.GetSettledAt()),
		Actor: l.GetActor(), Reason: l.GetReason(), SizeBytes: l.GetSizeBytes(),
	}
}

func newDeadLetterShow(c *cli.Client) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "show ID",
		Short:             "Show a dead letter: its message, its cause, and what was done with it",
		Args:              cli.Takes("ID"),
		ValidArgsFunction: completeLetters(c),
	}
	out := cli.AddOutput(cmd, c.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := out.Validate(); err != nil {
			return err
		}
		api, err := deadLetterService(cmd.Context(), c)
		if err != nil {
			return err
		}
		answer, err := cli.Call(cmd.Context(), api.Get, &deadletterv1.GetRequest{Id: args[0]})
		if err != nil {
			return err
		}
		if err := out.Print(shownResult(c.Surroundings, answer)); err != nil {
			return err
		}
		if out.Structured() || out.Form == cli.AsIDs {
			return nil
		}
		return c.Out.Text("\n" + messageText(answer.Message))
	}
	return cmd
}

func shownResult(s cli.Surroundings, answer *deadletterv1.GetResponse) cli.Result {
	view := shownLetterView{
		deadLetterView: viewDeadLetter(answer.DeadLetter), Message: messageJSON(answer.Message),
		MessageBase64: append([]byte{}, answer.Message...), Acts: []actView{},
	}
	for _, a := range answer.Acts {
		view.Acts = append(view.Acts, actView{At: cli.ViewTime(a.At), What: a.What, Actor: a.Actor, Reason: a.Reason})
	}
	return cli.Result{Value: view, IDs: []string{view.ID}, Tables: func(bool) []cli.Table {
		letter := cli.Table{Headings: []string{"DEAD LETTER", view.ID}}
		letter.Add("state", view.State)
		letter.Add("topic", view.Topic)
		letter.Add("failed at", cli.OrDash(strings.Join(view.Consumers, ", ")))
		letter.Add("tries", fmt.Sprint(view.Attempts))
		letter.Add("cause", view.Cause)
		letter.Add("order id", cli.OrDash(view.OrderID))
		letter.Add("event id", cli.OrDash(view.EventID))
		letter.Add("arrived", fmt.Sprintf("%s ago, %d times, the last %s ago", s.Age(view.ArrivedAt), view.Arrivals, s.Age(view.LastArrivedAt)))
		letter.Add("size", fmt.Sprintf("%d bytes", view.SizeBytes))
		acts := cli.Table{Headings: []string{"AGE", "WHAT", "BY", "REASON"}}
		for _, a := range view.Acts {
			acts.Add(s.Age(a.At), a.What, a.Actor, a.Reason)
		}
		return []cli.Table{letter, acts}
	}}
}

func messageJSON(message []byte) json.RawMessage {
	switch {
	case json.Valid(message):
		return message
	case utf8.Valid(message):
		text, err := json.Marshal(string(message))
		if err == nil {
			return text
		}
	}
	return json.RawMessage("null")
}

// maxShown is how much of a message that is no JSON is shown, in bytes.
const maxShown = 4 << 10

// messageText is a message as people can read it and no terminal is steered by it.
func messageText(message []byte) string {
	var pretty bytes.Buffer
	if json.Indent(&pretty, message, "", "  ") == nil {
		lines := strings.Split(pretty.String(), "\n")
		for i := range lines {
			lines[i] = cli.Visible(lines[i])
		}
		return strings.Join(lines, "\n") + "\n"
	}
	shown, rest := message, ""
	if len(message) > maxShown {
		shown, rest = message[:maxShown], fmt.Sprintf("and %d bytes more; -o json has all\n", len(message)-maxShown)
	}
	if utf8.Valid(message) {
		return strconv.Quote(strings.ToValidUTF8(string(shown), "")) + "\n" + rest
	}
	return hex.Dump(shown) + rest
}

// verb is what can be done with dead letters.
type verb struct {
	name, done, short, long string
	// do does it with a selection of at most settleBatch, and returns which it was done with.
	do func(ctx context.Context, api deadletterv1connect.DeadLetterServiceClient, s *deadletterv1.Selection, by by) ([]string, []*deadletterv1.Refusal, error)
}

// by is who does something, and why.
type by struct {
	actor, reason string
	dryRun        bool
}

func newReplay(c *cli.Client) *cobra.Command {
	return newSettle(c, verb{
		name: "replay", done: "replayed", short: "Publish dead letters again, as they were",
		long: `Publishes messages again, byte for byte, on the topics that they came from, oldest first: the consumer that failed gets
another try, the others know them and take no notice, and so does it where it was replayed before. What fails again is open
again. One that is older than what inboxes remember (60 days) is refused. Which: ids, or --topic, --consumer, --state of the
open ones, or --all.`,
		do: func(ctx context.Context, api deadletterv1connect.DeadLetterServiceClient, s *deadletterv1.Selection, by by) ([]string, []*deadletterv1.Refusal, error) {
			answer, err := cli.Call(ctx, api.Replay, &deadletterv1.ReplayRequest{Selection: s, Reason: by.reason, Actor: by.actor, DryRun: by.dryRun})
			return answer.GetReplayed(), answer.GetRefused(), err
		},
	})
}

func newArchive(c *cli.Client) *cobra.Command {
	return newSettle(c, verb{
		name: "archive", done: "archived", short: "Put dead letters away: kept for 90 days, and no longer open",
		long: `Puts messages away that nobody will mend, or that are to be looked at by hand: they are kept for 90 days, can be shown and
replayed, and are no longer open. Which: ids, or --topic, --consumer, --state of the open ones, or --all.`,
		do: func(ctx context.Context, api deadletterv1connect.DeadLetterServiceClient, s *deadletterv1.Selection, by by) ([]string, []*deadletterv1.Refusal, error) {
			answer, err := cli.Call(ctx, api.Archive, &deadletterv1.ArchiveRequest{Selection: s, Reason: by.reason, Actor: by.actor, DryRun: by.dryRun})
			return answer.GetArchived(), answer.GetRefused(), err
		},
	})
}

const (
	// settleBatch is how many letters one call is about: few enough that it ends in time also where each is delivered within it.
	settleBatch = 100
	// settleRPS is how many a second where nothing is said.
	settleRPS = 100
)

func newSettle(c *cli.Client, v verb) *cobra.Command {
	var selected letterSelection
	var all bool
	var act by
	var p cli.Pace
	cmd := &cobra.Command{
		Use: v.name + " [ID...] --reason TEXT", Short: v.short,
		Long: v.long + ` Exit status 4 if some were refused; 3 if there are none of those that were named.

Where they are not named it is told how many there are, and on a terminal asked whether to go on; --yes does not ask. Without a
terminal it goes on.`,
		Example: fmt.Sprintf("  orchestrator dead-letter %[1]s dl-17 --reason \"the article exists now\"\n"+
			"  orchestrator dead-letter %[1]s --consumer orders --reason \"orders is mended\" --yes --rps 20", v.name),
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeLetters(c),
	}
	selected.addTo(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all that are open")
	cmd.Flags().StringVar(&act.reason, "reason", "", "why; kept with the dead letter (required)")
	cmd.Flags().BoolVar(&act.dryRun, "dry-run", false, "only tell which")
	p.AddTo(cmd, settleRPS)
	out := cli.AddOutput(cmd, c.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		if err := out.Validate(); err != nil {
			return err
		}
		selection, err := selected.selection()
		if err != nil {
			return err
		}
		byFlags := selected != letterSelection{}
		switch {
		case act.reason == "":
			return cli.Usage("--reason is missing: say why, it is kept")
		case len(ids) == 0 && !byFlags && !all:
			return cli.Usage("say which dead letters: ids, --topic, --consumer, --state, or --all")
		case len(ids) > 0 && (all || byFlags), all && byFlags:
			return cli.Usage("ids, flags that select, and --all are three ways to say which: take one")
		}
		if err := p.Validate(); err != nil {
			return err
		}
		act.actor = c.Actor()
		api, err := deadLetterService(cmd.Context(), c)
		if err != nil {
			return err
		}
		named := len(ids) > 0
		if !named {
			if ids, err = idsOf(cmd.Context(), api, selection); err != nil {
				return err
			}
			// One that somebody else settles meanwhile is left alone.
			if selection.State == "" {
				selection.State = "open"
			}
			if err := confirmLetters(cmd.Context(), c, v, len(ids), act, p); err != nil {
				return err
			}
		}
		view, err := settle(cmd.Context(), c, v, api, selection, ids, act, p)
		if printErr := out.Print(settledResult(v, view)); err == nil {
			err = printErr
		}
		if err != nil {
			return err
		}
		return refusals(v, view, named)
	}
	return cmd
}

// idsOf pages through a selection.
func idsOf(ctx context.Context, api deadletterv1connect.DeadLetterServiceClient, s *deadletterv1.Selection) (ids []string, err error) {
	req := &deadletterv1.ListRequest{Selection: s, PageSize: 1000}
	for {
		answer, err := cli.Call(ctx, api.List, req)
		if err != nil {
			return nil, err
		}
		for _, l := range answer.DeadLetters {
			ids = append(ids, l.Id)
		}
		if req.PageToken = answer.NextPageToken; req.PageToken == "" {
			return ids, nil
		}
	}
}

// confirmLetters asks before a verb goes through a selection. Without a terminal it goes on, as it always has: scripts rely on it, a
// replay that was not needed changes nothing, and what is archived can be replayed.
func confirmLetters(ctx context.Context, c *cli.Client, v verb, letters int, act by, p cli.Pace) error {
	if letters == 0 || act.dryRun || p.Yes || !c.Terminal {
		return nil
	}
	noun := "dead letters"
	if letters == 1 {
		noun = "dead letter"
	}
	c.Err.Say("%s %d %s, because: %s", v.name, letters, noun, act.reason)
	return c.Confirm(ctx)
}

// settle does it batch by batch, at most rps a second. What was done is told also beside an error.
func settle(ctx context.Context, c *cli.Client, v verb, api deadletterv1connect.DeadLetterServiceClient, s *deadletterv1.Selection, ids []string, act by, p cli.Pace) (settledView, error) {
	done, told := []string{}, 0
	view := settledView{DryRun: act.dryRun, Refused: []refusalView{}}
	if v.name == "replay" {
		view.Replayed = &done
	} else {
		view.Archived = &done
	}
	size := min(settleBatch, p.RPS)
	next := p.Ticker(size)
	defer next.Stop()
	for batch := range slices.Chunk(ids, size) {
		if told > 0 {
			select {
			case <-next.C:
			case <-ctx.Done():
				return view, cli.CutShort(ctx, "interrupted after %d of %d", told, len(ids))
			}
		}
		// An interrupt waits for this batch: one that is broken off may have been settled or not.
		ok, refused, err := v.do(context.WithoutCancel(ctx), api, &deadletterv1.Selection{Ids: batch, Topic: s.Topic, Consumer: s.Consumer, State: s.State}, act)
		if err != nil {
			if told > 0 {
				c.Err.Say("stopped after %d of %d", told, len(ids))
			}
			return view, err
		}
		done = append(done, ok...)
		for _, r := range refused {
			view.Refused = append(view.Refused, refusalView{ID: r.Id, Why: r.Why})
		}
		if told += len(batch); len(ids) > size {
			c.Err.Say("%d of %d", told, len(ids))
		}
	}
	return view, nil
}

// done are the letters that it was done with.
func (v settledView) done() []string {
	if v.Replayed != nil {
		return *v.Replayed
	}
	return *v.Archived
}

func settledResult(v verb, view settledView) cli.Result {
	return cli.Result{Value: view, IDs: view.done(), Tables: func(bool) []cli.Table {
		t := cli.Table{Headings: []string{"ID", "WHAT", "WHY NOT"}}
		what := v.done
		if view.DryRun {
			what = "would be " + v.done
		}
		for _, id := range view.done() {
			t.Add(id, what, "-")
		}
		for _, r := range view.Refused {
			t.Add(r.ID, "refused", r.Why)
		}
		return []cli.Table{t}
	}}
}

// refusals decides the exit status.
func refusals(v verb, view settledView, named bool) error {
	all := len(view.Refused) + len(view.done())
	switch {
	case len(view.Refused) == 0:
		return nil
	case named && !slices.ContainsFunc(view.Refused, func(r refusalView) bool { return !strings.HasPrefix(r.Why, "no such dead letter") }) &&
		len(view.done()) == 0:
		return cli.ExitWith(cli.ExitNotFound, "there is no such dead letter")
	}
	return cli.ExitWith(cli.ExitConflict, "%d of %d were refused, the others %s", len(view.Refused), all, v.done)
}

// deadLetterService is the API of dead letters at the server.
func deadLetterService(ctx context.Context, c *cli.Client) (deadletterv1connect.DeadLetterServiceClient, error) {
	return cli.Reach(ctx, c, deadletterv1connect.NewDeadLetterServiceClient)
}

// completeLetters offers the ids of open dead letters to the shell.
func completeLetters(c *cli.Client) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return cli.Complete(cmd.Context(), begun, func(ctx context.Context) ([]string, error) {
			api, err := deadLetterService(ctx, c)
			if err != nil {
				return nil, err
			}
			answer, err := cli.Call(ctx, api.List, &deadletterv1.ListRequest{PageSize: 1000})
			if err != nil {
				return nil, err
			}
			var ids []string
			for _, l := range answer.DeadLetters {
				ids = append(ids, l.Id)
			}
			return ids, nil
		})
	}
}
