package sagaverbs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// many are the flags by which a verb goes through all sagas that a query finds.
type many struct {
	query queryFlags
	limit int
	cli.Pace
}

const (
	defaultRPS = 20
	// foundProgress is after how many found sagas there is a sign of life, and doneProgress after how many that were tried.
	foundProgress = 10 * listPage
	doneProgress  = 100
)

func (s *steering) addMany(cmd *cobra.Command, m *many) {
	s.addQuery(cmd, &m.query)
	cmd.Flags().IntVar(&m.limit, "limit", 0, "of a query, the newest N only; 0 means all")
	m.Pace.AddTo(cmd, defaultRPS)
}

// choice tells whether a saga is named, or chosen by a query. A verb that was told neither, or both, changes nothing: one that an unset
// variable left without its id must not be about all. A definition alone is no query: it may be an id that lost its key.
func (s *steering) choice(cmd *cobra.Command, m many, args []string) (named bool, err error) {
	isID := len(args) == len(s.Args)
	var given []string
	for _, name := range s.queryNames() {
		if f := cmd.Flags().Lookup(name); f.Changed {
			if f.Value.String() == f.DefValue || f.Value.String() == "[]" {
				return false, cli.Usage("--%s %s chooses nothing; leave it out", name, f.Value)
			}
			if !isID || !slices.Contains(s.mayName, name) {
				given = append(given, name)
			}
		}
	}
	switch {
	case len(args) > len(s.Args):
		return false, cli.Usage("%s: %q is one argument too many; one id, or a query", cmd.CommandPath(), args[len(s.Args)])
	case isID && len(given) > 0:
		return false, cli.Usage("%q and --%s: an id and a query are two ways to say which; take one", strings.Join(args, " "), given[0])
	case isID && (m.limit != 0 || cmd.Flags().Changed("rps")):
		return false, cli.Usage("--limit and --rps are for a query")
	case !isID && len(given) == 0:
		id := "an id"
		if s.many() {
			id = strings.Join(s.Args, " ")
		}
		return false, cli.Usage("say which: %s, or --%s", id, strings.Join(s.queryNames(), ", --"))
	case slices.Contains(args, ""):
		return false, cli.Usage("%s is empty", s.Args[slices.Index(args, "")])
	case m.limit < 0:
		return false, cli.Usage("--limit must not be negative")
	}
	return isID, m.Validate()
}

// each finds all that fit, tells what they are, asks, and does it to one after the other.
func (s *steering) each(ctx context.Context, out *cli.Output, m many, definition []string) error {
	query, err := s.query(m.query, definition)
	if err != nil {
		return err
	}
	api, err := s.Reach(ctx)
	if err != nil {
		return err
	}
	// All are found before the first is changed: a change would move the pages.
	all, err := s.find(ctx, api, query, m.limit)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		s.Err.Say("no %s fits", s.One)
		return out.Print(s.deedsResult(nil, query))
	}
	s.Err.Say("%s %s, because: %s", s.verb, s.summary(all), s.reason)
	if !s.dryRun && !m.Yes {
		if !s.Terminal {
			return cli.Usage("nobody can be asked here, so nothing was changed; --yes goes on without asking, --dry-run shows what it would do")
		}
		if err := s.Confirm(ctx); err != nil {
			return err
		}
	}
	deeds, err := s.goThrough(ctx, api, all, m.Pace)
	return errors.Join(out.Print(s.deedsResult(deeds, query)), err)
}

// found is what is kept of a saga that a query found.
type found struct {
	id     ID
	status string
	amount *cli.MoneyView
}

func (s *steering) find(ctx context.Context, api API, query Query, limit int) ([]found, error) {
	var all []found
	page := Page{}
	for {
		page.Limit = listPage
		if limit > 0 {
			page.Limit = int32(min(listPage, limit-len(all)))
		}
		sagas, next, err := api.List(ctx, query, page)
		if err != nil {
			return nil, err
		}
		for _, saga := range sagas {
			all = append(all, found{saga.ID, saga.Status, saga.Amount})
		}
		page.Token = next
		if next == "" || limit > 0 && len(all) >= limit {
			return all, nil
		}
		if len(all)%foundProgress == 0 {
			s.Err.Say("%d found so far", len(all))
		}
	}
}

