package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"
	"gopkg.in/yaml.v3"

	"github.com/checkoutsaga/orchestrator/internal/money"
)

// The forms of output.
const (
	AsTable = "table"
	AsWide  = "wide"
	AsJSON  = "json"
	AsYAML  = "yaml"
	AsIDs   = "ids"
)

// Forms are all forms, the default first.
func Forms() []string { return []string{AsTable, AsWide, AsJSON, AsYAML, AsIDs} }

// Output prints results in the form that the caller chose.
type Output struct {
	Surroundings
	Form string
}

// AddOutput gives cmd its -o flag.
func AddOutput(cmd *cobra.Command, s Surroundings) *Output {
	o := &Output{Surroundings: s}
	cmd.Flags().StringVarP(&o.Form, "output", "o", AsTable, "form of the result: "+strings.Join(Forms(), ", "))
	CompleteFlag(cmd, "output", Forms())
	return o
}

// Validate is to be called before anything is done.
func (o *Output) Validate() error {
	if !slices.Contains(Forms(), o.Form) {
		return Usage("-o %q is none of %s", o.Form, strings.Join(Forms(), ", "))
	}
	return nil
}

// Structured tells whether the result is for programs and so has all that there is to tell.
func (o *Output) Structured() bool { return o.Form == AsJSON || o.Form == AsYAML }

// Result is what a verb found, in every form.
type Result struct {
	// Value is marshalled for json and yaml.
	Value any
	IDs   []string
	// Tables are printed one after the other; the ones without a row are left out if they are not the first.
	Tables func(wide bool) []Table
}

// Print prints a result.
func (o *Output) Print(r Result) error {
	switch o.Form {
	case AsJSON:
		return printJSON(o.Out.To, r.Value, "  ")
	case AsYAML:
		return printYAML(o.Out.To, r.Value)
	case AsIDs:
		for _, id := range r.IDs {
			if err := o.Out.Text(Visible(id) + "\n"); err != nil {
				return err
			}
		}
		return nil
	}
	for i, t := range r.Tables(o.Form == AsWide) {
		if i > 0 && len(t.Rows) == 0 {
			continue
		}
		if i > 0 {
			o.Out.Say("")
		}
		if err := t.print(o.Out.To, o.Colour); err != nil {
			return err
		}
	}
	return nil
}

// PrintOne prints one of a stream of results: in json one object a line, in yaml one document.
func (o *Output) PrintOne(r Result) error {
	switch o.Form {
	case AsJSON:
		return printJSON(o.Out.To, r.Value, "")
	case AsYAML:
		o.Out.Say("---")
	}
	return o.Print(r)
}

func printJSON(w io.Writer, value any, indent string) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indent)
	if err := encoder.Encode(value); err != nil {
		return err
	}
	_, err := w.Write(escaped(text.Bytes(), jsonEscape))
	return err
}

// printYAML goes by way of JSON, which is YAML, so that both forms have the same fields in the same order.
func printYAML(w io.Writer, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(escaped(text, yamlEscape), &document); err != nil {
		return err
	}
	plainStyle(&document)
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(&document); err != nil {
		return err
	}
	if err := encoder.Close(); err != nil {
		return err
	}
	_, err = w.Write(escaped(out.Bytes(), yamlEscape))
	return err
}

// escaped writes what is hidden in the strings of JSON, or of quoted YAML, as the form's escapes: the value is the same, and the
// terminal that shows it is not steered.
func escaped(text []byte, escape func(rune) string) []byte {
	var out bytes.Buffer
	for _, r := range string(text) {
		if r < 0x7f || !hidden(r) {
			out.WriteRune(r)
		} else {
			out.WriteString(escape(r))
		}
	}
	return out.Bytes()
}

// jsonEscape writes what is beyond 16 bits as two.
func jsonEscape(r rune) string {
	var text strings.Builder
	for _, unit := range utf16.Encode([]rune{r}) {
		fmt.Fprintf(&text, `\u%04x`, unit)
	}
	return text.String()
}

