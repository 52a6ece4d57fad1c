package sagaverbs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"
)

const (
	// maxNesting is far more than an input needs, and less than what any of those who read it refuses.
	maxNesting = 100
	// maxWhole is the largest whole number that all numbers below it can be told from: a saga's input is kept as JSON, whose numbers
	// most readers take as 64-bit floats.
	maxWhole = 1<<53 - 1
)

// parseInput reads the input of a saga: one JSON value. What would not arrive as it was written is refused, such as a number that is too
// long to be kept. An error begins with the place.
func parseInput(text []byte) (*structpb.Value, error) {
	for at := 0; at < len(text); {
		r, size := utf8.DecodeRune(text[at:])
		if r == utf8.RuneError && size == 1 {
			return nil, placed(text, at, errors.New("this is not UTF-8"))
		}
		at += size
	}
	p := &inputReader{text: text, decoder: json.NewDecoder(bytes.NewReader(text))}
	p.decoder.UseNumber()
	value, err := p.value(0)
	if err != nil {
		return nil, err
	}
	if at := p.skip(int(p.decoder.InputOffset())); at < len(text) {
		return nil, placed(text, at, errors.New("there is more after the JSON value"))
	}
	return value, nil
}

// inputReader reads token by token, so that each error has its place.
type inputReader struct {
	text    []byte
	decoder *json.Decoder
}

// next is where the next token begins, which may stand behind a comma or a colon.
func (p *inputReader) next() int {
	at := p.skip(int(p.decoder.InputOffset()))
	if at < len(p.text) && (p.text[at] == ',' || p.text[at] == ':') {
		at = p.skip(at + 1)
	}
	return at
}

// skip is where what is no space begins.
func (p *inputReader) skip(at int) int {
	for at < len(p.text) && strings.IndexByte(" \t\r\n", p.text[at]) >= 0 {
		at++
	}
	return at
}

// token is the next one, and where it begins.
func (p *inputReader) token() (json.Token, int, error) {
	at := p.next()
	token, err := p.decoder.Token()
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, at, placed(p.text, len(p.text), errors.New("this is not JSON: it ends too early"))
	case err != nil:
		return nil, at, placed(p.text, at, fmt.Errorf("this is not JSON: %w", err))
	}
	return token, at, nil
}

func (p *inputReader) value(depth int) (*structpb.Value, error) {
	token, at, err := p.token()
	if err != nil {
		return nil, err
	}
	if depth > maxNesting {
		return nil, placed(p.text, at, fmt.Errorf("this is nested more than %d deep", maxNesting))
	}
	switch token := token.(type) {
	case json.Delim:
		if token == '{' {
			return p.object(depth)
		}
		return p.list(depth)
	case string:
		return structpb.NewStringValue(token), nil
	case bool:
		return structpb.NewBoolValue(token), nil
	case json.Number:
		number, err := exact(token.String())
		if err != nil {
			return nil, placed(p.text, at, err)
		}
		return structpb.NewNumberValue(number), nil
	}
	return structpb.NewNullValue(), nil
}

func (p *inputReader) object(depth int) (*structpb.Value, error) {
	fields := make(map[string]*structpb.Value)
	for p.decoder.More() {
		token, at, err := p.token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string) // The decoder takes nothing else there.
		if _, twice := fields[name]; twice {
			return nil, placed(p.text, at, fmt.Errorf("the field %q is there twice", name))
		}
		if fields[name], err = p.value(depth + 1); err != nil {
			return nil, err
		}
	}
	if _, _, err := p.token(); err != nil {
		return nil, err
	}
	return structpb.NewStructValue(&structpb.Struct{Fields: fields}), nil
}

func (p *inputReader) list(depth int) (*structpb.Value, error) {
	list := &structpb.ListValue{}
	for p.decoder.More() {
		value, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list.Values = append(list.Values, value)
	}
	if _, _, err := p.token(); err != nil {
		return nil, err
	}
	return structpb.NewListValue(list), nil
}

// exact is a number as it is kept, if that is the number which was written.
func exact(text string) (float64, error) {
	number, err := strconv.ParseFloat(text, 64)
	whole := !strings.ContainsAny(text, ".eE")
	if err != nil || whole && (number > maxWhole || number < -maxWhole) {
		return 0, fmt.Errorf("the number %s is too large to be kept exactly; write it as a text, in quotes", text)
	}
	return number, nil
}

// placed is an error with the place of a byte, in lines and characters from 1.
func placed(text []byte, at int, err error) error {
	before := text[:at]
	line := bytes.Count(before, []byte("\n")) + 1
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Errorf("line %d, column %d: %w", line, column, err)
}
