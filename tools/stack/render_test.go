package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
)

var update = flag.Bool("update", false, "write what is rendered to testdata")

func TestRenderingChangesOnlyWhatMustDiffer(t *testing.T) {
	r := rendering{
		Root: "/repo", Suffix: "-a1b2c3", Runtime: "/repo/.local/runtime", Resources: filepath.Join(t.TempDir(), "components"),
		Placement: "127.0.0.1:101", Scheduler: "127.0.0.1:102", Logs: "/repo/.local/log",
		Apps: map[string]renderedApp{},
	}
	for i, app := range apps {
		p := 10 * i
		r.Apps[app] = renderedApp{p + 1, p + 2, p + 3, p + 4, p + 5, map[string]string{strings.ToUpper(app) + "_DATABASE_URL": "postgres://private/" + app}}
	}
	require.NoError(t, localstack.RenderComponents(r.Resources, r.appIDs(), "../../components", "../../components/brokers/redis"))
	files, err := filepath.Glob(filepath.Join(r.Resources, "*"))
	require.NoError(t, err)
	rendered := map[string]string{}
	for _, path := range files {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		rendered[filepath.Base(path)] = string(text)
	}
	require.Contains(t, rendered["subscriptions.yaml"], "- orders-a1b2c3\n")
	delete(rendered, "subscriptions.yaml") // Its text is generated, and follows the contracts.
	r.Resources = "/repo/.local/components"
	template, err := os.ReadFile("../../dapr.yaml")
	require.NoError(t, err)
	text, err := renderTemplate(template, r)
	require.NoError(t, err)
	rendered["dapr.yaml"] = string(text)

	for name, got := range rendered {
		golden := filepath.Join("testdata", name)
		if *update {
			require.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
		}
		want, err := os.ReadFile(golden)
		require.NoError(t, err, "run the test with -update and read the difference")
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got; if it is meant, run the test with -update):\n%s", name, diff)
		}
	}
}

func TestATemplateWithAnUnknownAppIsRefused(t *testing.T) {
	_, err := renderTemplate([]byte("common: {}\napps: [{appID: stranger}]"), rendering{Apps: map[string]renderedApp{"warehouse": {}}})
	require.ErrorContains(t, err, `unknown app "stranger"`)
}
