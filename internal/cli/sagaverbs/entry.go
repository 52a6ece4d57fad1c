package sagaverbs

import (
	"fmt"
	"time"

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
