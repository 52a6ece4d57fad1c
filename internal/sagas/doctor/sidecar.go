package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// builtAgainst is the version of Dapr that this orchestrator was built for and is tested on. Another patch of it will do; from one
// minor version to the next Dapr has changed what it does with reminders, retries and events.
const builtAgainst = "1.18.2"

// Sidecar is where a sidecar answers over HTTP.
type Sidecar struct {
	// URL is such as http://127.0.0.1:3500; empty where there is no sidecar.
	URL string
	// Token is DAPR_API_TOKEN; empty where the sidecar asks for none.
	Token string
}

// Metadata is what a sidecar tells of itself.
type Metadata struct {
	Version       string      `json:"runtimeVersion"`
	Components    []component `json:"components"`
	Subscriptions []struct {
		PubSub      string `json:"pubsubname"`
		Topic       string `json:"topic"`
		DeadLetters string `json:"deadLetterTopic"`
	} `json:"subscriptions"`
	Actors struct {
		HostReady bool `json:"hostReady"`
	} `json:"actorRuntime"`
	Scheduler struct {
		Addresses []string `json:"connected_addresses"`
	} `json:"scheduler"`
	Workflows struct {
		Workers int `json:"connectedWorkers"`
	} `json:"workflows"`
}

type component struct {
	Name         string   `json:"name"`
	Type         string   `json:"type"`
	Capabilities []string `json:"capabilities"`
}

// keepsWorkflows tells whether it may be where workflows are kept. Which one is, of several, a sidecar does not tell.
func (c component) keepsWorkflows() bool {
	return strings.HasPrefix(c.Type, "state.") && slices.Contains(c.Capabilities, "ACTOR")
}

// Metadata asks the sidecar.
func (s Sidecar) Metadata(ctx context.Context) (m Metadata, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/v1.0/metadata", nil)
	if err != nil {
		return m, err
	}
	if s.Token != "" {
		req.Header.Set("dapr-api-token", s.Token)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return m, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return m, errors.New("it answers " + answer.Status)
	}
	return m, json.NewDecoder(answer.Body).Decode(&m)
}

// sidecar looks at this process's sidecar: that it is the one we know, that it is connected to what workflows need, and that it has
// loaded what they, and events, go through.
func (d *Doctor) sidecar(ctx context.Context) []Finding {
	if d.Sidecar.URL == "" {
		return nil
	}
	m, err := d.Sidecar.Metadata(ctx)
	if err != nil {
		return []Finding{Wrong("sidecar", "cannot be asked: "+err.Error(), "start it, and look at its log")}
	}
	found := []Finding{sidecarVersion(m.Version), sidecarConnections(m), sidecarComponents(m, d.PubSubs)}
	if d.Subscriptions != nil {
		found = append(found, d.Subscriptions(m))
	}
	return found
}

func sidecarVersion(version string) Finding {
	const name = "sidecar version"
	minor := builtAgainst[:strings.LastIndex(builtAgainst, ".")+1]
	switch {
	case version == builtAgainst:
		return Fine(name, "%s", version)
	case strings.HasPrefix(version, minor):
		return Fine(name, "%s; this build was tested on %s", version, builtAgainst)
	case version == "" || version[0] < '0' || version[0] > '9': // Such as "edge".
		return Fine(name, "a build that does not say (%q); this one was tested on %s", version, builtAgainst)
	}
	return Wrong(name, fmt.Sprintf("%s, and this build was tested on %s alone", version, builtAgainst), "run Dapr "+builtAgainst)
}

func sidecarConnections(m Metadata) Finding {
	const name = "sidecar connections"
	switch {
	case len(m.Scheduler.Addresses) == 0:
		return Wrong(name, "no scheduler, so that no workflow goes on", "start Dapr's scheduler, or mend --scheduler-host-address of the sidecar")
	case !m.Actors.HostReady:
		return Wrong(name, "no placement, so that no workflow goes on", "start Dapr's placement, or mend --placement-host-address of the sidecar")
	case m.Workflows.Workers == 0:
		return Wrong(name, "no workflow worker of ours", "restart the orchestrator; if that does not help, its sidecar")
	}
	return Fine(name, "scheduler %s, placement, %s", strings.Join(m.Scheduler.Addresses, " "), Number(m.Workflows.Workers, "workflow worker", "workflow workers"))
}

func sidecarComponents(m Metadata, pubsubs []string) Finding {
	const name = "sidecar components"
	var loaded, missing []string
	look := func(what string, is func(component) bool) {
		found := slices.IndexFunc(m.Components, is)
		if found < 0 {
			missing = append(missing, what)
			return
		}
		loaded = append(loaded, fmt.Sprintf("%s (%s)", m.Components[found].Name, m.Components[found].Type))
	}
	for _, name := range pubsubs {
		look(name, func(c component) bool { return c.Name == name && strings.HasPrefix(c.Type, "pubsub.") })
	}
	look("a state store for workflows", component.keepsWorkflows)
	if len(missing) > 0 {
		return Wrong(name, "not loaded: "+strings.Join(missing, ", "), "name their folders in --resources-path of the sidecar (dapr.yaml), and look for them in its log")
	}
	return Fine(name, "%s", strings.Join(loaded, ", "))
}
