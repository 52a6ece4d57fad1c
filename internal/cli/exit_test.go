package cli

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/checkoutsaga/orchestrator/internal/process"
)

func TestAFieldThatIsWrongIsReadWithoutItsContract(t *testing.T) {
	t.Parallel()
	text := func(number protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), s)
	}
	more := protowire.AppendVarint(protowire.AppendTag(nil, 7, protowire.VarintType), 7)
	for name, c := range map[string]struct {
		kind   string
		detail []byte
		want   string
	}{
		"of any contract":     {"travel.v1.BadField", append(text(1, "from"), text(2, "is no airport")...), "refused, nothing was changed:\n  from: is no airport"},
		"in another order":    {"a.BadField", append(text(2, "is no airport"), text(1, "from")...), "refused, nothing was changed:\n  from: is no airport"},
		"with newer fields":   {"a.BadField", append(more, append(text(1, "from"), text(2, "no\x1b")...)...), "refused, nothing was changed:\n  from: no\\x1b"},
		"cut off":             {"a.BadField", text(1, "from")[:3], "bad input"},
		"of a type by chance": {"a.BadFields", text(1, "from"), "bad input"},
	} {
		refusal := connect.NewError(connect.CodeInvalidArgument, errors.New("bad input"))
		detail, err := connect.NewErrorDetail(&anypb.Any{TypeUrl: "type.googleapis.com/" + c.kind, Value: c.detail})
		require.NoError(t, err)
		refusal.AddDetail(detail)
		require.Equal(t, c.want, Explain(refusal), name)
		require.Equal(t, ExitUsage, ExitStatus(refusal))
	}
}

func TestAProgramEndsInItsOwnName(t *testing.T) {
	t.Parallel()
	stopped, stop := context.WithCancelCause(t.Context())
	stop(process.Stopped{Signal: syscall.SIGINT})
	for want, c := range map[string]struct {
		ctx    context.Context
		err    error
		status int
	}{
		"":                               {t.Context(), nil, ExitDone},
		"travelling: no\n":               {t.Context(), errors.New("no"), ExitFailed},
		"travelling: too late\n":         {t.Context(), ExitWith(ExitConflict, "too late"), ExitConflict},
		"travelling: interrupted\n":      {stopped, context.Canceled, 130},
		"travelling: nothing was done\n": {stopped, CutShort(stopped, "nothing was done"), 130},
		"it goes on\n":                   {stopped, GoesOn(stopped, "it goes on"), 130},
		"it goes on, too\n":              {t.Context(), GoesOn(t.Context(), "it goes on, too"), ExitFailed},
	} {
		var prose bytes.Buffer
		p := Program{Name: "travelling", Verbs: func(*Client) []*cobra.Command {
			return []*cobra.Command{{Use: "go", RunE: func(*cobra.Command, []string) error { return c.err }}}
		}}
		require.Equal(t, c.status, p.Run(c.ctx, []string{"go"}, Surroundings{Out: Printer{&bytes.Buffer{}}, Err: Printer{&prose}}), want)
		require.Equal(t, want, prose.String())
	}
}

func TestHelpIsInTheProgramsNameAndTellsTheExitStatuses(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := Program{Name: "travelling", Long: "travelling serve is the process.", Verbs: func(*Client) []*cobra.Command { return nil }}
	require.Zero(t, p.Run(t.Context(), []string{"--help"}, Surroundings{Out: Printer{&out}, Err: Printer{&out}}))
	require.True(t, strings.HasPrefix(out.String(), "travelling serve is the process.\n\nExit status: 0 done; 1 failed;"), out.String())
	require.Contains(t, out.String(), "\n  version     Tell which build this is\n")
}

func TestAnObjectKeepsTheOrderOfItsFields(t *testing.T) {
	t.Parallel()
	o := Object{{"z", 1}}
	first, second := o.With("a", "<b> & \"c\""), o.With("list", []string{})
	var text bytes.Buffer
	require.NoError(t, printJSON(&text, []any{first, second}, ""))
	require.Equal(t, `[{"z":1,"a":"<b> & \"c\""},{"z":1,"list":[]}]`+"\n", text.String())
	text.Reset()
	require.NoError(t, printYAML(&text, first))
	require.Equal(t, "z: 1\na: <b> & \"c\"\n", text.String())
}
