// Package contract checks messages against the rules in the proto files (package rule.v1 has the limits, each once). Whoever
// receives a message, and whoever is about to send one, asks the same rules. It knows no service and no database.
package contract

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"sync"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
)

// maxTold bounds how many wrong fields are told: a request may name a thousand ids, and each may be wrong.
const maxTold = 20

// Problem is a field that breaks its rule.
type Problem = checkoutv1.BadField

// validator keeps the rules of each message from the first time that it is seen.
var validator = sync.OnceValue(func() protovalidate.Validator {
	v, err := protovalidate.New()
	if err != nil {
		panic(fmt.Sprintf("make validator: %v", err)) // No input decides that.
	}
	return v
})

// Prepare reads the rules for the requests of a service, so that the first request need not wait for it.
func Prepare(service string) {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	s, is := d.(protoreflect.ServiceDescriptor)
	if err != nil || !is {
		return // No service of ours, so no rules of ours.
	}
	for i := range s.Methods().Len() {
		if m, err := protoregistry.GlobalTypes.FindMessageByName(s.Methods().Get(i).Input().FullName()); err == nil {
			Check(m.New().Interface())
		}
	}
}

// Check returns the fields that break their rules, in the order of the fields: the first twenty at most, and none where nothing is
// wrong.
func Check(m proto.Message) []*Problem {
	// First the forms that rules rely on. A list that is too long is not looked into, so that a huge one costs no more than a good one.
	if bad := malformed("", m.ProtoReflect(), nil); len(bad) > 0 {
		return first(bad)
	}
	err := validator().Validate(m)
	if err == nil {
		return nil
	}
	var wrong *protovalidate.ValidationError
	if !errors.As(err, &wrong) {
		// No rule's author thought of this value.
		return []*Problem{{Field: string(m.ProtoReflect().Descriptor().Name()), Problem: "cannot be judged: " + err.Error()}}
	}
	var bad []*Problem
	for _, v := range wrong.Violations {
		// A rule about a whole message is named after the field that it is about.
		bad = append(bad, &Problem{Field: cmp.Or(protovalidate.FieldPathString(v.Proto.GetField()), v.Proto.GetRuleId()), Problem: words(m.ProtoReflect().Descriptor(), v)})
	}
	return first(bad)
}

func first(bad []*Problem) []*Problem {
	if more := len(bad) - maxTold; more > 0 {
		last := bad[maxTold-1]
		return append(bad[:maxTold-1:maxTold-1], &Problem{Field: last.Field, Problem: fmt.Sprintf("%s; and %d more", last.Problem, more)})
	}
	return bad
}

// words are what a violation says. Our own rules have sentences of their own.
func words(m protoreflect.MessageDescriptor, v *protovalidate.Violation) string {
	switch id := v.Proto.GetRuleId(); {
	case id == "required":
		return "is missing"
	case strings.HasPrefix(id, "enum."):
		return "must be " + choices(enumAt(m, v.Proto.GetField()))
	default:
		return v.Proto.GetMessage()
	}
}

// enumAt is the enum of the field at a path.
func enumAt(m protoreflect.MessageDescriptor, path *validate.FieldPath) protoreflect.EnumDescriptor {
	elements := path.GetElements()
	last := len(elements) - 1
	for _, e := range elements[:last] {
		m = m.Fields().ByName(protoreflect.Name(e.GetFieldName())).Message()
	}
	return m.Fields().ByName(protoreflect.Name(elements[last].GetFieldName())).Enum()
}

// choices are the names of an enum, without its zero.
func choices(e protoreflect.EnumDescriptor) string {
	var names []string
	for i := range e.Values().Len() {
		if value := e.Values().Get(i); value.Number() != 0 {
			names = append(names, string(value.Name()))
		}
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// malformed adds the lists that have more entries than they may, and the times and durations that are none.
func malformed(path string, m protoreflect.Message, bad []*Problem) []*Problem {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		name := path + string(field.Name())
		switch {
		case field.IsList():
			most, bounded := maxItems(field)
			if n := value.List().Len(); bounded && uint64(n) > most {
				bad = append(bad, &Problem{Field: name, Problem: fmt.Sprintf("must be at most %d, not %d", most, n)})
			}
		case field.Message() != nil && !field.IsMap():
			switch part := value.Message().Interface().(type) {
			case *timestamppb.Timestamp:
				if part.CheckValid() != nil {
					bad = append(bad, &Problem{Field: name, Problem: "must be a time"})
				}
			case *durationpb.Duration:
				if part.CheckValid() != nil {
					bad = append(bad, &Problem{Field: name, Problem: "must be a duration"})
				}
			default:
				bad = malformed(name+".", value.Message(), bad)
			}
		}
		return true
	})
	return bad
}

func maxItems(field protoreflect.FieldDescriptor) (most uint64, bounded bool) {
	rules, _ := proto.GetExtension(field.Options(), validate.E_Field).(*validate.FieldRules)
	list := rules.GetRepeated()
	return list.GetMaxItems(), list.HasMaxItems()
}

// BadField is a field that is wrong in a way that no rule can tell.
func BadField(field, problem string, args ...any) *Problem {
	return &Problem{Field: field, Problem: fmt.Sprintf(problem, args...)}
}

// Sentence tells all that is wrong.
func Sentence(bad []*Problem) string {
	sentences := make([]string, len(bad))
	for i, p := range bad {
		sentences[i] = p.Field + ": " + p.Problem
	}
	return strings.Join(sentences, "; ")
}

// BadInput is one error about all fields that are wrong, of code invalid_argument: a sentence for people and a detail for each
// field. It is nil where nothing is wrong.
func BadInput(bad ...*Problem) error {
	if len(bad) == 0 {
		return nil
	}
	err := connect.NewError(connect.CodeInvalidArgument, errors.New(Sentence(bad)))
	for _, p := range bad {
		detail, detailErr := connect.NewErrorDetail(p)
		if detailErr != nil {
			continue // The sentence tells it all the same.
		}
		err.AddDetail(detail)
	}
	return err
}
