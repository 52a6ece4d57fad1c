package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/checkoutsaga/orchestrator/internal/money"
)

// Forms of output.
const (
	asTable = "table"
	asWide  = "wide"
	asJSON  = "json"
	asYAML  = "yaml"
	asIDs   = "ids"
)

func forms() []string { return []string{asTable, asWide, asJSON, asYAML, asIDs} }

// output prints results in the form that the caller chose.
type output struct {
	surroundings
	form string
}

// addOutput gives cmd its -o flag.
func addOutput(cmd *cobra.Command, s surroundings) *output {
	o := &output{surroundings: s}
	cmd.Flags().StringVarP(&o.form, "output", "o", asTable, "form of the result: "+strings.Join(forms(), ", "))
	complete(cmd, "output", forms())
	return o
}

// complete offers fixed words for a flag to the shell.
func complete(cmd *cobra.Command, flag string, words []string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // The flag does not exist: a mistake in this package that every test would meet.
	}
}

// validate is to be called before anything is done.
func (o *output) validate() error {
	if !slices.Contains(forms(), o.form) {
		return usage("-o %q is none of %s", o.form, strings.Join(forms(), ", "))
	}
	return nil
}

// structured tells whether the result is for programs and so has all that there is to tell.
func (o *output) structured() bool { return o.form == asJSON || o.form == asYAML }

// result is what a verb found, in every form.
type result struct {
	// value is marshalled for json and yaml.
	value any
	ids   []string
	// tables are printed one after the other; the ones without a row are left out if they are not the first.
	tables func(wide bool) []table
}

func (o *output) print(r result) error {
	switch o.form {
	case asJSON:
		return printJSON(o.out.to, r.value, "  ")
	case asYAML:
		return printYAML(o.out.to, r.value)
	case asIDs:
		for _, id := range r.ids {
			if err := o.out.text(visible(id) + "\n"); err != nil {
				return err
			}
		}
		return nil
	}
	for i, t := range r.tables(o.form == asWide) {
		if i > 0 && len(t.rows) == 0 {
			continue
		}
		if i > 0 {
			o.out.say("")
		}
		if err := t.print(o.out.to, o.colour); err != nil {
			return err
		}
	}
	return nil
}

// printOne prints one of a stream of results: in json one object a line, in yaml one document.
func (o *output) printOne(r result) error {
	switch o.form {
	case asJSON:
		return printJSON(o.out.to, r.value, "")
	case asYAML:
		o.out.say("---")
	}
	return o.print(r)
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

// table is rows below headings.
type table struct {
	headings []string
	rows     [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

const columnGap = 3

func (t *table) print(w io.Writer, colour bool) error {
	widths := make([]int, len(t.headings))
	lines := append([][]string{t.headings}, t.rows...)
	for _, line := range lines {
		for i := range line {
			line[i] = visible(line[i])
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

// age is how long ago t was, in its largest unit.
func (s surroundings) age(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return span(s.now().Sub(*t))
}

// span is a duration of which only the largest unit matters.
func span(d time.Duration) string {
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

// amount is money as people write it.
func amount(m *moneyView) string {
	if m == nil {
		return "-"
	}
	return money.Format(m.MinorUnits, m.Currency)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
