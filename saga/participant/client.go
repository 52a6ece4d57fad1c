package participant

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"connectrpc.com/connect"

	participantv1 "github.com/checkoutsaga/orchestrator/gen/saga/participant/v1"
	"github.com/checkoutsaga/orchestrator/gen/saga/participant/v1/participantv1connect"
)

// Remote is a participant somewhere else, in whatever language.
type Remote struct {
	calls participantv1connect.ParticipantServiceClient
}

var (
	_ Participant = (*Remote)(nil)
	_ Keeper      = (*Remote)(nil)
)

// Client calls the participant at an address, such as "http://127.0.0.1:8090", by plain HTTP with JSON. The HTTP client's transport
// adds what the way there needs: on Dapr the address is the sidecar's, and the header dapr-app-id names the participant. A nil HTTP
// client is Go's own.
func Client(web *http.Client, address string, options ...connect.ClientOption) *Remote {
	if web == nil {
		web = http.DefaultClient
	}
	options = append(options, connect.WithCodec(answerJSON{plainJSON{"json"}}), connect.WithReadMaxBytes(maxAnswer))
	return &Remote{participantv1connect.NewParticipantServiceClient(web, address, options...)}
}

// Do implements Participant.
func (c *Remote) Do(ctx context.Context, r Request) (Result, error) {
	return ask(ctx, r, Doing, c.calls.Do)
}

// Undo implements Participant.
func (c *Remote) Undo(ctx context.Context, r Request) (Result, error) {
	return ask(ctx, r, Undoing, c.calls.Undo)
}

func ask(ctx context.Context, r Request, d Direction, asks func(context.Context, *connect.Request[participantv1.Request]) (*connect.Response[participantv1.Answer], error)) (Result, error) {
	message, err := r.message()
	if err != nil {
		return Result{}, err
	}
	answer, err := asks(ctx, connect.NewRequest(message))
	if err != nil {
		return Result{}, fromWire(err)
	}
	result, err := resultOf(answer.Msg, d)
	if err != nil {
		return Result{}, err
	}
	return result, nil
}

// Get implements Participant.
func (c *Remote) Get(ctx context.Context, id ID) (Operation, error) {
	if err := id.Check(); err != nil {
		return Operation{}, err
	}
	answer, err := c.calls.Get(ctx, connect.NewRequest(&participantv1.GetRequest{Definition: id.Definition, Key: id.Key, Step: id.Step}))
	switch {
	case err != nil:
		return Operation{}, fromWire(err)
	case answer.Msg.Operation == nil:
		return Operation{}, nil
	}
	return operationOf(answer.Msg.Operation, id)
}

// List implements Keeper.
func (c *Remote) List(ctx context.Context, q Query) (Page, error) {
	request := &participantv1.ListRequest{
		Definition: q.Definition, Keys: q.Keys, Since: toTime(q.Since), PageSize: int32(min(max(q.PageSize, 0), 1000)), PageToken: q.PageToken,
	}
	answer, err := c.calls.List(ctx, connect.NewRequest(request))
	if err != nil {
		return Page{}, fromWire(err)
	}
	page := Page{NextPageToken: answer.Msg.NextPageToken}
	for _, m := range answer.Msg.Operations {
		op, err := operationOf(m, ID{Definition: q.Definition})
		if err != nil {
			return Page{}, err
		}
		page.Operations = append(page.Operations, op)
	}
	return page, nil
}

// Forget implements Keeper.
func (c *Remote) Forget(ctx context.Context, definition string, keys []string) (Forgotten, error) {
	answer, err := c.calls.Forget(ctx, connect.NewRequest(&participantv1.ForgetRequest{Definition: definition, Keys: keys}))
	if err != nil {
		return Forgotten{}, fromWire(err)
	}
	forgotten := Forgotten{Keys: answer.Msg.Forgotten}
	for _, k := range answer.Msg.Kept {
		forgotten.Kept = append(forgotten.Kept, Kept{Key: k.Key, Why: cut(k.Why)})
	}
	return forgotten, nil
}

// fromWire gives an error its meaning. Only an error that the participant has sent has one: the library's own have codes too.
func fromWire(err error) error {
	var sent *connect.Error
	switch {
	case !errors.As(err, &sent):
		return err
	case errors.Is(err, ErrBadAnswer): // Its code would be read as the participant's.
		return &told{kind: ErrBadAnswer, text: cut(strings.TrimPrefix(sent.Message(), "unmarshal message: "))}
	case !connect.IsWireError(err):
		return err
	}
	for _, c := range codes {
		if c.code == sent.Code() && !errors.Is(c.err, ErrBadAnswer) { // ErrBadAnswer is the participant's own mistake; it means nothing else.
			return &told{kind: c.err, text: cut(sent.Message())}
		}
	}
	return err
}

// told is an error with a meaning, in the participant's own words.
type told struct {
	kind error
	text string
}

func (e *told) Error() string {
	if e.text == "" {
		return e.kind.Error()
	}
	return e.text
}

func (e *told) Unwrap() error { return e.kind }
