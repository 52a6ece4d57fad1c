package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"gopkg.in/yaml.v3"
)

// rendering is what must differ between dapr.yaml and a run of it here.
type rendering struct {
	// Root is the folder of dapr.yaml; its relative paths are meant from there.
	Root string
	// Suffix is appended to each app id: Dapr finds applications on the machine by app id alone, so two checkouts of the
	// repository would call each other's.
	Suffix string
	// Runtime is the folder that holds .dapr/bin/daprd; empty: the installed one.
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

// restart runs an application again whenever it ends, as a supervisor does in production: `dapr run -f` does not.
const restart = `while :; do "$@" >>"$0" 2>&1; sleep 1; done`

// renderTemplate is dapr.yaml with what must differ.
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

	for _, entry := range apps {
		app, _ := entry.(map[string]any)
		id, _ := app["appID"].(string)
		here, ok := r.Apps[id]
		if !ok {
			return nil, fmt.Errorf("read run template: unknown app %q", id)
		}
		dir, _ := app["appDirPath"].(string)
		app["appID"] = id + r.Suffix
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
			env[key] = r.rename(value)
		}
		for key := range env {
			if value, ok := here.Env[key]; ok {
				env[key] = value
			}
		}
	}
	return marshal("dapr.yaml", file)
}

// renderResources writes the resource files of dapr.yaml's components with this checkout's app ids.
func renderResources(components string, r rendering) error {
	if err := errors.Join(os.RemoveAll(r.Resources), os.MkdirAll(r.Resources, 0o755)); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(components, "*.yaml"))
	if err != nil {
		return err
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := filepath.Base(path)
		rendered, err := renderResource(name, text, r)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(r.Resources, name), rendered, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// renderResource renames applications where a resource names them: those it is for, and those it sets policies for.
func renderResource(name string, text []byte, r rendering) ([]byte, error) {
	var resource map[string]any
	if err := yaml.Unmarshal(text, &resource); err != nil {
		return nil, fmt.Errorf("read components/%s: %w", name, err)
	}
	if scopes, ok := resource["scopes"].([]any); ok {
		for i := range scopes {
			scopes[i] = r.rename(scopes[i])
		}
	}
	spec, _ := resource["spec"].(map[string]any)
	targets, _ := spec["targets"].(map[string]any)
	if apps, ok := targets["apps"].(map[string]any); ok {
		for id := range r.Apps {
			if policy, ok := apps[id]; ok {
				delete(apps, id)
				apps[id+r.Suffix] = policy
			}
		}
	}
	return marshal("components/"+name, resource)
}

// rename gives an app id its suffix and leaves everything else as it is.
func (r rendering) rename(value any) any {
	if id, ok := value.(string); ok {
		if _, known := r.Apps[id]; known {
			return id + r.Suffix
		}
	}
	return value
}

func marshal(source string, content any) ([]byte, error) {
	text, err := yaml.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", source, err)
	}
	return append([]byte("# Rendered from "+source+" at each start; changes here are lost.\n"), text...), nil
}
