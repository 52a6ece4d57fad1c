package sagaverbs

import (
	"bytes"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// maxDocument bounds a file with what a saga is started with.
const maxDocument = 1 << 20

// ReadDocument reads the file, or stdin where path is "-", with what a saga is started with, and what to call it in an error. Kind is
// what it must hold, such as "an input".
func ReadDocument(path string, in io.Reader, kind string) (text []byte, name string, err error) {
	name = DocumentName(path, kind)
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, name, cli.Usage("%w", err)
		}
		defer file.Close()
		in = file
	}
	text, err = io.ReadAll(io.LimitReader(in, maxDocument+1))
	switch {
	case err != nil:
		return nil, name, cli.Usage("read %s: %w", name, err)
	case len(text) > maxDocument:
		return nil, name, cli.Usage("%s is larger than 1 MiB; %s is far smaller", name, kind)
	case len(bytes.TrimSpace(text)) == 0:
		return nil, name, cli.Usage("%s is empty; it must hold %s as JSON", name, kind)
	}
	return text, name, nil
}

// DocumentName is what to call a file in an error.
func DocumentName(path, kind string) string {
	if path != "-" {
		return path
	}
	_, noun, _ := strings.Cut(kind, " ")
	return "the " + noun + " on stdin"
}

// ParseDeadline reads how long something may take; empty and zero leave it to the server.
func ParseDeadline(field, text string) (*durationpb.Duration, error) {
	if text == "" {
		return nil, nil
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return nil, cli.Usage("%s: %q is not a duration such as 15m", field, text)
	case d == 0:
		return nil, nil
	}
	return durationpb.New(d), nil
}
