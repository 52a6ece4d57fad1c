// Package componentcheck reads Dapr's resource files and tells which of their settings lose events or checkouts. A sidecar
// does not tell how its components are set, and starts with most of these mistakes without a word. The rules are what was learned
// about Dapr 1.18.2 (docs/decisions/0009) and hold for Redis, RabbitMQ and Kafka.
package componentcheck

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Mistake is a setting that loses something.
type Mistake struct {
	// Resource is whose it is: a component, subscription or policy by its name, or a file.
	Resource string
	// Setting is what is set, or what is missing.
	Setting string
	// Why tells what is lost.
	Why string
	// Mend is what to set instead.
	Mend string
}

func (m Mistake) String() string { return fmt.Sprintf("%s: %s: %s", m.Resource, m.Setting, m.Why) }

// Config says what is checked.
type Config struct {
	// Folders are those that the sidecar reads (--resources-path). It does not look into folders below them, and no more does this.
	Folders []string
	// KeepWorkflows is how long the engine is to know a workflow that has ended; zero is for ever.
	KeepWorkflows time.Duration
}

// Check tells the mistakes, and how many resources it has read. The error is of folders that cannot be read.
func Check(c Config) (mistakes []Mistake, resources int, err error) {
	var r reading
	for _, folder := range c.Folders {
		if err := r.readFolder(folder); err != nil {
			return nil, 0, fmt.Errorf("read component files: %w", err)
		}
	}
	if r.count == 0 {
		return nil, 0, fmt.Errorf("read component files: there are none in %s", strings.Join(c.Folders, ", "))
	}
	r.checkPubSubs()
	r.checkStates()
	r.checkDelivery()
	r.checkRetention(c.KeepWorkflows)
	return r.mistakes, r.count, nil
}

// reading is what was read so far, and what is wrong with it.
type reading struct {
	components    []resource
	subscriptions []resource
	resiliencies  []resource
	configs       []resource
	count         int
	mistakes      []Mistake
}

func (r *reading) say(resource, setting, why, mend string) {
	r.mistakes = append(r.mistakes, Mistake{Resource: resource, Setting: setting, Why: why, Mend: mend})
}

// resource is a document of a file, as far as any rule looks at it.
type resource struct {
	Kind     string `yaml:"kind"`
	Metadata struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Scopes []string `yaml:"scopes"`
	Spec   struct {
		// Of a component.
		Type string `yaml:"type"`
		// Of a component a list of names and values, of a subscription a map.
		Metadata yaml.Node `yaml:"metadata"`

		// Of a subscription.
		PubSub          string `yaml:"pubsubname"`
		Topic           string `yaml:"topic"`
		DeadLetterTopic string `yaml:"deadLetterTopic"`

		// Of a resiliency.
		Policies policies `yaml:"policies"`
		Targets  targets  `yaml:"targets"`

		// Of a configuration.
		Workflow struct {
			Retention map[string]time.Duration `yaml:"stateRetentionPolicy"`
		} `yaml:"workflow"`
	} `yaml:"spec"`

	settings map[string]setting // of a component, by name in lower case
	file     string
}

// setting is a value in a component's metadata.
type setting struct {
	value string
	// elsewhere says that the value is in the sidecar's environment or in a secret store: it is set, and nobody here knows to what.
	elsewhere bool
}

func (r *reading) readFolder(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if extension := filepath.Ext(entry.Name()); entry.IsDir() || extension != ".yaml" && extension != ".yml" {
			continue
		}
		if err := r.readFile(filepath.Join(folder, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (r *reading) readFile(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	file := filepath.Base(path)
	documents := yaml.NewDecoder(bytes.NewReader(text))
	for place := 1; ; place++ {
		var read resource
		err := documents.Decode(&read)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = read.readSettings()
		}
		if err != nil {
			r.say(file, fmt.Sprintf("its resource no. %d", place), "cannot be read, so that the sidecar goes without it: "+oneLine(err),
				"write it as Dapr has it")
			return nil // What stands behind it cannot be told apart from it.
		}
		read.file = file
		r.keep(read, place)
	}
}

func (r *reading) keep(read resource, place int) {
	r.count++
	switch read.Kind {
	case "Component":
		r.components = append(r.components, read)
	case "Subscription":
		r.subscriptions = append(r.subscriptions, read)
	case "Configuration":
		r.configs = append(r.configs, read)
	case "Resiliency":
		if place > 1 {
			r.say(read.Metadata.Name, fmt.Sprintf("resiliency no. %d of %s", place, read.file),
				"only the first resource of a file counts where policies are read: what these are for has none", "put it into a file of its own")
			return
		}
		r.resiliencies = append(r.resiliencies, read)
	}
}

// readSettings reads the metadata of a component, with values as Dapr takes them: a number or a boolean is its text.
func (res *resource) readSettings() error {
	if res.Kind != "Component" || res.Spec.Metadata.IsZero() {
		return nil
	}
	var list []struct {
		Name  string    `yaml:"name"`
		Value yaml.Node `yaml:"value"`
	}
	if err := res.Spec.Metadata.Decode(&list); err != nil {
		return err
	}
	res.settings = make(map[string]setting, len(list))
	for _, item := range list {
		res.settings[strings.ToLower(item.Name)] = setting{value: strings.TrimSpace(item.Value.Value), elsewhere: item.Value.IsZero()}
	}
	return nil
}

// get returns a setting. Dapr does not mind upper and lower case in names.
func (res *resource) get(name string) (s setting, set bool) {
	s, set = res.settings[strings.ToLower(name)]
	return s, set
}

// option returns a subscription's option.
func (res *resource) option(name string) string {
	var options map[string]string
	if res.Spec.Metadata.Decode(&options) != nil {
		return ""
	}
	return options[name]
}

// shown is a setting as it stands, or as it is missing.
func (res *resource) shown(name string) string {
	s, set := res.get(name)
	switch {
	case !set:
		return "no " + name
	case s.elsewhere:
		return name + " from elsewhere"
	}
	return name + " " + strconv.Quote(s.value)
}

// truthy reads booleans as Dapr does.
func truthy(value string) bool {
	return slices.Contains([]string{"y", "yes", "true", "t", "on", "1"}, strings.ToLower(value))
}

// milliseconds reads a duration of Redis' component, which takes a bare number for milliseconds.
func milliseconds(value string) (d time.Duration, bare, ok bool) {
	if n, err := strconv.ParseUint(value, 10, 32); err == nil {
		return time.Duration(n) * time.Millisecond, true, true
	}
	d, err := time.ParseDuration(value)
	return d, false, err == nil
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
