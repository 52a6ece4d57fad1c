package saga

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ID names a saga. Its key is unique for ever within its definition.
type ID struct{ Definition, Key string }

// String is the id in one line, for logs and messages.
func (id ID) String() string { return id.Definition + " " + id.Key }

// Money is an amount in minor units (cents) of an ISO 4217 currency. The zero value means none.
type Money struct {
	Currency   string `json:"currency"`
	MinorUnits int64  `json:"minor_units"`
}

// About is what people look for a saga by.
type About struct {
	// Whom or what it is about, such as a customer; empty if nobody said.
	Whom string
	// Money is what is at stake; zero if none is.
	Money Money
}

// maxWhom bounds Whom, in characters: a longer one could not be looked for.
const maxWhom = 128

// check tells what could not be kept, or not be looked for.
func (a About) check() error {
	switch {
	case !utf8.ValidString(a.Whom) || utf8.RuneCountInString(a.Whom) > maxWhom || strings.ContainsFunc(a.Whom, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("whom it is about must be at most %d printable characters", maxWhom)
	case a.Money.MinorUnits < 0:
		return errors.New("the money that is at stake must not be negative")
	case (a.Money != Money{} && len(a.Money.Currency) != 3) || strings.ContainsFunc(a.Money.Currency, func(r rune) bool { return r < 'A' || r > 'Z' }):
		return fmt.Errorf("the currency must be three letters, such as EUR, not %.40q", a.Money.Currency)
	}
	return nil
}
