package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/componentcheck"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
)

// builtAgainst is the version of Dapr that this orchestrator was built for and is tested on. Another patch of it will do; from one
// minor version to the next Dapr has changed what it does with reminders, retries and events.
const builtAgainst = "1.18.2"

// Names of Dapr's components that events go through.
const (
	eventsComponent  = "pubsub"
	lettersComponent = "deadletter"
)

// SidecarAPI is where a sidecar answers over HTTP.
type SidecarAPI struct {
	// URL is such as http://127.0.0.1:3500; empty where there is no sidecar.
	URL string
	// Token is DAPR_API_TOKEN; empty where the sidecar asks for none.
	Token string
}

// sidecarMetadata is what a sidecar tells of itself.
type sidecarMetadata struct {
	ID            string             `json:"id"`
	Version       string             `json:"runtimeVersion"`
	Components    []sidecarComponent `json:"components"`
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

type sidecarComponent struct {
	Name         string   `json:"name"`
	Type         string   `json:"type"`
	Capabilities []string `json:"capabilities"`
}

func (c sidecarComponent) carries(name string) bool {
	return c.Name == name && strings.HasPrefix(c.Type, "pubsub.")
}

// keepsWorkflows tells whether it may be where workflows are kept. Which one is, of several, a sidecar does not tell.
func (c sidecarComponent) keepsWorkflows() bool {
	return strings.HasPrefix(c.Type, "state.") && slices.Contains(c.Capabilities, "ACTOR")
}

func (api SidecarAPI) metadata(ctx context.Context) (m sidecarMetadata, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api.URL+"/v1.0/metadata", nil)
	if err != nil {
		return m, err
	}
	if api.Token != "" {
		req.Header.Set("dapr-api-token", api.Token)
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

// checkSidecar looks at this process's sidecar: that it is the one we know, that it is connected to what workflows need, and that
// it has loaded what events go through.
func (s *Service) checkSidecar(ctx context.Context) []*checkoutv1.Finding {
	if s.doctor.Sidecar.URL == "" {
		return nil
	}
	m, err := s.doctor.Sidecar.metadata(ctx)
	if err != nil {
		return []*checkoutv1.Finding{wrong("sidecar", "cannot be asked: "+oneLine(err), "start it (`make up-dapr`), and look at its log")}
	}
	return []*checkoutv1.Finding{sidecarVersion(m.Version), sidecarConnections(m), sidecarComponents(m), sidecarSubscriptions(m)}
}

func sidecarVersion(version string) *checkoutv1.Finding {
	const name = "sidecar version"
	minor := builtAgainst[:strings.LastIndex(builtAgainst, ".")+1]
	switch {
	case version == builtAgainst:
		return fine(name, "%s", version)
	case strings.HasPrefix(version, minor):
		return fine(name, "%s; this build was tested on %s", version, builtAgainst)
	case version == "" || version[0] < '0' || version[0] > '9': // Such as "edge".
		return fine(name, "a build that does not say (%q); this one was tested on %s", version, builtAgainst)
	}
	return wrong(name, fmt.Sprintf("%s, and this build was tested on %s alone", version, builtAgainst), "run Dapr "+builtAgainst+" (`make up-dapr` builds it)")
}

func sidecarConnections(m sidecarMetadata) *checkoutv1.Finding {
	const name = "sidecar connections"
	switch {
	case len(m.Scheduler.Addresses) == 0:
		return wrong(name, "no scheduler, so that no workflow goes on", "start Dapr's scheduler, or mend --scheduler-host-address of the sidecar")
	case !m.Actors.HostReady:
		return wrong(name, "no placement, so that no workflow goes on", "start Dapr's placement, or mend --placement-host-address of the sidecar")
	case m.Workflows.Workers == 0:
		return wrong(name, "no workflow worker of ours", "restart the orchestrator; if that does not help, its sidecar")
	}
	return fine(name, "scheduler %s, placement, %s", strings.Join(m.Scheduler.Addresses, " "), number(m.Workflows.Workers, "workflow worker", "workflow workers"))
}

func sidecarComponents(m sidecarMetadata) *checkoutv1.Finding {
	const name = "sidecar components"
	var loaded, missing []string
	look := func(what string, is func(sidecarComponent) bool) {
		found := slices.IndexFunc(m.Components, is)
		if found < 0 {
			missing = append(missing, what)
			return
		}
		loaded = append(loaded, fmt.Sprintf("%s (%s)", m.Components[found].Name, m.Components[found].Type))
	}
	for _, name := range []string{eventsComponent, lettersComponent} {
		look(name, func(c sidecarComponent) bool { return c.carries(name) })
	}
	look("a state store for workflows", sidecarComponent.keepsWorkflows)
	if len(missing) > 0 {
		return wrong(name, "not loaded: "+strings.Join(missing, ", "), "name their folders in --resources-path of the sidecar (dapr.yaml), and look for them in its log")
	}
	return fine(name, "%s", strings.Join(loaded, ", "))
}

// sidecarSubscriptions looks for topics that this process must receive and its sidecar does not deliver.
func sidecarSubscriptions(m sidecarMetadata) *checkoutv1.Finding {
	const name = "sidecar subscriptions"
	type subscription struct{ component, topic string }
	made := make(map[subscription]bool)
	var unsafe []string
	for _, has := range m.Subscriptions {
		made[subscription{has.PubSub, has.Topic}] = true
		if !bus.IsDeadLetters(has.Topic) && has.DeadLetters == "" {
			unsafe = append(unsafe, has.Topic)
		}
	}
	var needed []subscription
	for _, topic := range event.ConsumedBy(appName) {
		needed = append(needed, subscription{eventsComponent, topic.Name})
	}
	for _, topic := range event.Consumed() {
		needed = append(needed, subscription{lettersComponent, bus.DeadLettersOf(topic.Name)})
	}
	var missing []string
	for _, wanted := range needed {
		if !made[wanted] {
			missing = append(missing, wanted.topic)
		}
	}
	const mend = "put components/subscriptions.yaml of this build among the sidecar's resources and restart it"
	switch {
	case len(missing) > 0:
		return wrong(name, fmt.Sprintf("%d of %d are missing: %s", len(missing), len(needed), some(missing)), mend)
	case len(unsafe) > 0:
		return wrong(name, "without dead letters, so that what fails is lost: "+some(unsafe), mend)
	}
	return fine(name, "all %d", len(needed))
}

// some names the first few.
func some(names []string) string {
	const few = 3
	if len(names) > few {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
	}
	return strings.Join(names, ", ")
}

// checkComponentFiles looks for settings that lose events or checkouts. Sidecars do not tell how their components are set.
func (s *Service) checkComponentFiles(context.Context) []*checkoutv1.Finding {
	const name = "component files"
	const variable = "ORCHESTRATOR_COMPONENTS"
	folders := s.doctor.ComponentFolders
	if s.doctor.Sidecar.URL == "" {
		return nil
	}
	if len(folders) == 0 {
		return []*checkoutv1.Finding{fine(name, "not looked at: %s does not name their folder", variable)}
	}
	mistakes, resources, err := componentcheck.Check(componentcheck.Config{Folders: folders, KeepWorkflows: s.doctor.KeepWorkflows})
	if err != nil {
		return []*checkoutv1.Finding{wrong(name, oneLine(err), "mend "+variable+"; it names the folders of the sidecar's --resources-path")}
	}
	if len(mistakes) == 0 {
		return []*checkoutv1.Finding{fine(name, "%s: nothing in them loses data", number(resources, "resource", "resources"))}
	}
	var found []*checkoutv1.Finding
	for _, m := range mistakes {
		found = append(found, wrong(name+": "+m.Resource, m.Setting+": "+m.Why, m.Mend+"; then restart the sidecars"))
	}
	return found
}
