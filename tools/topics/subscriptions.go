package main

import (
	"fmt"
	"strings"

	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
)

const (
	// streams is the app that opens its own subscriptions, over streams. Declared here too, it would get everything twice.
	streams = "notification"
	// keeper is the app that keeps dead letters.
	keeper = "orchestrator"
)

const subscriptionsHead = `# Generated from the contracts in proto/ by tools/topics; run "make generate" and do not edit.
#
# Each app gets each of its topics at POST /events/<topic>. What it drops, or has not taken after the retries of resiliency.yaml,
# goes to dlq.<topic> on the same broker. notification is not here: it opens its subscriptions itself, over streams.
#
# What no rule matches goes there too. The rule is for daprd 1.18.2, which crashes when a trace context to be pushed is no text, and
# again at each redelivery (mended in 1.18.3): one such message would end its consumers' sidecars for good.
`

// textTrace is the condition for an event to be pushed, as a CEL expression over the envelope.
const textTrace = "(!has(event.traceparent) || type(event.traceparent) == string) && (!has(event.traceid) || type(event.traceid) == string)"

const subscriptionForm = `apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata:
  name: %s
spec:
  pubsubname: pubsub
  topic: %s
  routes:
    rules:
      - match: "` + textTrace + `"
        path: /events/%[2]s
  deadLetterTopic: %s
scopes:
  - %s
`

const deadLettersHead = `# The orchestrator keeps the dead letters of every topic, byte for byte (rawPayload): what cannot be parsed too. These have no
# dead letters of their own, and another component, so that its retries never end.
`

const deadLettersForm = `apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata:
  name: %s
spec:
  pubsubname: deadletter
  topic: %s
  metadata:
    rawPayload: "true"
  routes:
    default: /events/%[2]s
scopes:
  - %s
`

// writeSubscriptions writes Dapr's declarative subscriptions (dapr pkg/apis/subscriptions/v2alpha1).
func writeSubscriptions() []byte {
	var documents []string
	for _, topic := range event.Consumed() {
		for _, consumer := range topic.Consumers {
			if consumer.App != streams {
				documents = append(documents, fmt.Sprintf(subscriptionForm,
					resourceName(consumer.App, topic.Name), topic.Name, bus.DeadLettersOf(topic.Name), consumer.App))
			}
		}
	}
	head := deadLettersHead
	for _, topic := range event.Consumed() {
		deadLetters := bus.DeadLettersOf(topic.Name)
		documents = append(documents, head+fmt.Sprintf(deadLettersForm, resourceName(keeper, deadLetters), deadLetters, keeper))
		head = ""
	}
	return []byte(subscriptionsHead + strings.Join(documents, "---\n"))
}

// resourceName is a name in Kubernetes' form: lower-case letters, digits and hyphens.
func resourceName(app, topic string) string {
	return strings.NewReplacer(".", "-", "_", "-").Replace(app + "-" + topic)
}