// summary is what people must know before they say yes: how many, in which statuses, and how much money.
func (s *steering) summary(all []found) string {
	statuses, money := make(map[string]int), make(map[string]int64)
	for _, f := range all {
		statuses[f.status]++
		if f.amount != nil {
			money[f.amount.Currency] += f.amount.MinorUnits
		}
	}
	var counts, sums []string
	for _, status := range slices.Sorted(maps.Keys(statuses)) {
		counts = append(counts, fmt.Sprintf("%d %s", statuses[status], status))
	}
	for _, currency := range slices.Sorted(maps.Keys(money)) {
		sums = append(sums, cli.Amount(&cli.MoneyView{Currency: currency, MinorUnits: money[currency]}))
	}
	noun := s.Many
	if len(all) == 1 {
		noun = s.One
	}
	text := fmt.Sprintf("%d %s (%s)", len(all), noun, strings.Join(counts, ", "))
	if len(sums) > 0 {
		text += fmt.Sprintf(", %s in all", strings.Join(sums, " and "))
	}
	return text
}

// deedOfMany is what became of one of many.
type deedOfMany struct {
	id ID
	// done is false also where nothing was to be changed (dry run); then an empty error says that it would be done.
	done, dryRun      bool
	status, what, err string
	// word says it in the table.
	word string
}

// goThrough does it to one after the other, at most so many a second. What one saga's state does not allow is told and passed over;
// anything else would meet the rest as well, so it ends there. What was done is returned also beside an error.
func (s *steering) goThrough(ctx context.Context, api API, all []found, pace cli.Pace) ([]deedOfMany, error) {
	var deeds []deedOfMany
	refused := 0
	next := pace.Ticker(1)
	defer next.Stop()
	for i, f := range all {
		if i > 0 {
			select {
			case <-next.C:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return deeds, cli.CutShort(ctx, "interrupted after %s", progress(i, refused, len(all)))
		}
		now := deedOfMany{id: f.id, status: f.status, dryRun: s.dryRun}
		// An interrupt waits for this one: one that is broken off may have been done or not.
		d, err := s.do(context.WithoutCancel(ctx), api, f.id, s.order())
		switch status := cli.ExitStatus(err); status {
		case cli.ExitDone:
			now.done, now.status, now.what, now.word = !s.dryRun, d.saga.Status, d.what, "done"
			if s.dryRun {
				now.word = "would be done"
			}
		case cli.ExitConflict, cli.ExitNotFound:
			now.err, now.word = cli.Explain(err), "refused"
			refused++
		default:
			now.err, now.word = cli.Explain(err), "failed"
			if status == cli.ExitUnreachable {
				now.word = "not known"
			}
			return append(deeds, now), cli.ExitWith(status, "stopped at %s, after %s: %w", f.id.String(), progress(i, refused, len(all)), err)
		}
		deeds = append(deeds, now)
		if len(deeds)%doneProgress == 0 {
			s.Err.Say("%d of %d", len(deeds), len(all))
		}
	}
	if refused > 0 {
		return deeds, cli.ExitWith(cli.ExitConflict, "%d of %d were refused", refused, len(all))
	}
	return deeds, nil
}

// progress says how far it came.
func progress(tried, refused, all int) string {
	text := fmt.Sprintf("%d of %d", tried, all)
	if refused > 0 {
		text += fmt.Sprintf(", of which %d were refused", refused)
	}
	return text
}

func (s *steering) deedsResult(deeds []deedOfMany, in Query) cli.Result {
	var ids []string
	views := []cli.Object{}
	for _, d := range deeds {
		if d.err == "" {
			ids = append(ids, s.listed(d.id, in))
		}
		views = append(views, s.fields(d.id).With("done", d.done).With("dry_run", d.dryRun).With("status", d.status).With("what", d.what).With("error", d.err))
	}
	return cli.Result{Value: views, IDs: ids, Tables: func(bool) []cli.Table {
		t := cli.Table{Headings: append(slices.Clone(s.Headings), "RESULT", "WHY")}
		for _, d := range deeds {
			// An error may have a line for each field that is wrong.
			t.Add(append(s.names(d.id), d.word, cli.OrDash(d.what+strings.Join(strings.Fields(d.err), " ")))...)
		}
		return []cli.Table{t}
	}}
}
