package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
)

const pageHead = `<!-- Generated from the contracts in proto/ by tools/topics; run "make generate" and do not edit. -->
# Topics

Every event that there is: who says it, when, and who hears it. An event is a fact. It was committed in its producer's database
together with the change that it tells of, and no step of an orchestrated checkout ([saga.md](saga.md)) waits for it.

- **Order and repeats.** ` + "`seq`" + ` counts a producer's events about one order, or one article, from 1 on and without a gap; they are
  published in that order, and with that order id or article as partition key. Only Kafka keeps the order, and every broker repeats,
  so consumers need neither: each records the ` + "`event_id`" + ` with the effect in one transaction, and what is older than what it
  knows changes nothing.
- **Choreographed only.** Such a consumer takes no notice of events of an orchestrated checkout, where the workflow asks it.
- **Versions.** Contracts only grow. A consumer ignores fields that it does not know, reads every version up to the newest that
  it was built with (there is a payload of each in [internal/testing/eventtest/golden](../internal/testing/eventtest/golden)), and gives a newer one
  to the dead letters.
- **Dead letters.** What a consumer cannot read, or has not taken after the retries in
  [components/resiliency.yaml](../components/resiliency.yaml), goes to ` + "`dlq.<topic>`" + `. The orchestrator keeps it, byte for byte and
  with the cause, until somebody replays or archives it.

On the wire an event is a CloudEvent 1.0 in JSON: ` + "`id`, `source`, `type` and `subject`" + ` are the header's event id, producer, topic and
order id or article, and ` + "`data`" + ` is the message below. Consumers trust ` + "`data`" + ` alone. A field that is not there is empty, 0 or
false.

## All topics

| topic | said by | when | version | about | heard by | dead letters |
|---|---|---|---|---|---|---|
`

// writePage writes docs/topics.md.
func writePage(contracts *protoregistry.Files) ([]byte, error) {
	out := bytes.NewBufferString(pageHead)
	for _, topic := range event.Topics() {
		m, err := find(contracts, topic.FullName())
		if err != nil {
			return nil, err
		}
		said := comment(m)
		if said == "" {
			return nil, fmt.Errorf("%s has no comment that says when it happens", m.FullName())
		}
		heard, deadLetters := "–", "–"
		if len(topic.Consumers) > 0 {
			heard, deadLetters = hearers(topic.Consumers), "`"+bus.DeadLettersOf(topic.Name)+"`"
		}
		fmt.Fprintf(out, "| [`%s`](#%s) | %s | %s | %d | %s | %s | %s |\n", topic.Name, anchor(topic.Name), topic.Owner,
			cell(firstSentence(said)), topic.Version, about(topic), heard, deadLetters)
	}

	header, err := find(contracts, (&eventv1.Header{}).ProtoReflect().Descriptor().FullName())
	if err != nil {
		return nil, err
	}
	out.WriteString("\n## The header\n\nThe field `header` of every event.\n\n")
	writeFields(out, header)

	shared := make(map[protoreflect.FullName]protoreflect.MessageDescriptor)
	for _, topic := range event.Topics() {
		m, err := find(contracts, topic.FullName())
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(out, "\n## %s\n\n%s [%s](../proto/%s), version %d.\n\n", topic.Name, comment(m), m.FullName(), m.ParentFile().Path(), topic.Version)
		maps.Copy(shared, writeFields(out, m))
	}
	for _, name := range slices.Sorted(maps.Keys(shared)) {
		fmt.Fprintf(out, "\n## %s\n\n%s\n\n", shared[name].Name(), comment(shared[name]))
		writeFields(out, shared[name])
	}
	return out.Bytes(), nil
}

func find(contracts *protoregistry.Files, name protoreflect.FullName) (protoreflect.MessageDescriptor, error) {
	d, err := contracts.FindDescriptorByName(name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	return d.(protoreflect.MessageDescriptor), nil
}

func hearers(consumers []*eventv1.Consumer) string {
	var heard []string
	for _, c := range consumers {
		only := ""
		if c.ChoreographedOnly {
			only = " (choreographed only)"
		}
		heard = append(heard, fmt.Sprintf("**%s** %s%s", c.App, cell(c.Reaction), only))
	}
	return strings.Join(heard, "<br>")
}

func about(t event.Topic) string {
	if t.About == eventv1.Key_KEY_ARTICLE {
		return "article"
	}
	return "order"
}

// writeFields writes the table of a message's fields, without the header, which every event has. Messages of another package belong
// to many events; it returns them, to be described once.
func writeFields(out *bytes.Buffer, m protoreflect.MessageDescriptor) (shared map[protoreflect.FullName]protoreflect.MessageDescriptor) {
	out.WriteString("| field | type in JSON | meaning |\n|---|---|---|\n")
	shared = make(map[protoreflect.FullName]protoreflect.MessageDescriptor)
	var write func(within protoreflect.MessageDescriptor, path string)
	write = func(within protoreflect.MessageDescriptor, path string) {
		for i := range within.Fields().Len() {
			field := within.Fields().Get(i)
			if path == "" && field.Name() == "header" {
				continue
			}
			at, kind, meaning := path+string(field.Name()), jsonType(field), comment(field)
			isObject := kind == "object"
			isShared := isObject && field.Message().ParentFile().Package() != m.ParentFile().Package()
			if isShared {
				name := string(field.Message().Name())
				shared[field.Message().FullName()] = field.Message()
				kind = fmt.Sprintf("[%s](#%s)", strings.ToLower(name), strings.ToLower(name))
			} else if isObject && meaning == "" {
				meaning = comment(field.Message())
			}
			if field.IsList() {
				at, kind = at+"[]", "list of "+kind+"s"
			}
			fmt.Fprintf(out, "| `%s` | %s | %s |\n", at, kind, cell(meaning))
			if isObject && !isShared {
				write(field.Message(), at+".")
			}
		}
	}
	write(m, "")
	return shared
}

// jsonType is the type of a field in JSON.
func jsonType(field protoreflect.FieldDescriptor) string {
	switch field.Kind() {
	case protoreflect.MessageKind:
		if field.Message().FullName() == "google.protobuf.Timestamp" {
			return "time (RFC 3339)"
		}
		return "object"
	case protoreflect.Int64Kind:
		return "string of digits" // JSON's own numbers cannot hold all of them.
	case protoreflect.Int32Kind:
		return "number"
	case protoreflect.BoolKind:
		return "true or false"
	}
	return "string"
}

// comment is a declaration's comment in one line.
func comment(d protoreflect.Descriptor) string {
	return strings.Join(strings.Fields(d.ParentFile().SourceLocations().ByDescriptor(d).LeadingComments), " ")
}

func firstSentence(text string) string {
	if first, _, more := strings.Cut(text, ". "); more {
		return first + "."
	}
	return text
}

// cell is a text as a table's cell takes it.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// anchor is GitHub's anchor of a heading.
func anchor(heading string) string { return strings.ReplaceAll(heading, ".", "") }
