package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// honest is a stand-in for the orchestrator's command line that ends every order as it should.
const honest = `#!/bin/sh
case "$1 $2 $*" in
"checkout start "*declined*|"checkout start "*out-of-stock*) exit 10 ;;
"checkout status "*declined*) echo '{"status":"REJECTED","steps":[{"name":"reserve-stock","state":"done","compensation":"done"},{"name":"authorize-payment","state":"rejected"}]}' ;;
"checkout status "*out-of-stock*) echo '{"status":"REJECTED","steps":[{"name":"reserve-stock","state":"rejected"}]}' ;;
"checkout status "*) echo '{"status":"CONFIRMED","steps":[{"name":"reserve-stock","state":"done"},{"name":"authorize-payment","state":"done"},{"name":"capture-payment","state":"done"},{"name":"commit-stock","state":"done"}]}' ;;
esac
`

func TestDemonstrationPassesWhenAllIsWellAndFailsLoudlyWhenNot(t *testing.T) {
	oneCapture := `{"charges":[{"kind":"authorize"},{"kind":"capture"}]}`
	for name, c := range map[string]struct{ script, charges, want string }{
		"all is well":            {honest, oneCapture, ""},
		"a wrong exit status":    {strings.Replace(honest, "exit 10", "exit 0", 1), oneCapture, "exit status 0, want 10"},
		"stock is not released":  {strings.Replace(honest, `"compensation":"done"`, `"compensation":"pending"`, 1), oneCapture, `step reserve-stock is "done", want "done, undone"`},
		"a wrong end":            {strings.Replace(honest, "CONFIRMED", "CANCELLED", 1), oneCapture, "is CANCELLED, want CONFIRMED"},
		"charged twice":          {honest, `{"charges":[{"kind":"capture"},{"kind":"capture"}]}`, "captured"},
		"the audit finds a loss": {strings.Replace(honest, "case ", "[ $1 = audit ] && exit 8\ncase ", 1), oneCapture, "orchestrator audit: exit status 8, want 0"},
		"no command line at all": {"", oneCapture, "checkout start"},
	} {
		t.Run(name, func(t *testing.T) {
			participants := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch filepath.Base(r.URL.Path) {
				case "ListCharges":
					fmt.Fprint(w, c.charges)
				case "GetStock":
					fmt.Fprint(w, `{"on_hand":1000}`)
				default:
					http.NotFound(w, r)
				}
			}))
			defer participants.Close()
			s := testStack(t)
			var out bytes.Buffer
			s.out = &out
			require.NoError(t, s.writeEnv(map[string]string{"WAREHOUSE_URL": participants.URL, "PAYMENT_URL": participants.URL}))
			require.NoError(t, os.MkdirAll(filepath.Join(s.root, "bin"), 0o755))
			if c.script != "" {
				require.NoError(t, os.WriteFile(filepath.Join(s.root, "bin", "orchestrator"), []byte(c.script), 0o755))
			}
			require.NoError(t, os.WriteFile(s.local("log", "orchestrator.log"), []byte("the last words\n"), 0o644))

			err := s.demo(t.Context())
			if c.want == "" {
				require.NoError(t, err)
				require.Contains(t, out.String(), "All sagas ended as they should")
				return
			}
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "the last words", "it shows the ends of the logs")
		})
	}
}

func TestDemonstrationSaysWhenNothingRuns(t *testing.T) {
	require.ErrorContains(t, testStack(t).demo(t.Context()), "nothing runs here; `make up`")
}
