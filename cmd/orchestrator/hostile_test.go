package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/testing/clitest"
)

// impostor is a server that answers every procedure, with hostile texts wherever a text fits.
type impostor struct {
	t *testing.T
	// refuses says that it answers with errors only; a stream breaks off after a message.
	refuses bool
	// bytes fills what is bytes.
	bytes []byte
}

func (i impostor) start() string {
	server := httptest.NewServer(i)
	i.t.Cleanup(server.Close)
	return server.URL
}

// ServeHTTP speaks the Connect protocol for whatever procedure is asked.
func (i impostor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		return
	}
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(r.URL.Path, "/"), "/", "."))
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	method := found.(protoreflect.MethodDescriptor)
	body, _ := io.ReadAll(r.Body)
	answer := dynamicpb.NewMessage(method.Output())
	i.fill(answer, 5)
	i.endPages(method, body, answer)
	message, err := proto.Marshal(answer)
	if err != nil {
		panic(err)
	}
	switch {
	case method.IsStreamingServer():
		w.Header().Set("Content-Type", "application/connect+proto")
		end := []byte("{}")
		if i.refuses {
			end, _ = json.Marshal(map[string]json.RawMessage{"error": i.refusal("failed_precondition")})
		}
		_, _ = w.Write(append(enveloped(0, message), enveloped(2, end)...))
	case i.refuses:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write(i.refusal("failed_precondition"))
	default:
		w.Header().Set("Content-Type", "application/proto")
		_, _ = w.Write(message)
	}
}

func enveloped(flags byte, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(message))), message...)
}

func (i impostor) refusal(code string) []byte {
	detail, err := proto.Marshal(&checkoutv1.BadField{Field: clitest.Hostile, Problem: clitest.Hostile})
	if err != nil {
		panic(err)
	}
	refusal := map[string]any{"code": code, "message": clitest.Hostile}
	if len(i.bytes)%2 == 0 { // With and without a field.
		refusal["details"] = []any{map[string]string{"type": "checkout.v1.BadField", "value": base64.RawStdEncoding.EncodeToString(detail)}}
	}
	text, err := json.Marshal(refusal)
	if err != nil {
		panic(err)
	}
	return text
}

// endPages lets a list end after its second page, as every list of a server does.
func (impostor) endPages(method protoreflect.MethodDescriptor, body []byte, answer *dynamicpb.Message) {
	next := method.Output().Fields().ByName("next_page_token")
	if next == nil {
		return
	}
	asked := dynamicpb.NewMessage(method.Input())
	if err := proto.Unmarshal(body, asked); err != nil {
		panic(err)
	}
	if asked.Get(method.Input().Fields().ByName("page_token")).String() != "" {
		answer.Clear(next)
	}
}

// fill sets every field of a message, and of the messages below it so many deep: texts to what is clitest.Hostile, enumerations to their last
// value, lists to two of a kind.
func (i impostor) fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	if m.Descriptor().FullName() == "google.protobuf.Value" { // Anything that JSON can say; a text is the worst of it.
		m.Set(fields.ByName("string_value"), protoreflect.ValueOfString(clitest.Hostile))
		return
	}
	for n := range fields.Len() {
		f := fields.Get(n)
		switch {
		case f.IsMap():
			i.t.Errorf("%s is a map, which this test does not fill", f.FullName())
		case f.IsList():
			list := m.Mutable(f).List()
			for range 2 {
				if value := i.value(f, list.NewElement, depth); value.IsValid() {
					list.Append(value)
				}
			}
		default:
			if value := i.value(f, func() protoreflect.Value { return m.NewField(f) }, depth); value.IsValid() {
				m.Set(f, value)
			}
		}
	}
}

func (i impostor) value(f protoreflect.FieldDescriptor, empty func() protoreflect.Value, depth int) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(clitest.Hostile)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(i.bytes)
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(7)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(7)
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(values.Len() - 1).Number())
	case protoreflect.MessageKind:
		if depth == 0 {
			return protoreflect.Value{}
		}
		value := empty()
		i.fill(value.Message(), depth-1)
		return value
	}
	i.t.Errorf("%s is a %s, which this test does not fill", f.FullName(), f.Kind())
	return protoreflect.Value{}
}

func TestNothingThatComesFromElsewhereSteersTheTerminal(t *testing.T) {
	t.Parallel()
	for what, server := range map[string]impostor{
		"answers":                {bytes: clitest.HostileBytes},
		"answers in JSON":        {bytes: []byte("{\"a\": \"\u009b\u202e\U000e0041\xff\"}")},
		"refuses":                {refuses: true, bytes: []byte("odd")},
		"refuses field by field": {refuses: true, bytes: []byte("even")},
	} {
		server.t = t
		url := server.start()
		for _, line := range everyVerb(t) {
			for _, form := range cli.Forms() {
				t.Run(what+" "+line+" -o "+form, func(t *testing.T) {
					t.Parallel()
					told := typed(t, "", map[string]string{cli.ServerVariable: url}, strings.Fields(line+" -o "+form)...)
					clitest.RequireHarmless(t, told.out)
					clitest.RequireHarmless(t, told.err)
					require.NotRegexp(t, `(?m)^FORGED$`, told.out+told.err)
					switch {
					case server.refuses:
						require.Contains(t, told.err, `FORGED\nFORGED\r\x1b[31m`, "it is told, and visibly")
					case form == cli.AsWide:
						require.Contains(t, told.out+told.err, `FORGED\nFORGED\r\x1b[31m`, "it is told, and visibly")
					}
				})
			}
		}
	}
}
