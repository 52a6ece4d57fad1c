package fuzz

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/structpb"
)

// broken stands for bytes that are no UTF-8. A message cannot hold those, so they take its place once it is written down.
const (
	broken   = "-broken-"
	brokenAs = "\xff\xc0\x80\xed\xa0\x80\xfe\xf5"
)

// fresh stands for an order id that nobody has used.
const fresh = "-fresh-"

// odd are texts that something could stumble over.
var odd = []string{
	"", " ", "\x00", "a\x00b", "\x1b[2J\x1b]0;title\x07", "line\nbreak", "\r\nHeader: x", "\u202egnp.exe", "\u200b", "\ufeff", "\u2028", "\u0085", "é", "e\u0301",
	"茶", "😀", "\U0010ffff", "\ufffd", broken, "%s%n%d", "../../etc/passwd", "'\"`\\;--", "{{.}}", "${x}", "null", "NaN", "-1", "0",
	"9223372036854775808", "1e400", strings.Repeat("x", 65), strings.Repeat("茶", 64), strings.Repeat("x", 5000), strings.Repeat("\x00", 200_000),
	"AAAA", "MSBvcmQAIHN0ZXA", "MjAyNi0wMS0wMVQwMDowMDowMFogYQBi", "OTk5OTk5OTk5OTk5OTk5OTk5OSBvcmQtMQ", "dl-1", "dl-9223372036854775808", "zzz", "ZZZ", "eur",
}

// good are values that fields of a name have rightly, so that what is arbitrary is met behind the first check, too.
var good = map[protoreflect.Name][]string{
	"order_id": {"ord-1", "ord-2", "ord-nope", fresh}, "order_ids": {"ord-1", "ord-2"}, "customer_id": {"cus-1"}, "sku": {"CHAIR-OAK", "CHAIR-OAK", "LAMP-BRASS", "NO"},
	"currency": {"EUR", "EUR", "EUR", "JPY"}, "payment_method": {"tok_visa", "tok_declined"}, "reason": {"because"}, "actor": {"ann"},
	"step": {"reserve-stock", "capture-payment", "release-stock"}, "topic": {"checkout.order.created", "pricing.price.updated"}, "coordination": {"orchestrated", "choreographed"},
	"engine": {"embedded", "dapr"}, "state": {"open", "all"}, "consumer": {"orders"}, "id": {"dl-1"}, "ids": {"dl-1"}, "reason_code": {"card_declined"},
	"authorize": {"works"}, "capture": {"works"}, "void": {"works"}, "refund": {"works"}, "page_token": {"", "1"},
	"definition": {"book-trip"}, "key": {"ord-1", fresh}, "keys": {"ord-1", "ord-2"}, "digest": {"1:a", "1:b"}, "idempotency_key": {"k"},
	"event_ids": {"orchestrator:order:ord-1:1"}, "message_ids": {"orchestrator:order:ord-1:1"},
}

// source draws arbitrary values. odds is how many of a hundred values are odd; the others are what a good client would send.
type source struct {
	*rand.Rand
	odds int
}

func (s source) odd() bool { return s.IntN(100) < s.odds }

func pick[T any](s source, all []T) T { return all[s.IntN(len(all))] }

// message is an arbitrary message of a type.
func (s source) message(d protoreflect.MessageDescriptor) proto.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(fmt.Sprintf("%s is no message of this program", d.FullName()))
	}
	m := t.New()
	s.fill(m, 0)
	return m.Interface()
}

func (s source) fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		switch f := fields.Get(i); {
		case s.odd() && s.IntN(2) == 0 || depth > 5:
			// Left out.
		case f.IsList():
			list, n := m.Mutable(f).List(), s.length()
			for range min(n, 3) {
				list.Append(s.value(f, list.NewElement, depth))
			}
			// Of the same few, and not far beyond the megabyte up to which a body is read.
			for i := 3; i < min(n, 2<<20/(proto.Size(m.Interface())+1)); i++ {
				list.Append(list.Get(i % 3))
			}
		case !f.IsMap():
			m.Set(f, s.value(f, func() protoreflect.Value { return m.NewField(f) }, depth))
		}
	}
}

