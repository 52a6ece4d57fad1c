package main

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

func newVersion(s surroundings) *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Tell which build this is", Args: takes()}
	out := addOutput(cmd, s)
	cmd.RunE = func(*cobra.Command, []string) error {
		if err := out.validate(); err != nil {
			return err
		}
		view := buildVersion()
		return out.print(result{value: view, ids: []string{view.Version}, tables: func(bool) []table {
			t := table{headings: []string{"VERSION", "REVISION", "GO", "PLATFORM"}}
			t.add(view.Version, orDash(view.Revision), view.Go, view.Platform)
			return []table{t}
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
