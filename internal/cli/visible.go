package cli

import (
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What a program prints comes mostly from elsewhere: a server's errors, what operators gave as a reason, a participant's words, a
// customer's id. None of it may steer the terminal of who reads it, look like a line of the program, or read in another order than
// it is written. So nothing here writes to a terminal but through a Printer, and a printer makes visible what it is given.

// hidden tells characters that steer a terminal or are not seen: controls, line breaks, marks that turn the direction of text.
func hidden(r rune) bool { return !unicode.IsPrint(r) && !unicode.Is(unicode.Zs, r) }

// Visible writes what is hidden in a text as Go's escapes, such as \x1b, \n and \u202e, and so the bytes that are no UTF-8. The result
// is one line.
func Visible(s string) string { return escapeHidden(s, hidden) }

// visibleLines is Visible for a text whose line breaks and tabs are our own layout.
func visibleLines(s string) string {
	return escapeHidden(s, func(r rune) bool { return r != '\n' && r != '\t' && hidden(r) })
}

func escapeHidden(s string, hidden func(rune) bool) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, hidden) {
		return s
	}
	var out strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&out, `\x%02x`, s[0])
		case hidden(r):
			quoted := strconv.QuoteRuneToASCII(r)
			out.WriteString(quoted[1 : len(quoted)-1])
		default:
			out.WriteRune(r)
		}
		s = s[size:]
	}
	return out.String()
}

// Printer is where results or prose go. It is no io.Writer, so that a verb cannot print past it.
type Printer struct{ To io.Writer }

// Say prints a sentence of ours. The line breaks of its format are ours; what it is given is made visible.
func (p Printer) Say(format string, args ...any) {
	_ = p.Text(fmt.Sprintf(format, shown(args)...) + "\n") // Nobody is left to be told.
}

// Text prints lines whose breaks are ours.
func (p Printer) Text(lines string) error {
	_, err := p.To.Write([]byte(visibleLines(lines)))
	return err
}

// lines is the Printer for libraries that want a writer, such as that of the flags, which prints help.
func (p Printer) lines() io.Writer { return lineWriter(p) }

type lineWriter Printer

func (w lineWriter) Write(text []byte) (int, error) {
	return len(text), Printer(w).Text(string(text))
}

// shown are the values of a sentence, each made visible where it is text.
func shown(args []any) []any {
	all := make([]any, len(args))
	for i, arg := range args {
		switch value := arg.(type) {
		case error:
			all[i] = shownError{value}
		case fmt.Formatter, fmt.Stringer:
			all[i] = value // Numbers, durations and enumerations.
		default:
			if all[i] = value; reflect.ValueOf(value).Kind() == reflect.String {
				all[i] = shownText(reflect.ValueOf(value).String())
			}
		}
	}
	return all
}

// shownText is a text in a sentence.
type shownText string

func (t shownText) Format(state fmt.State, verb rune) {
	text := string(t)
	if verb != 'q' { // Which makes it visible by itself.
		text = Visible(text)
	}
	fmt.Fprintf(state, fmt.FormatString(state, verb), text)
}

// shownError is an error in a sentence, and still that error to who asks what it is.
type shownError struct{ err error }

func (e shownError) Error() string { return Explain(e.err) }
func (e shownError) Unwrap() error { return e.err }
