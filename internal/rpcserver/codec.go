package rpcserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// protoNamesJSON is Connect's JSON with the names of the proto files (on_hand, not onHand), with zeros, and without protobuf's
// random spaces, so that scripts can rely on the text. It reads both forms of names. It refuses a field that it does not know: a
// curl with a misspelt quantity must not order something else. Peers of another version speak binary.
type protoNamesJSON struct{ name string }

// Name is the content type's.
func (c protoNamesJSON) Name() string { return c.name }

// Marshal writes a protobuf message.
func (c protoNamesJSON) Marshal(message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no protobuf message", message)
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("marshal %T: %w", message, err)
	}
	var out bytes.Buffer
	if err := json.Compact(&out, text); err != nil {
		return nil, fmt.Errorf("compact %T: %w", message, err)
	}
	return out.Bytes(), nil
}

// Unmarshal reads a protobuf message.
func (c protoNamesJSON) Unmarshal(text []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no protobuf message", message)
	}
	if len(text) == 0 {
		return errors.New("the body is empty; the least is {}")
	}
	return protojson.Unmarshal(text, m)
}
