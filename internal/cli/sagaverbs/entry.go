package sagaverbs

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// EntryView is one line of a saga's history in json and yaml.
type EntryView struct {
	At         *time.Time `json:"at"`
	Kind       string     `json:"kind"`
	Step       string     `json:"step"`
	Attempt    int32      `json:"attempt"`
	Actor      string     `json:"actor"`
	Reason     string     `json:"reason"`
	DurationMS int64      `json:"duration_ms"`
	Outcome    string     `json:"outcome"`
	Error      string     `json:"error"`
}

// EntryHeadings stand above rows of entries.
func EntryHeadings() []string {
	return []string{"AGE", "WHAT", "STEP", "ATTEMPT", "OUTCOME", "TOOK", "BY", "WHY"}
}

// Row is the entry in a table.
func (e EntryView) Row(s cli.Surroundings) []string {
	attempt, took := "-", "-"
	if e.Attempt > 0 {
		attempt = fmt.Sprint(e.Attempt)
	}
	if e.Kind == "attempt" {
		took = fmt.Sprintf("%dms", e.DurationMS)
	}
	why := e.Reason
	if e.Error != "" {
		why = e.Error
	}
	return []string{s.Age(e.At), e.Kind, cli.OrDash(e.Step), attempt, cli.OrDash(e.Outcome), took, cli.OrDash(e.Actor), cli.OrDash(why)}
}

// Line is an entry that is printed as it comes.
type Line struct {
	EntryView
	// EventID tells an event from all others, whose outcome may change; empty for what is none.
	EventID string
	// Value is the entry in json and yaml.
	Value any
}

// lineKey tells a line from all others of a saga.
type lineKey struct {
	eventID string
	// The others are for what has no such id.
	at                  time.Time
	kind, step, outcome string
	attempt             int32
	// ordinal counts those that are alike in all that.
	ordinal int
}

func (l Line) key() lineKey {
	if l.EventID != "" {
		return lineKey{eventID: l.EventID}
	}
	key := lineKey{kind: l.Kind, step: l.Step, outcome: l.Outcome, attempt: l.Attempt}
	if l.At != nil {
		key.at = *l.At
	}
	return key
}

// FollowHistory prints each entry of a history once, as it comes. A server that comes back tells all from the first.
func FollowHistory[M any](ctx context.Context, k *Kind, out *cli.Output, id ID, open func() (*connect.ServerStreamForClient[M], error), lines func(*M) []Line) error {
	printed := make(map[lineKey]bool)
	var count map[lineKey]int
	ended := false
	err := Follow(ctx, k, Watched{ID: id}, func() (*connect.ServerStreamForClient[M], error) {
		count = make(map[lineKey]int)
		return open()
	}, func(m *M) error {
		for _, line := range lines(m) {
			key := line.key()
			if key.eventID == "" {
				count[key]++
				key.ordinal = count[key]
			}
			if printed[key] {
				continue
			}
			printed[key] = true
			ended = ended || line.Kind == "status" && !slices.Contains(openStatuses(), line.Outcome)
			// In a table it is a line without headings.
			table := cli.Table{Headings: []string{strings.Join(line.Row(k.Surroundings), "   ")}}
			if err := out.PrintOne(cli.Result{Value: line.Value, IDs: []string{id.Key}, Tables: func(bool) []cli.Table { return []cli.Table{table} }}); err != nil {
				return err
			}
		}
		return nil
	})
	if cli.Stopped(ctx) && err != nil && ended {
		return cli.CutShort(ctx, "%s has ended; its last events were not waited for", id.String())
	}
	return err
}
