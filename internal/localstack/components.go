package localstack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gopkg.in/yaml.v3"
)

// RenderComponents writes the resource files of the folders into one new folder, with other names for applications. Dapr finds
// applications on the machine by app id alone, so two runs side by side would get each other's calls. It changes names only where a
// resource is for an application (scopes) or sets policies for one.
func RenderComponents(to string, appIDs map[string]string, folders ...string) error {
	if err := errors.Join(os.RemoveAll(to), os.MkdirAll(to, 0o755)); err != nil {
		return err
	}
	for _, folder := range folders {
		files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
		if err != nil {
			return err
		}
		if len(files) == 0 {
			return errors.New("no component files in " + folder)
		}
		for _, file := range files {
			rendered, err := renderResources(file, appIDs)
			if err != nil {
				return err
			}
			// A second file of the same name would hide the first.
			f, err := os.OpenFile(filepath.Join(to, filepath.Base(file)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return fmt.Errorf("render %s: %w", file, err)
			}
			_, err = f.Write(rendered)
			if err := errors.Join(err, f.Close()); err != nil {
				return fmt.Errorf("render %s: %w", file, err)
			}
		}
	}
	return nil
}

// renderResources is a file of one or more resources, with the applications renamed.
func renderResources(file string, appIDs map[string]string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	out := bytes.NewBufferString("# Rendered from components/" + filepath.Base(file) + " at each start; changes here are lost.\n")
	write := yaml.NewEncoder(out)
	for read := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var resource map[string]any
		err := read.Decode(&resource)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		renameApps(resource, appIDs)
		if err := write.Encode(resource); err != nil {
			return nil, fmt.Errorf("render %s: %w", file, err)
		}
	}
	return out.Bytes(), write.Close()
}

func renameApps(resource map[string]any, appIDs map[string]string) {
	scopes, _ := resource["scopes"].([]any)
	for i, scope := range scopes {
		if app, ok := scope.(string); ok && appIDs[app] != "" {
			scopes[i] = appIDs[app]
		}
	}
	spec, _ := resource["spec"].(map[string]any)
	targets, _ := spec["targets"].(map[string]any)
	apps, _ := targets["apps"].(map[string]any)
	for app, id := range appIDs {
		if policy, ok := apps[app]; ok {
			delete(apps, app)
			apps[id] = policy
		}
	}
}
