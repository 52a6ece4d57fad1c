// Package componentcheck reads Dapr's resource files and tells which of their settings lose events or checkouts. A sidecar does not
// tell how its components are set, and starts with most of these mistakes without a word. The rules are for Dapr 1.18.2
// (docs/decisions/0009) with Redis, RabbitMQ and Kafka.
package componentcheck

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gopkg.in/yaml.v3"
)

// Mistake is a setting that loses something.
type Mistake struct {
	// Resource is the name of a component, subscription or policy, or a file.
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
	// Folders are those that the sidecar reads (--resources-path). It does not look into folders below them, and neither does
	// Check.
	Folders []string
	// KeepWorkflows is how long the engine must know a workflow that has ended; zero is for ever.
	KeepWorkflows time.Duration
}

// Check returns the mistakes, and how many resources it has read. The error is about folders that cannot be read.
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
	// elsewhere says that the value is in the sidecar's environment or in a secret store, so that nobody here knows it.
	elsewhere bool
}

func (r *reading) readFolder(folder string) error {
	info, err := os.Stat(folder)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is %s and no folder", folder, kindOf(info.Mode())) // Opening a named pipe would wait for a writer.
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if extension := filepath.Ext(entry.Name()); extension != ".yaml" && extension != ".yml" {
			continue
		}
		text, err := readRegular(filepath.Join(folder, entry.Name()))
		if err != nil {
			r.say(entry.Name(), "the file itself", "it is not read: "+oneLine(err), "take it away, or put a regular file of at most 1 MiB in its place")
			continue
		}
		r.readResources(entry.Name(), text)
	}
	return nil
}

// maxFileSize is a hundred times our largest file of resources, in bytes.
const maxFileSize = 1 << 20

// readRegular reads a regular file, or one that a link leads to, of at most maxFileSize. Reading anything else may wait for ever
// (a named pipe), never end (a device) or take all memory.
func readRegular(path string) ([]byte, error) {
	// A look before the open, because opening alone already acts on a device.
	info, err := os.Stat(path)
	if err != nil {
		return nil, withoutPath(err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("it is %s and no regular file", kindOf(info.Mode()))
	}
	// What was put in its place since does not hold up the open.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer file.Close()
	if info, err = file.Stat(); err != nil {
		return nil, withoutPath(err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("it is %s and no regular file", kindOf(info.Mode()))
	}
	text, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err != nil {
		return nil, withoutPath(err)
	}
	if len(text) > maxFileSize {
		return nil, errors.New("it has more than 1 MiB")
	}
	return text, nil
}

// kindOf says in words what is not a regular file.
func kindOf(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	case mode.IsRegular():
		return "a file"
	}
	return "something else"
}

// withoutPath is the error of a file that is named beside it.
func withoutPath(err error) error {
	var inPath *fs.PathError
	if errors.As(err, &inPath) {
		return inPath.Err
	}
	return err
}

func (r *reading) readResources(file string, text []byte) {
	documents := yaml.NewDecoder(bytes.NewReader(text))
	for place := 1; ; place++ {
		var read resource
		err := documents.Decode(&read)
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			err = read.readSettings()
		}
		if err != nil {
			r.say(file, fmt.Sprintf("its resource no. %d", place), "cannot be read, so that the sidecar goes without it: "+oneLine(err),
				"write it as Dapr has it")
			return // What stands behind it cannot be told apart from it.
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

// get returns a setting. Dapr ignores upper and lower case in names.
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

// shown is a setting as it stands, or says that it is missing.
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
