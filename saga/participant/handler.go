package participant

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	participantv1 "github.com/checkoutsaga/orchestrator/gen/saga/participant/v1"
	"github.com/checkoutsaga/orchestrator/gen/saga/participant/v1/participantv1connect"
)

const (
	// maxRequest bounds what is read of a request: 64 KiB of input may be several times as long once each character is escaped, and
	// 1,000 keys have 70 kB.
	maxRequest = 1 << 20
	// maxAnswer bounds what is read of an answer: a page of 1,000 operations with the longest names has less than that.
	maxAnswer = 4 << 20
)

// Handler serves a participant over Connect, which is also plain HTTP with JSON: mount handler at pattern. Requests that break the
// contract are refused before p sees them, and answers that do are never sent. List and Forget work if p is a Keeper. The options
// go to Connect. Who may call is for the server to check.
func Handler(p Participant, options ...connect.HandlerOption) (pattern string, handler http.Handler) {
	options = append([]connect.HandlerOption{connect.WithReadMaxBytes(maxRequest)}, options...)
	options = append(options,
		// In place of a JSON among the others: that of the contract passes over fields that it does not know.
		connect.WithCodec(plainJSON{"json"}),
		connect.WithCodec(plainJSON{"json; charset=utf-8"}),
		// After the others, so that they see what is refused here.
		connect.WithInterceptors(connect.UnaryInterceptorFunc(held)))
	pattern, handler = participantv1connect.NewParticipantServiceHandler(served{p}, options...)
	return pattern, http.MaxBytesHandler(handler, maxRequest+1<<10)
}

// validator keeps the rules of each message from the first time that it is seen.
var validator = sync.OnceValues(func() (protovalidate.Validator, error) { return protovalidate.New() })

// held checks requests against the rules in the proto file.
func held(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		rules, err := validator()
		if err != nil {
			return nil, fmt.Errorf("read the contract's rules: %w", err)
		}
		message, is := req.Any().(proto.Message)
		if !is {
			return nil, fmt.Errorf("%T is no protobuf message", req.Any())
		}
		if err := rules.Validate(message); err != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, sentence(err))
		}
		return next(ctx, req)
	}
}

// sentence tells each field that breaks its rule, in one line.
func sentence(err error) error {
	var wrong *protovalidate.ValidationError
	if !errors.As(err, &wrong) {
		return err
	}
	var all []string
	for _, v := range wrong.Violations {
		field := protovalidate.FieldPathString(v.Proto.GetField())
		if field == "" {
			field = v.Proto.GetRuleId() // A rule about a whole message is named after the field that it is about.
		}
		all = append(all, field+": "+v.Proto.GetMessage())
		if len(all) == 20 { // A list may have a thousand.
			break
		}
	}
	return errors.New(strings.Join(all, "; "))
}

// served is a participant as Connect calls it.
type served struct{ p Participant }

// Do does a step.
func (s served) Do(ctx context.Context, req *connect.Request[participantv1.Request]) (*connect.Response[participantv1.Answer], error) {
	return s.ask(ctx, req.Msg, Doing, s.p.Do)
}

// Undo undoes a step.
func (s served) Undo(ctx context.Context, req *connect.Request[participantv1.Request]) (*connect.Response[participantv1.Answer], error) {
	return s.ask(ctx, req.Msg, Undoing, s.p.Undo)
}

func (served) ask(ctx context.Context, m *participantv1.Request, d Direction, does func(context.Context, Request) (Result, error)) (*connect.Response[participantv1.Answer], error) {
	r, err := requestOf(m)
	if err != nil {
		return nil, toWire(err)
	}
	result, err := does(ctx, r)
	if err != nil {
		return nil, toWire(err)
	}
	answer, err := result.message(d)
	if err != nil {
		return nil, toWire(err)
	}
	return connect.NewResponse(answer), nil
}

// Get tells what is recorded.
func (s served) Get(ctx context.Context, req *connect.Request[participantv1.GetRequest]) (*connect.Response[participantv1.GetResponse], error) {
	op, err := s.p.Get(ctx, ID{req.Msg.Definition, req.Msg.Key, req.Msg.Step})
	if err != nil {
		return nil, toWire(err)
	}
	answer := &participantv1.GetResponse{}
	if op != (Operation{}) {
		answer.Operation = op.message()
	}
	return connect.NewResponse(answer), nil
}

// noKeeper is the answer of a participant that has only Do, Undo and Get.
func noKeeper() error {
	return connect.NewError(connect.CodeUnimplemented, errors.New("this participant lists and forgets nothing"))
}

// List lists what is recorded.
func (s served) List(ctx context.Context, req *connect.Request[participantv1.ListRequest]) (*connect.Response[participantv1.ListResponse], error) {
	keeper, is := s.p.(Keeper)
	if !is {
		return nil, noKeeper()
	}
	page, err := keeper.List(ctx, Query{
		Definition: req.Msg.Definition, Keys: req.Msg.Keys, Since: fromTime(req.Msg.Since),
		PageSize: int(req.Msg.PageSize), PageToken: req.Msg.PageToken,
	})
	if err != nil {
		return nil, toWire(err)
	}
	answer := &participantv1.ListResponse{NextPageToken: page.NextPageToken}
	for _, op := range page.Operations {
		answer.Operations = append(answer.Operations, op.message())
	}
	return connect.NewResponse(answer), nil
}

// Forget forgets settled sagas.
func (s served) Forget(ctx context.Context, req *connect.Request[participantv1.ForgetRequest]) (*connect.Response[participantv1.ForgetResponse], error) {
	keeper, is := s.p.(Keeper)
	if !is {
		return nil, noKeeper()
	}
	forgotten, err := keeper.Forget(ctx, req.Msg.Definition, req.Msg.Keys)
	if err != nil {
		return nil, toWire(err)
	}
	answer := &participantv1.ForgetResponse{Forgotten: forgotten.Keys}
	for _, k := range forgotten.Kept {
		answer.Kept = append(answer.Kept, &participantv1.Kept{Key: k.Key, Why: k.Why})
	}
	return connect.NewResponse(answer), nil
}

// codes are those of the errors with a meaning; see the contract.
var codes = []struct {
	err  error
	code connect.Code
}{
	{ErrConflict, connect.CodeAlreadyExists},
	{ErrBadRequest, connect.CodeInvalidArgument},
	{ErrForgotten, connect.CodeFailedPrecondition},
	{ErrBadAnswer, connect.CodeInternal},
	{errors.ErrUnsupported, connect.CodeUnimplemented},
}

// toWire gives an error its code. One without a meaning goes to the server around the handler, to tell or to hide. If that one has
// a code, the code is not the participant's own but, say, that of a service that it has called, and must not pass for it.
func toWire(err error) error {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return connect.NewError(c.code, err)
		}
	}
	var other *connect.Error
	if errors.As(err, &other) {
		return connect.NewError(connect.CodeUnknown, errors.New(err.Error()))
	}
	return err
}
