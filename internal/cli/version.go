package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

type versionView struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersion(s Surroundings) *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Tell which build this is", Args: Takes()}
	out := AddOutput(cmd, s)
	cmd.RunE = func(*cobra.Command, []string) error {
		if err := out.Validate(); err != nil {
			return err
		}
		view := buildVersion()
		return out.Print(Result{Value: view, IDs: []string{view.Version}, Tables: func(bool) []Table {
			t := Table{Headings: []string{"VERSION", "REVISION", "GO", "PLATFORM"}}
			t.Add(view.Version, OrDash(view.Revision), view.Go, view.Platform)
			return []Table{t}
		}})
	}
	return cmd
}

// buildVersion is what the Go tool wrote into the binary.
func buildVersion() versionView {
	view := versionView{Version: "unknown", Go: runtime.Version(), Platform: fmt.Sprintf("%s/%s", runtime.GOOS, runtime.GOARCH)}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return view
	}
	view.Version = build.Main.Version
	dirty := false
	for _, s := range build.Settings {
		switch s.Key {
		case "vcs.revision":
			view.Revision = s.Value
		case "vcs.modified":
			dirty = s.Value == "true"
		}
	}
	if dirty && view.Revision != "" {
		view.Revision += "+modified"
	}
	return view
}