func yamlEscape(r rune) string { return fmt.Sprintf(`\U%08x`, r) }

// plainStyle takes JSON's braces and quotes from a node; the encoder quotes again what needs it. What has hidden characters keeps its
// quotes, because only between those they can be escaped.
func plainStyle(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode && !strings.ContainsFunc(n.Value, hidden) {
		n.Style = 0
	}
	for _, child := range n.Content {
		plainStyle(child)
	}
}

// Table is rows below headings.
type Table struct {
	Headings []string
	Rows     [][]string
}

// Add adds a row.
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

const columnGap = 3

func (t *Table) print(w io.Writer, colour bool) error {
	widths := make([]int, len(t.Headings))
	lines := append([][]string{t.Headings}, t.Rows...)
	for _, line := range lines {
		for i := range line {
			line[i] = Visible(line[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(line[i]))
		}
	}
	var text strings.Builder
	for _, line := range lines {
		var row strings.Builder
		for i, cell := range line {
			row.WriteString(paint(cell, colour))
			row.WriteString(strings.Repeat(" ", widths[i]+columnGap-utf8.RuneCountInString(cell)))
		}
		text.WriteString(strings.TrimRight(row.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// ANSI colours of the words that tell good from bad.
const (
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	red    = "\x1b[31m"
	plain  = "\x1b[0m"
)

func paint(cell string, colour bool) string {
	if !colour {
		return cell
	}
	switch cell {
	case "CONFIRMED", "done", "ok":
		return green + cell + plain
	case "RUNNING", "COMPENSATING", "AWAITING_APPROVAL", "running", "pending":
		return yellow + cell + plain
	case "NEEDS_ATTENTION", "REJECTED", "CANCELLED", "EXPIRED", "rejected", "refused", "failing", "failed", "unknown", "not known", "WRONG":
		return red + cell + plain
	}
	return cell
}

// Age is how long ago t was, in its largest unit.
func (s Surroundings) Age(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return Span(s.Now().Sub(*t))
}

// Span is a duration of which only the largest unit matters.
func Span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// Amount is money as people write it.
func Amount(m *MoneyView) string {
	if m == nil {
		return "-"
	}
	return money.Format(m.MinorUnits, m.Currency)
}

// OrDash is a cell that is never empty.
func OrDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Until is how long it is until t.
func (s Surroundings) Until(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return "in " + Span(t.Sub(s.Now()))
}

// MoneyView is money in json and yaml.
type MoneyView struct {
	Currency   string `json:"currency"`
	MinorUnits int64  `json:"minor_units"`
}

// ViewMoney is money as it came over the wire; nil where none did.
func ViewMoney[M interface {
	comparable
	GetCurrency() string
	GetMinorUnits() int64
}](m M) *MoneyView {
	var none M
	if m == none {
		return nil
	}
	return &MoneyView{Currency: m.GetCurrency(), MinorUnits: m.GetMinorUnits()}
}

// ViewTime is a time as it came over the wire; nil where none did.
func ViewTime(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	utc := t.AsTime()
	return &utc
}

// Object is an object of json whose fields keep their order, for what has fields that are only known when it runs.
type Object []Field

// Field is one field of an Object. Its name is a word of ours.
type Field struct {
	Name  string
	Value any
}

// With is the object with one more field.
func (o Object) With(name string, value any) Object {
	return append(slices.Clip(o), Field{name, value})
}

// MarshalJSON writes the fields one after the other.
func (o Object) MarshalJSON() ([]byte, error) {
	text := []byte{'{'}
	for i, f := range o {
		var value bytes.Buffer
		encoder := json.NewEncoder(&value)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(f.Value); err != nil {
			return nil, err
		}
		if i > 0 {
			text = append(text, ',')
		}
		text = append(append(strconv.AppendQuote(text, f.Name), ':'), value.Bytes()...)
	}
	return append(text, '}'), nil
}
