package participant

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	// MaxInput bounds a request's input, in bytes of JSON without spaces.
	MaxInput = 64 << 10
	// MaxOutput bounds what a participant gives back, in bytes of JSON without spaces. It is kept with the saga and given to later
	// steps.
	MaxOutput = 4 << 10
	// MaxDetail is where sentences are cut, in bytes.
	MaxDetail = 200
	// maxReason and maxReference bound words and names, in bytes.
	maxReason    = 64
	maxReference = 256
	// maxDepth bounds how deep JSON is nested. Databases and other languages have lower limits than Go.
	maxDepth = 64
)

// Direction is doing or undoing.
type Direction string

// The directions.
const (
	Doing   Direction = "do"
	Undoing Direction = "undo"
)

var (
	definitionForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)
	keyForm        = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// Check tells what of a request breaks the contract, as an ErrBadRequest. Handler and Client check it; a caller in the same process
// must do so itself.
func (r Request) Check() error {
	_, err := r.checked()
	return err
}

// checked is Check, and returns the input as it goes over the wire.
func (r Request) checked() (input *structpb.Value, err error) {
	bad := r.ID().problems()
	if r.Attempt < 0 {
		bad = append(bad, errors.New("attempt: must not be negative"))
	}
	if !isWord(r.IdempotencyKey, maxReference) {
		bad = append(bad, fmt.Errorf("idempotency_key: must be at most %d bytes without spaces or control characters", maxReference))
	}
	if !isWord(r.Digest, maxReference) {
		bad = append(bad, fmt.Errorf("digest: must be at most %d bytes without spaces or control characters", maxReference))
	}
	if input, err = toValue(r.Input, MaxInput); err != nil {
		bad = append(bad, fmt.Errorf("input: %w", err))
	}
	return input, badRequest(bad)
}

// Check tells what of a name breaks the contract, as an ErrBadRequest.
func (id ID) Check() error { return badRequest(id.problems()) }

func (id ID) problems() (bad []error) {
	if !definitionForm.MatchString(id.Definition) {
		bad = append(bad, errors.New("definition: must be 1 to 40 lower-case letters, digits and hyphens and begin with a letter"))
	}
	if !keyForm.MatchString(id.Key) {
		bad = append(bad, errors.New("key: must be 1 to 64 letters, digits, dots, underscores and hyphens and begin with a letter or a digit"))
	}
	if id.Step == "" || !isWord(id.Step, 64) {
		bad = append(bad, errors.New("step: must be 1 to 64 bytes without spaces or control characters"))
	}
	return bad
}

func badRequest(bad []error) error { return all(ErrBadRequest, bad) }

// Check tells what of an answer breaks the contract, as an ErrBadAnswer. Handler and Client check it; a caller in the same process
// must do so itself. A detail is never wrong: its keeper cuts it.
func (r Result) Check(d Direction) error {
	var bad []error
	say := func(wrong bool, format string, args ...any) {
		if wrong {
			bad = append(bad, fmt.Errorf(format, args...))
		}
	}
	switch r.Outcome {
	case Applied, NotKnown:
	case Rejected:
		say(r.Reason == "", "reason: is missing; what is rejected needs one")
	case UndoneBefore:
		say(d == Undoing, "outcome: no undo can be answered %s", UndoneBefore)
	case "":
		say(true, "outcome: is missing")
	default:
		say(true, "outcome: %.40q is none", r.Outcome)
	}
	say(!isWord(r.Reason, maxReason), "reason: must be a word of at most %d bytes", maxReason)
	say(len(r.Reference) > maxReference || !isPrintable(r.Reference), "reference: must be at most %d bytes without control characters", maxReference)
	output, err := toValue(r.Output, MaxOutput)
	say(err != nil, "output: %w", err)
	say(output != nil && (d == Undoing || r.Outcome != Applied), "output: only a step that is applied has one")
	say(!r.ValidUntil.IsZero() && !isWritable(r.ValidUntil), "valid_until: must be a time in the years 1 to 9999")
	return all(ErrBadAnswer, bad)
}

// all is one error of a kind for all that is wrong, in one line; nil if nothing is.
func all(kind error, bad []error) error {
	if len(bad) == 0 {
		return nil
	}
	sentences := make([]string, len(bad))
	for i, err := range bad {
		sentences[i] = err.Error()
	}
	return fmt.Errorf("%w: %s", kind, strings.Join(sentences, "; "))
}