// spoil puts a zero byte into one of the texts of a message; false where it has none.
func (s source) spoil(m protoreflect.Message) bool {
	var texts []func()
	collect(m, &texts)
	if len(texts) == 0 {
		return false
	}
	pick(s, texts)()
	return true
}

func collect(m protoreflect.Message, texts *[]func()) {
	bad := protoreflect.ValueOfString("a\x00b")
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsList() && f.Kind() == protoreflect.StringKind:
			*texts = append(*texts, func() { v.List().Set(0, bad) })
		case f.IsList() && f.Message() != nil:
			collect(v.List().Get(0).Message(), texts)
		case f.Message() != nil:
			collect(v.Message(), texts)
		case f.Kind() == protoreflect.StringKind:
			*texts = append(*texts, func() { m.Set(f, bad) })
		}
		return true
	})
}

func (s source) length() int {
	if !s.odd() {
		return 1
	}
	return pick(s, []int{0, 1, 2, 3, 101, 1001, 20_000})
}

func (s source) value(f protoreflect.FieldDescriptor, empty func() protoreflect.Value, depth int) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(s.text(f.Name()))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(s.text(f.Name())))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(s.IntN(2) == 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(s.number(1, math.MinInt32, math.MaxInt32)))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(s.number(1, math.MinInt32, math.MaxInt32)))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(s.number(1, math.MinInt64, math.MaxInt64))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(s.number(1, 0, math.MaxUint32)))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(s.number(1, 0, math.MaxInt64)))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(pick(s, []float64{0, -1, math.NaN(), math.Inf(1)}))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(pick(s, []float32{0, -1, float32(math.NaN())}))
	default:
		if f.Message().FullName() == "google.protobuf.Value" && !s.odd() { // Filled like others it would be a list without an end.
			return protoreflect.ValueOfMessage(structpb.NewStringValue("two seats").ProtoReflect())
		}
		v := empty()
		s.fill(v.Message(), depth+1)
		return v
	}
}

// text is a value for a field of that name.
func (s source) text(name protoreflect.Name) string {
	if known := good[name]; len(known) > 0 && !s.odd() {
		return strings.ReplaceAll(pick(s, known), fresh, fmt.Sprintf("new-%d", s.Uint32()))
	}
	if s.IntN(4) > 0 {
		return pick(s, odd)
	}
	runes := make([]rune, s.IntN(80))
	for i := range runes {
		runes[i] = rune(s.IntN(0xd800))
	}
	return string(runes)
}

func (s source) number(usual, least, most int64) int64 {
	if !s.odd() {
		return usual
	}
	return pick(s, []int64{0, 1, -1, 2, 7, 1000, 1001, 10_001, 1_000_000_000_001, least, least + 1, most, most - 1, -62135596801, 253402300800, s.Int64()})
}

// json is arbitrary JSON, or nearly.
func (s source) json(depth int) string {
	switch s.IntN(9) {
	case 0:
		return pick(s, []string{"null", "true", "1e400", "-0", "1.5", `"\ud800"`, `"\u0000"`, "[", "{", "}", `{"":`, "nul", "\xff", "9223372036854775808"})
	case 1, 2:
		return fmt.Sprintf("%q", s.text(""))
	case 3:
		return strings.Repeat("[", s.IntN(20_000))
	case 4:
		return strings.Repeat(`{"selection":`, s.IntN(5_000))
	default:
		if depth > 3 {
			return "{}"
		}
		names := []string{"order_id", "orderId", "items", "selection", "amount", "unknown", "deadline", "since", "as", "statuses", "unit_price", "sku"}
		var parts []string
		for range s.IntN(4) {
			parts = append(parts, fmt.Sprintf("%q: %s", pick(s, names), s.json(depth+1)))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
}
