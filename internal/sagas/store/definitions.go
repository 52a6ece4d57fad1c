package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/saga"
)

// The first keeps a list under its number, the second reads the kept one. If another process notes the same number at this moment,
// the insert waits for it, and the select, a statement of its own, sees what was noted.
const (
	noteDefinition  = `INSERT INTO definitions (name, version, plan) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`
	notedDefinition = `SELECT plan FROM definitions WHERE name = $1 AND version = $2`
)

// NoteDefinitions keeps which list each version of a definition is. It refuses all of them if one is known as another list: sagas
// of both would have one number, and nobody could tell what "version 2" did. Definitions that are gone stay noted, so that their
// numbers are not used again.
func (s *Store) NoteDefinitions(ctx context.Context, definitions []*saga.Definition) error {
	// By name, so that two processes that note the same ones cannot deadlock.
	byName := slices.SortedFunc(slices.Values(definitions), func(a, b *saga.Definition) int { return strings.Compare(a.Name(), b.Name()) })
	err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		var changed []error
		for _, d := range byName {
			now, known := d.Plan(), saga.Plan{}
			if _, err := tx.Exec(ctx, noteDefinition, now.Definition, now.Version, now); err != nil {
				return err
			}
			if err := tx.QueryRow(ctx, notedDefinition, now.Definition, now.Version).Scan(&known); err != nil {
				return err
			}
			same, err := sameList(known, now)
			switch {
			case err != nil:
				return err
			case !same:
				changed = append(changed, fmt.Errorf("saga %s: version %d is another list than the database knows under this number: %s; give what has changed the next number",
					now.Definition, now.Version, whatChanged(known, now)))
			}
		}
		return errors.Join(changed...)
	})
	if err != nil {
		return fmt.Errorf("note definitions: %w", err)
	}
	return nil
}

// sameList compares two plans as they are stored: a saga has nothing else of them.
func sameList(a, b saga.Plan) (bool, error) {
	textA, err := json.Marshal(a)
	if err != nil {
		return false, err
	}
	textB, err := json.Marshal(b)
	return bytes.Equal(textA, textB), err
}

// whatChanged says how two lists differ.
func whatChanged(was, is saga.Plan) string {
	if before, now := stepsOf(was), stepsOf(is); !slices.Equal(before, now) {
		return fmt.Sprintf("its steps were %s and are %s", strings.Join(before, ", "), strings.Join(now, ", "))
	}
	var all []string
	for i, before := range was.Steps {
		now := is.Steps[i]
		compare := func(what, from, to string) {
			if from != to {
				all = append(all, fmt.Sprintf("%s of %s was %s and is %s", what, before.Name, orNothing(from), orNothing(to)))
			}
		}
		compare("the participant", before.Participant, now.Participant)
		compare("the compensation", before.Compensation, now.Compensation)
		compare("the kind", kindOfStep(before), kindOfStep(now))
		compare("the reason of being too late", before.TooLate, now.TooLate)
		compare("what is denied by a refusal", denials(before), denials(now))
	}
	return strings.Join(all, "; ")
}

func stepsOf(p saga.Plan) (names []string) {
	for _, step := range p.Steps {
		names = append(names, step.Name)
	}
	return names
}

func kindOfStep(s saga.Step) string {
	switch {
	case s.Pivot:
		return "the pivot"
	case s.Decision:
		return "a decision"
	}
	return "a step"
}

func denials(s saga.Step) string {
	var all []string
	for _, reason := range slices.Sorted(maps.Keys(s.Denials)) {
		all = append(all, s.Denials[reason]+" by "+reason)
	}
	return strings.Join(all, ", ")
}

func orNothing(text string) string {
	if text == "" {
		return "nothing"
	}
	return text
}

// ParticipantsUnderWay are the participants that the plans of open sagas name, whatever their definitions name today, each with one
// such saga.
func (s *Store) ParticipantsUnderWay(ctx context.Context) (map[string]saga.ID, error) {
	const query = `
		SELECT DISTINCT ON (participant) participant, definition, key
		FROM sagas, jsonb_to_recordset(plan -> 'steps') AS step (participant text, decision boolean)
		WHERE ended_at IS NULL AND decision IS NOT TRUE
		ORDER BY participant, definition, key`
	rows, err := s.pool.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("read participants of open sagas: %w", err)
	}
	all := make(map[string]saga.ID)
	var participant string
	var one saga.ID
	if _, err := pgx.ForEachRow(rows, []any{&participant, &one.Definition, &one.Key}, func() error {
		all[participant] = one
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read participants of open sagas: %w", err)
	}
	return all, nil
}