// isWord tells whether programs can compare a text: it has no spaces, and nothing invisible.
func isWord(s string, most int) bool {
	return len(s) <= most && isPrintable(s) && !strings.ContainsFunc(s, unicode.IsSpace)
}

func isPrintable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func isWritable(at time.Time) bool { return at.Year() >= 1 && at.Year() <= 9999 }

// cut makes a detail one line of at most MaxDetail bytes.
func cut(s string) string {
	line := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "?"))
	return strings.ToValidUTF8(line[:min(len(line), MaxDetail)], "")
}

// maxGrowth is how many times longer JSON may get when it is written anew: 1e20 becomes a one and twenty zeros. What is that much
// shorter than it may be need not be written to know that it is short enough.
const maxGrowth = 6

// toValue reads JSON for the wire; nil for none, and for null. It refuses what would not arrive as it was sent, or could not be
// kept.
func toValue(text json.RawMessage, most int) (*structpb.Value, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	if len(text) > 2*most { // Spaces do not count, but nobody needs so many.
		return nil, fmt.Errorf("must be at most %d bytes", most)
	}
	// Before anything else reads it: its depth, and what it is made of.
	if err := readJSON(text); err != nil {
		return nil, err
	}
	v := &structpb.Value{}
	if err := protojson.Unmarshal(text, v); err != nil {
		return nil, errors.New("is not JSON: a name stands in it twice, or a text is not UTF-8") // The rest was seen above.
	}
	if len(text) > most/maxGrowth {
		compact, err := fromValue(v)
		if err != nil {
			return nil, err
		}
		if size := len(compact); size > most {
			return nil, fmt.Errorf("must be at most %d bytes, not %d", most, size)
		}
	}
	if _, isNull := v.Kind.(*structpb.Value_NullValue); isNull {
		return nil, nil
	}
	return v, nil
}

// fromValue writes JSON from the wire: without spaces, the names of each object sorted.
func fromValue(v *structpb.Value) (json.RawMessage, error) {
	switch v.GetKind().(type) {
	case nil, *structpb.Value_NullValue:
		return nil, nil
	}
	text, err := protojson.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("cannot be written as JSON: %w", err) // Such as a number that is none.
	}
	var out bytes.Buffer
	if err := json.Compact(&out, text); err != nil { // Without the spaces that protobuf puts in at random.
		return nil, fmt.Errorf("cannot be written as JSON: %w", err)
	}
	return out.Bytes(), nil
}

// readJSON refuses a text that is no JSON, or that not everybody can read.
func readJSON(text json.RawMessage) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	for depth, values := 0, 0; ; {
		token, err := d.Token()
		switch {
		case errors.Is(err, io.EOF) && depth == 0 && values == 1:
			return nil
		case errors.Is(err, io.EOF):
			return errors.New("is not JSON: it ends too early")
		case err != nil:
			return fmt.Errorf("is not JSON: %w", err)
		}
		switch t := token.(type) {
		case json.Delim:
			if t == '{' || t == '[' {
				depth++
			} else {
				depth--
			}
			if depth > maxDepth {
				return fmt.Errorf("must not be nested deeper than %d", maxDepth)
			}
		case json.Number:
			if !fitsDouble(t.String()) {
				return fmt.Errorf("the number %.40s would lose digits; write it as a text", t)
			}
		case string:
			if strings.ContainsRune(t, 0) {
				return errors.New("must not contain a zero character")
			}
		}
		if depth == 0 {
			if values++; values > 1 {
				return errors.New("is not JSON: something follows it")
			}
		}
	}
}

// fitsDouble tells whether a number is the same after it was read as a double and written again.
func fitsDouble(number string) bool {
	f, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return false
	}
	digits, exponent := decimal(number)
	againDigits, againExponent := decimal(strconv.FormatFloat(f, 'e', -1, 64))
	return digits == againDigits && (digits == "" || exponent == againExponent)
}

// decimal is a number as its digits, without zeros at either end, and the power of ten of the last digit.
func decimal(number string) (digits string, exponent int) {
	mantissa, power, _ := strings.Cut(strings.ToLower(strings.TrimPrefix(number, "-")), "e")
	exponent, _ = strconv.Atoi(power) // A power out of range was out of range for a double too, or is zero's.
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits = strings.TrimLeft(whole+fraction, "0")
	exponent -= len(fraction)
	trimmed := strings.TrimRight(digits, "0")
	return trimmed, exponent + len(digits) - len(trimmed)
}
