package saga

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"
)

// For declares a saga whose input is a T: its list, and what else the engine keeps of each saga. What is made from an input is made
// once, when the saga is accepted, and kept with it.
//
// A T is read from JSON. A field that it does not have is refused.
type For[T any] struct {
	// Name and Version name the list; see Define.
	Name    string
	Version int
	// Steps are done in this order.
	Steps []Step
	// Check says what is wrong with an input although it is a T. Nil accepts every T.
	Check func(T) error
	// About says by what people look for a saga, and what money is at stake. Nil says neither.
	About func(T) About
	// Deadline is how long a saga may take until it is undone, unless its start says: 1 s to 30 days. Default 15 minutes. Too short
	// undoes what is merely slow; too long holds what nobody gets.
	Deadline time.Duration
	// Decides says whether a person must decide on a saga. Nil: on each, if the list has a Decision.
	Decides func(T) bool
}

// Declaration is a For with any input.
type Declaration interface {
	// Define checks the declaration. The error tells all that is wrong with it.
	Define() (*Definition, error)
}

const (
	// MaxInput bounds a saga's input, in bytes of JSON.
	MaxInput = 64 << 10
	// DefaultDeadline is the deadline of a saga for which nobody says one.
	DefaultDeadline = 15 * time.Minute
	// MaxDeadline bounds the deadline.
	MaxDeadline = 30 * 24 * time.Hour
)

// Asking gives the step a request of its own, which From makes from the saga's input. Without it a step gets the whole input.
func (s Step) Asking(request Request) Step {
	s.request = &request
	return s
}

// Request makes a step's request.
type Request struct {
	from reflect.Type
	make func(input any) any
}

// From makes a request from an input of type T, which must be that of the saga.
func From[T, R any](request func(T) R) Request {
	r := Request{from: reflect.TypeFor[T]()}
	if request != nil {
		r.make = func(input any) any {
			in, _ := input.(T) // If T is an interface, the input null is no T; then its zero value is the input.
			return request(in)
		}
	}
	return r
}

// Define implements Declaration.
func (f For[T]) Define() (*Definition, error) {
	d, wrong := define(f.Name, f.Version, f.Steps)
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	input, decides := reflect.TypeFor[T](), false
	for _, step := range f.Steps {
		decides = decides || step.Decision
		switch {
		case step.request == nil:
		case step.Decision:
			say("decision %q is asked with something, but nobody is asked", step.Name)
		case step.request.make == nil:
			say("step %q is asked with what nothing makes: use From with a function", step.Name)
		case step.request.from != input:
			say("step %q is asked with what is made from a %s, but the saga's input is a %s", step.Name, step.request.from, input)
		}
	}
	if f.Decides != nil && !decides {
		say("Decides is given, but the list has no Decision, so nobody would be asked")
	}
	if f.Deadline != 0 && (f.Deadline < time.Second || f.Deadline > MaxDeadline) {
		say("Deadline is %s, it must be 1s to %s", f.Deadline, MaxDeadline)
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("define saga %q: %w", f.Name, errors.Join(wrong...))
	}
	if f.Deadline != 0 {
		d.deadline = f.Deadline
	}
	steps := slices.Clone(f.Steps)
	d.accept = func(input json.RawMessage) (Accepted, error) {
		var in T
		err := read(input, &in)
		if err != nil {
			return Accepted{}, err
		}
		if f.Check != nil {
			if err := f.Check(in); err != nil {
				return Accepted{}, &InputError{err}
			}
		}
		a := Accepted{Plan: d.Plan(), Deadline: d.deadline, Requests: make(map[string]json.RawMessage)}
		if a.Input, err = json.Marshal(in); err != nil {
			return Accepted{}, fmt.Errorf("write the input of saga %q: %w", f.Name, err)
		}
		if f.About != nil {
			a.About = f.About(in)
			if err := a.About.check(); err != nil {
				return Accepted{}, &InputError{err}
			}
		}
		if f.Decides != nil && !f.Decides(in) {
			a.Plan = a.Plan.WithoutDecision()
		}
		for _, step := range steps {
			if step.request == nil {
				continue
			}
			if a.Requests[step.Name], err = json.Marshal(step.request.make(in)); err != nil {
				return Accepted{}, fmt.Errorf("write the request of step %q of saga %q: %w", step.Name, f.Name, err)
			}
		}
		return a, nil
	}
	return d, nil
}

// Accepted is what a saga keeps of its input.
type Accepted struct {
	Plan Plan
	// Input is the input as T is written in JSON.
	Input json.RawMessage
	// Requests are the requests of steps that have one of their own, by step.
	Requests map[string]json.RawMessage
	About    About
	Deadline time.Duration
}

// Request is a step's request: its own, or the input.
func (a Accepted) Request(step string) json.RawMessage {
	if request, has := a.Requests[step]; has {
		return request
	}
	return a.Input
}

// InputError says what is wrong with an input.
type InputError struct{ Problem error }

func (e *InputError) Error() string { return "input: " + e.Problem.Error() }
func (e *InputError) Unwrap() error { return e.Problem }

// Accept makes of an input what its saga keeps. An *InputError says what is wrong with the input.
func (d *Definition) Accept(input json.RawMessage) (Accepted, error) {
	if len(input) > MaxInput {
		return Accepted{}, &InputError{fmt.Errorf("is %d bytes long, at most %d are taken", len(input), MaxInput)}
	}
	if d.accept == nil {
		return Accepted{Plan: d.Plan(), Input: input, Deadline: d.deadline}, nil
	}
	return d.accept(input)
}

// read reads an input strictly: unknown fields and further values are errors.
func read[T any](input json.RawMessage, into *T) error {
	// encoding/json reads null into any struct, so nothing would pass for an input.
	if bytes.Equal(bytes.TrimSpace(input), []byte("null")) && !mayBeNothing(reflect.TypeFor[T]()) {
		return &InputError{errors.New("is missing")}
	}
	decoder := json.NewDecoder(bytes.NewReader(input))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return &InputError{inWords(err)}
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return &InputError{errors.New("is more than one JSON value")}
	}
	return nil
}

// mayBeNothing tells whether null is a value of a type: of interfaces, maps, slices, and structs without fields.
func mayBeNothing(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Interface, reflect.Map, reflect.Slice:
		return true
	case reflect.Struct:
		return t.NumField() == 0
	}
	return false
}

// inWords is an error of encoding/json in the words of the JSON's author.
func inWords(err error) error {
	if mistyped := new(json.UnmarshalTypeError); errors.As(err, &mistyped) {
		if mistyped.Field == "" {
			return fmt.Errorf("must be %s, not %s", kind(mistyped.Type), mistyped.Value)
		}
		return fmt.Errorf("%s must be %s, not %s", mistyped.Field, kind(mistyped.Type), mistyped.Value)
	}
	if errors.Is(err, io.EOF) {
		return errors.New("is missing")
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}

// kind is a type in the words of JSON.
func kind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a text"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return t.String()
}
