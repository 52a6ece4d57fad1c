package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// Step is what doing and undoing one step means in the participant's own tables. Both functions do all their work in the
// transaction that they are given, and neither commits it nor rolls it back. They may run again after a transaction that failed, so
// they must have no effect outside of it and call no other system. See BeginDoing for a participant that has to call one.
type Step struct {
	// Do puts the effect in place and answers participant.Applied, or refuses: see participant.Reject. Once it has answered for an
	// operation, it is not called for that one again. What it wrote before it refused is not kept. An error means "not known, ask
	// again".
	Do func(ctx context.Context, tx pgx.Tx, r participant.Request) (participant.Result, error)
	// Undo makes the effect be gone. It is called only where Do has applied it, and once. It finds what to undo by the request's
	// definition and key. CannotUndo refuses; any other error means "not known, ask again". Nil if nothing undoes the step: a
	// request to undo it, after it was done, is refused.
	Undo func(ctx context.Context, tx pgx.Tx, r participant.Request) error
}

// CannotUndo makes Step.Undo refuse for good: a word for programs and a sentence for people. What the function wrote is not kept.
func CannotUndo(reason, detail string) error { return &refusal{reason, detail} }

type refusal struct{ reason, detail string }

func (r *refusal) Error() string { return r.reason + ": " + r.detail }

// notUndoable is the reason where a step has no Undo.
const notUndoable = "cannot_be_undone"

// Participant does its steps in transactions of one database, and keeps the six promises of package participant.
type Participant struct {
	// Whether a saga is over is for the caller to know: what has been done here and not been undone looks the same in a saga that goes on.
	keeper
	steps map[string]Step
}

var (
	_ participant.Participant = (*Participant)(nil)
	_ participant.Keeper      = (*Participant)(nil)
	_ participant.Bound       = (*Participant)(nil)
)

// New makes a participant of its steps, by name. The database of pool has the ledger's tables (Migrate) beside those that the steps
// write. For any other step it answers participant.ErrBadRequest.
func New(pool *pgxpool.Pool, steps map[string]Step) *Participant {
	return &Participant{keeper: keeper{pool: pool}, steps: steps}
}

// Does implements participant.Bound.
func (p *Participant) Does(_, step string) (does, undoes bool) {
	s, has := p.steps[step]
	return has, s.Undo != nil
}

// Do implements participant.Participant.
func (p *Participant) Do(ctx context.Context, r participant.Request) (participant.Result, error) {
	step, err := p.step(r)
	if err != nil {
		return participant.Result{}, err
	}
	digest, err := digestOf(r)
	if err != nil {
		return participant.Result{}, err
	}
	var answer participant.Result
	err = pg.InTx(ctx, p.pool, func(tx pgx.Tx) error {
		op, known, err := BeginDoing(ctx, tx, r.ID(), digest)
		if err != nil {
			return err
		}
		if !known {
			if err := do(ctx, tx, step, r, &op); err != nil {
				return err
			}
			if err := Save(ctx, tx, &op); err != nil {
				return err
			}
		}
		answer = op.Answer(Doing)
		return nil
	})
	return answerOr(answer, err)
}

// do carries out the step and sets what became of it.
func do(ctx context.Context, tx pgx.Tx, step Step, r participant.Request, op *Operation) error {
	var result participant.Result
	err := keepingIf(ctx, tx, func(tx pgx.Tx) (keep bool, err error) {
		result, err = step.Do(ctx, tx, r)
		return result.Outcome == participant.Applied, err
	})
	if err != nil {
		return fmt.Errorf("do %s of %s: %w", r.Step, r.Key, err)
	}
	if err := result.Check(Doing); err != nil {
		return fmt.Errorf("do %s of %s: %w", r.Step, r.Key, err)
	}
	op.Do.Reason, op.Do.Detail, op.Do.Reference = result.Reason, pg.Text(result.Detail, MaxDetail), result.Reference
	switch result.Outcome {
	case participant.Applied:
		op.Do.State = Applied
		op.Output = compact(result.Output)
		op.ValidUntil = result.ValidUntil.UTC().Truncate(time.Microsecond) // As PostgreSQL keeps it.
	case participant.Rejected:
		op.Do.State = Rejected
	case participant.NotKnown:
		return &notKnown{participant.Result{Outcome: participant.NotKnown, Reason: result.Reason, Detail: result.Detail}}
	default:
		return fmt.Errorf("do %s of %s: %w: outcome: whether it was undone before is for the ledger to know", r.Step, r.Key, participant.ErrBadAnswer)
	}
	return nil
}

// Undo implements participant.Participant.
func (p *Participant) Undo(ctx context.Context, r participant.Request) (participant.Result, error) {
	step, err := p.step(r)
	if err != nil {
		return participant.Result{}, err
	}
	var answer participant.Result
	err = pg.InTx(ctx, p.pool, func(tx pgx.Tx) error {
		op, known, err := BeginUndoing(ctx, tx, r.ID())
		if err != nil {
			return err
		}
		if !known {
			if err := undo(ctx, tx, step, r, &op); err != nil {
				return err
			}
			if err := Save(ctx, tx, &op); err != nil {
				return err
			}
		}
		answer = op.Answer(Undoing)
		return nil
	})
	return answerOr(answer, err)
}

