package main

import (
	"fmt"
	"path/filepath"

	"gopkg.in/yaml.v3"
)

// rendering is what a run here changes in dapr.yaml.
type rendering struct {
	// Root is the folder of dapr.yaml, where its relative paths begin.
	Root string
	// Suffix is appended to each app id: Dapr finds applications on the machine by app id alone, so two checkouts of the repository
	// would call each other's.
	Suffix string
	// Runtime is the folder with .dapr/bin/daprd; empty for the installed one.
	Runtime string
	// Resources is the folder of rendered components.
	Resources string
	// Placement and Scheduler are host:port.
	Placement, Scheduler string
	// Logs is the folder for each application's output.
	Logs string
	Apps map[string]renderedApp // by app id in dapr.yaml
}

type renderedApp struct {
	AppPort, HTTPPort, GRPCPort, InternalGRPCPort, MetricsPort int
	Env                                                        map[string]string // in place of dapr.yaml's
}

// restart runs an application again whenever it ends, as a supervisor does in production. `dapr run -f` does not.
const restart = `while :; do "$@" >>"$0" 2>&1; sleep 1; done`

// renderTemplate is dapr.yaml with these changes.
func renderTemplate(template []byte, r rendering) ([]byte, error) {
	var file map[string]any
	if err := yaml.Unmarshal(template, &file); err != nil {
		return nil, fmt.Errorf("read run template: %w", err)
	}
	common, _ := file["common"].(map[string]any)
	apps, _ := file["apps"].([]any)
	if common == nil || len(apps) != len(r.Apps) {
		return nil, fmt.Errorf("read run template: want common and %d apps", len(r.Apps))
	}
	common["resourcesPaths"] = []string{r.Resources}
	common["placementHostAddress"] = r.Placement
	common["schedulerHostAddress"] = r.Scheduler
	if r.Runtime != "" {
		common["runtimePath"] = r.Runtime
	}
	if path, ok := common["configFilePath"].(string); ok {
		common["configFilePath"] = filepath.Join(r.Resources, filepath.Base(path))
	}
	common["daprdLogDestination"], common["appLogDestination"] = "console", "console"

	ids := r.appIDs()
	for _, entry := range apps {
		app, _ := entry.(map[string]any)
		id, _ := app["appID"].(string)
		here, ok := r.Apps[id]
		if !ok {
			return nil, fmt.Errorf("read run template: unknown app %q", id)
		}
		dir, _ := app["appDirPath"].(string)
		app["appID"] = ids[id]
		app["appDirPath"] = filepath.Join(r.Root, dir)
		app["appPort"] = here.AppPort
		app["daprHTTPPort"] = here.HTTPPort
		app["daprGRPCPort"] = here.GRPCPort
		app["daprInternalGRPCPort"] = here.InternalGRPCPort
		app["metricsPort"] = here.MetricsPort
		command, _ := app["command"].([]any)
		app["command"] = append([]any{"sh", "-c", restart, filepath.Join(r.Logs, id+".log")}, command...)
		env, _ := app["env"].(map[string]any)
		for key, value := range env {
			if renamed, ok := ids[fmt.Sprint(value)]; ok {
				env[key] = renamed
			}
			if private, ok := here.Env[key]; ok {
				env[key] = private
			}
			if key == "ORCHESTRATOR_COMPONENTS" {
				env[key] = r.Resources
			}
		}
	}
	return marshal("dapr.yaml", file)
}

// appIDs are the app ids of this checkout of the repository, by those of dapr.yaml.
func (r rendering) appIDs() map[string]string {
	ids := map[string]string{}
	for id := range r.Apps {
		ids[id] = id + r.Suffix
	}
	return ids
}

func marshal(source string, content any) ([]byte, error) {
	text, err := yaml.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", source, err)
	}
	return append([]byte("# Rendered from "+source+" at each start; changes here are lost.\n"), text...), nil
}
