package api

import (
	"context"
	"fmt"
	"strings"

	"github.com/checkoutsaga/orchestrator/internal/componentcheck"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/sagas/doctor"
)

// Names of Dapr's components that events go through.
const (
	eventsComponent  = "pubsub"
	lettersComponent = "deadletter"
)

// subscriptions looks for topics that this process must receive and its sidecar does not deliver.
func subscriptions(m doctor.Metadata) doctor.Finding {
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
	for _, topic := range event.ConsumedBy(program) {
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
		return doctor.Wrong(name, fmt.Sprintf("%d of %d are missing: %s", len(missing), len(needed), some(missing)), mend)
	case len(unsafe) > 0:
		return doctor.Wrong(name, "without dead letters, so that what fails is lost: "+some(unsafe), mend)
	}
	return doctor.Fine(name, "all %d", len(needed))
}

// some names the first few.
func some(names []string) string {
	const few = 3
	if len(names) > few {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
	}
	return strings.Join(names, ", ")
}

// check looks for settings that lose events or checkouts. Sidecars do not tell how their components are set.
func (c Components) check(context.Context) []doctor.Finding {
	const name = "component files"
	const variable = "ORCHESTRATOR_COMPONENTS"
	if len(c.Folders) == 0 {
		return []doctor.Finding{doctor.Fine(name, "not looked at: %s does not name their folder", variable)}
	}
	mistakes, resources, err := componentcheck.Check(componentcheck.Config{Folders: c.Folders, KeepWorkflows: c.KeepWorkflows})
	if err != nil {
		return []doctor.Finding{doctor.Wrong(name, err.Error(), "mend "+variable+"; it names the folders of the sidecar's --resources-path")}
	}
	if len(mistakes) == 0 {
		return []doctor.Finding{doctor.Fine(name, "%s: nothing in them loses data", doctor.Number(resources, "resource", "resources"))}
	}
	var found []doctor.Finding
	for _, m := range mistakes {
		found = append(found, doctor.Wrong(name+": "+m.Resource, m.Setting+": "+m.Why, m.Mend+"; then restart the sidecars"))
	}
	return found
}
