package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// Surroundings is all that a command line takes from its process, so that a test can stand in for it.
type Surroundings struct {
	In io.Reader
	// Out takes results, and Err all else.
	Out, Err Printer
	Getenv   func(string) string
	// WorkDir is where the search for .local/env begins.
	WorkDir string
	Now     func() time.Time
	// Colour says whether Out shows colours, and Terminal whether somebody types in.
	Colour, Terminal bool
}

// FromProcess are the surroundings of this very process.
func FromProcess() Surroundings {
	return Surroundings{
		In: os.Stdin, Out: Printer{os.Stdout}, Err: Printer{os.Stderr}, Getenv: os.Getenv, WorkDir: workDir(), Now: time.Now,
		Colour: isTerminal(os.Stdout) && os.Getenv("NO_COLOR") == "", Terminal: isTerminal(os.Stdin),
	}
}

// workDir is where the search for .local/env begins; without one there is none.
func workDir() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	return dir
}

// isTerminal tells a terminal from files, pipes, and the null device, which is a character device, too.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// Confirm asks whether to go on. Without an answer nothing goes on.
func (s Surroundings) Confirm(ctx context.Context) error {
	_ = s.Err.Text("go on? [y/N] ")
	typed := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(s.In).ReadString('\n') // What ends without a line is no yes.
		typed <- line
	}()
	select {
	case line := <-typed:
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return nil
		}
		return Usage("nothing was changed")
	case <-ctx.Done():
		s.Err.Say("")
		return CutShort(ctx, "nothing was changed")
	}
}

// Actor is who asks: the login name, and the one behind sudo where there is one.
func (s Surroundings) Actor() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if behind := s.Getenv("SUDO_USER"); behind != "" && behind != name {
		return fmt.Sprintf("%s (as %s)", behind, name)
	}
	return name
}

// ParseSince reads a time, or how long ago it was; empty means none.
func (s Surroundings) ParseSince(text string) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	if ago, err := time.ParseDuration(text); err == nil {
		return timestamppb.New(s.Now().Add(-ago.Abs())), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return timestamppb.New(t), nil
		}
	}
	return nil, Usage("--since %q is no time such as 2026-01-31T15:04:05Z, no date, and no duration such as 1h", text)
}