// undo carries out the undoing and sets what became of it.
func undo(ctx context.Context, tx pgx.Tx, step Step, r participant.Request, op *Operation) error {
	if step.Undo == nil {
		op.Undo.Reject(notUndoable, "nothing undoes this step")
		return nil
	}
	var refused *refusal
	err := keepingIf(ctx, tx, func(tx pgx.Tx) (keep bool, err error) {
		err = step.Undo(ctx, tx, r)
		if errors.As(err, &refused) {
			return false, nil
		}
		return err == nil, err
	})
	switch {
	case err != nil:
		return fmt.Errorf("undo %s of %s: %w", r.Step, r.Key, err)
	case refused == nil:
		op.Undo.Apply(op.Do.Reference)
		return nil
	}
	if err := participant.Reject(refused.reason, refused.detail).Check(Undoing); err != nil {
		return fmt.Errorf("undo %s of %s: %w", r.Step, r.Key, err)
	}
	op.Undo.Reject(refused.reason, refused.detail)
	return nil
}

func (p *Participant) step(r participant.Request) (Step, error) {
	if err := r.Check(); err != nil {
		return Step{}, err
	}
	step, known := p.steps[r.Step]
	if !known || step.Do == nil {
		return Step{}, fmt.Errorf("%w: there is no step %s here", participant.ErrBadRequest, r.Step)
	}
	return step, nil
}

// keepingIf runs work in a part of a transaction, and keeps what it wrote if it says so.
func keepingIf(ctx context.Context, tx pgx.Tx, work func(tx pgx.Tx) (keep bool, err error)) error {
	part, err := tx.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	keep, err := work(part)
	if err != nil {
		return err // The whole is rolled back.
	}
	if keep {
		return part.Commit(ctx)
	}
	return part.Rollback(ctx)
}

// notKnown ends a transaction whose step is not known yet. It is an answer, and records nothing.
type notKnown struct{ answer participant.Result }

func (n *notKnown) Error() string { return "not known yet: " + n.answer.Detail }

func answerOr(answer participant.Result, err error) (participant.Result, error) {
	var n *notKnown
	switch {
	case errors.As(err, &n):
		return n.answer, nil
	case err != nil:
		return participant.Result{}, err
	}
	return answer, nil
}

// digestOf is the request's own digest, or one of its input: of its content, however it is written.
func digestOf(r participant.Request) (string, error) {
	if r.Digest != "" {
		return r.Digest, nil
	}
	if compact(r.Input) == nil {
		return Digest(1, "input", ""), nil
	}
	d := json.NewDecoder(bytes.NewReader(r.Input))
	d.UseNumber()
	var input any
	if err := d.Decode(&input); err != nil {
		return "", fmt.Errorf("%w: input: %w", participant.ErrBadRequest, err)
	}
	text, err := json.Marshal(input) // The names of each object are sorted.
	if err != nil {
		return "", fmt.Errorf("%w: input: %w", participant.ErrBadRequest, err)
	}
	return Digest(1, "input", string(text)), nil
}

// compact is JSON without spaces; nil for what is no JSON, or null.
func compact(text json.RawMessage) json.RawMessage {
	var out bytes.Buffer
	if err := json.Compact(&out, text); err != nil || out.String() == "null" {
		return nil
	}
	return out.Bytes()
}

// Answer is what a caller is told of one direction.
func (o Operation) Answer(d Direction) participant.Result {
	side := o.Side(d)
	r := participant.Result{Outcome: side.answered(), Reason: side.Reason, Detail: side.Detail, Reference: side.Reference}
	switch side.State {
	case Started, Wanted:
		r.Reason = started
	case UndoneBefore:
		r.Reason, r.Detail = undoneBefore, undoneBeforeDetail
	}
	if d == Doing && side.State == Applied {
		r.Output, r.ValidUntil = o.Output, o.ValidUntil
	}
	return r
}

// Recorded is the operation as a caller is told it.
func (o Operation) Recorded() participant.Operation {
	told := participant.Operation{
		Definition: o.Definition, Key: o.Key, Step: o.Step, Do: o.Do.answered(), Undo: o.Undo.answered(),
		Reason: o.Do.Reason, Reference: o.Do.Reference, CreatedAt: o.CreatedAt, UpdatedAt: o.UpdatedAt,
	}
	if told.Reason == "" {
		told.Reason = o.Undo.Reason
	}
	return told
}

// answered is the outcome of one direction; empty if it was not asked for.
func (s Side) answered() participant.Outcome {
	switch s.State {
	case Applied:
		return participant.Applied
	case Rejected:
		return participant.Rejected
	case Started, Wanted:
		return participant.NotKnown
	case UndoneBefore:
		return participant.UndoneBefore
	default:
		return ""
	}
}
