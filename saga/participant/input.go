package participant

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Read reads the input into what a step is asked with, strictly: a field that into does not have, or a value of another kind, is an
// ErrBadRequest that names the place. No input is read as an empty object.
func (r Request) Read(into any) error {
	if len(bytes.TrimSpace(r.Input)) == 0 {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(r.Input))
	decoder.DisallowUnknownFields()
	err, mistyped := decoder.Decode(into), new(json.UnmarshalTypeError)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &mistyped):
		place := strings.TrimSuffix("input."+mistyped.Field, ".")
		return fmt.Errorf("%w: %s: must be %s, not %s", ErrBadRequest, place, mistyped.Type.Kind(), mistyped.Value)
	}
	return fmt.Errorf("%w: input: %s", ErrBadRequest, strings.TrimPrefix(err.Error(), "json: "))
}
