package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const page = "../../docs/your-own-saga.md"

// block is a block of code of the page: the file that the line above it names, its language, what stands behind that, and its text.
var block = regexp.MustCompile("(?ms)(?:^`([a-z_.]+)`:\n\n)?^```([a-z]*)(?: ([^\n]+))?\n(.*?)^```$")

// The page is the code of this example.
func TestThePageShowsThisProgram(t *testing.T) {
	for _, shown := range blocks(t) {
		if shown.language != "go" || shown.file == "trip_test.go" {
			continue
		}
		if shown.file == "" {
			text, err := os.ReadFile(shown.note)
			require.NoError(t, err)
			require.Contains(t, string(text), shown.text, "a part of %s", shown.note)
			continue
		}
		text, err := os.ReadFile(shown.file)
		require.NoError(t, err)
		require.Equal(t, string(text), shown.text)
	}
}

// So is what the README shows of it.
func TestTheReadmeShowsThisDeclaration(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, shown, found := strings.Cut(string(readme), "```go\nvar BookTrip")
	require.True(t, found)
	declaration, _, found := strings.Cut(shown, "\n}\n")
	require.True(t, found)
	text, err := os.ReadFile("main.go")
	require.NoError(t, err)
	require.Contains(t, string(text), "var BookTrip"+declaration)
}

// A reader who types what the page says gets what it says.
func TestThePageRunsAsItIsWritten(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts processes")
	}
	p := newProgram(t)
	engine, err := filepath.Abs("../..")
	require.NoError(t, err)
	typed := 0
	for _, shown := range blocks(t) {
		switch {
		case shown.file != "":
			require.NoError(t, os.WriteFile(filepath.Join(p.dir, shown.file), []byte(shown.text), 0o600))
		case shown.language == "sh" && shown.note == "": // ENGINE is set, and the folder is made.
			for line := range strings.Lines(shown.text) {
				p.typesLine(strings.TrimSpace(line), "ENGINE="+engine)
				typed++
			}
		}
	}
	require.Greater(t, typed, 20, "the page has commands")
	p.stop()
}

var exitStatus = regexp.MustCompile(` +# exit status (\d+)$`)

// typesLine types a line of the page.
func (p *program) typesLine(line, engine string) {
	p.t.Helper()
	if line == "./trip dev" {
		p.dev()
		return
	}
	want := 0
	if says := exitStatus.FindStringSubmatch(line); says != nil {
		want, _ = strconv.Atoi(says[1])
	}
	cmd := p.command()
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", line}
	// The modules are those of the engine, which are here already, so nobody needs to vouch for their sums.
	cmd.Env = append(cmd.Env, engine, "GOSUMDB=off")
	out, err := cmd.CombinedOutput()
	require.Equal(p.t, want, cmd.ProcessState.ExitCode(), "%s: %v\n%s", line, err, out)
}

type shown struct{ file, language, note, text string }

func blocks(t *testing.T) (all []shown) {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	for _, found := range block.FindAllStringSubmatch(string(text), -1) {
		all = append(all, shown{found[1], found[2], found[3], found[4]})
	}
	require.NotEmpty(t, all)
	return all
}
