package componentcheck

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/events/bus"
)

// publishAttempts is how often RabbitMQ's component tries to publish, and publishBudget how long a caller of ours waits for it.
const (
	publishAttempts = 3
	publishBudget   = 5 * time.Second
)

// checkPubSubs looks at the components that carry events.
func (r *reading) checkPubSubs() {
	for i := range r.components {
		c := &r.components[i]
		broker, isPubSub := strings.CutPrefix(c.Spec.Type, "pubsub.")
		if !isPubSub {
			continue
		}
		r.checkConsumers(c)
		switch broker {
		case "in-memory":
			r.say(c.Metadata.Name, "pubsub.in-memory", "it reaches nobody but its own sidecar, and a restart loses what waits", "use Redis, RabbitMQ or Kafka")
		case "redis":
			r.checkRedis(c)
		case "rabbitmq":
			r.checkRabbitMQ(c)
		case "kafka":
			r.checkKafka(c)
		}
	}
	r.checkKafkaGroups()
}

// checkConsumers looks at which applications are one consumer. Without consumerID each is one, with all its replicas.
func (r *reading) checkConsumers(c *resource) {
	id, set := c.get("consumerID")
	if !set || id.elsewhere {
		return
	}
	mend := "leave consumerID out, or begin it with {appID}"
	switch {
	case strings.Contains(id.value, "{uuid}"), strings.Contains(id.value, "{podName}"):
		r.say(c.Metadata.Name, c.shown("consumerID"), "each start is a new consumer, and what the one before had not taken stays with it", mend)
	case !strings.Contains(id.value, "{appID}") && len(c.Scopes) != 1:
		r.say(c.Metadata.Name, c.shown("consumerID"), "all applications are one consumer, so that an event reaches one of them and not the others", mend)
	}
}

func (r *reading) checkRedis(c *resource) {
	name := c.Metadata.Name
	for _, trimming := range []string{"maxLenApprox", "streamTTL"} {
		if s, set := c.get(trimming); set && s.value != "0" && s.value != "0s" {
			r.say(name, c.shown(trimming), "trimming a stream takes away what nobody has read yet, too", "leave "+trimming+" out; trim by hand what all have read")
		}
	}
	if s, set := c.get("redeliverInterval"); set && !s.elsewhere {
		d, bare, ok := milliseconds(s.value)
		switch {
		case !ok || !bare:
			r.say(name, c.shown("redeliverInterval"), "it reads whole milliseconds only and takes no notice of anything else: 15 s hold",
				fmt.Sprintf("set redeliverInterval to %q", "5000"))
		case d == 0:
			r.say(name, c.shown("redeliverInterval"), "what a killed sidecar had in hand never comes again", fmt.Sprintf("set redeliverInterval to %q", "5000"))
		case d < bus.HandleTimeout:
			r.say(name, c.shown("redeliverInterval"), fmt.Sprintf("a handler may take %s, and what waits in the sidecar would be fetched again meanwhile", bus.HandleTimeout),
				fmt.Sprintf("set redeliverInterval to %q or more", "5000"))
		}
	}
	if s, set := c.get("processingTimeout"); set && !s.elsewhere {
		d, _, ok := milliseconds(s.value)
		needed := r.deliveryBudget(name)
		switch {
		case !ok || d == 0:
			r.say(name, c.shown("processingTimeout"), "what a killed sidecar had in hand never comes again", `set processingTimeout to "20s"`)
		case d <= needed:
			r.say(name, c.shown("processingTimeout"), fmt.Sprintf("the retries of a delivery take %s, and another delivery begins beside them", needed),
				"make it longer than that, or have fewer retries")
		}
	}
	if s, set := c.get("readTimeout"); !set || strings.HasPrefix(s.value, "-") || s.value == "0" || s.value == "0s" {
		r.say(name, c.shown("readTimeout"), "a reader that was stopped, because its application was down, goes on waiting and takes the next message with it",
			`set readTimeout to "30s"`)
	}
}

func (r *reading) checkRabbitMQ(c *resource) {
	name := c.Metadata.Name
	for _, rule := range []struct {
		setting, want string
		needed        bool // missing is a mistake too
		why           string
	}{
		{"durable", "true", false, "queues and exchanges, with what they hold, vanish with the broker's restart"},
		{"deletedWhenUnused", "false", true, "a queue vanishes, with what it holds, when its last consumer stops"},
		{"autoAck", "false", false, "what a sidecar had in hand when it stopped is gone"},
		{"requeueInFailure", "true", true, "what a stopping sidecar has in hand is thrown away"},
		{"publisherConfirm", "true", true, "a publish succeeds before the broker has the message"},
	} {
		s, set := c.get(rule.setting)
		if s.elsewhere || !set && !rule.needed || set && truthy(s.value) == truthy(rule.want) {
			continue
		}
		r.say(name, c.shown(rule.setting), rule.why, fmt.Sprintf("set %s to %q", rule.setting, rule.want))
	}
	if s, _ := c.get("deliveryMode"); !s.elsewhere && s.value != "2" {
		r.say(name, c.shown("deliveryMode"), "messages are not written to disk, so that the broker's restart loses what is in a durable queue",
			`set deliveryMode to "2"`)
	}
	if s, _ := c.get("prefetchCount"); !s.elsewhere {
		if n, err := strconv.Atoi(s.value); err != nil || n < 1 || n > 255 {
			r.say(name, c.shown("prefetchCount"), "all that waits is handed over at once, and is in nobody's queue when the sidecar is killed or runs out of memory",
				`set prefetchCount to "50"`)
		}
	}
	for _, bound := range []string{"maxLen", "maxLenBytes", "ttlInSeconds"} {
		if s, set := c.get(bound); set && s.value != "0" {
			r.say(name, c.shown(bound), "the broker throws away what is beyond it, the oldest first", "leave "+bound+" out")
		}
	}
	if s, set := c.get("reconnectWaitSeconds"); !s.elsewhere {
		// Left out it is 3 s.
		seconds, err := strconv.Atoi(s.value)
		if !set || err != nil || time.Duration(seconds)*time.Second*publishAttempts >= publishBudget {
			r.say(name, c.shown("reconnectWaitSeconds"),
				fmt.Sprintf("a publish is tried %d times, so far apart, and is reported as done if that takes longer than its caller waits (%s)", publishAttempts, publishBudget),
				`set reconnectWaitSeconds to "1"`)
		}
	}
}

func (r *reading) checkKafka(c *resource) {
	name := c.Metadata.Name
	if s, _ := c.get("initialOffset"); !s.elsewhere && !strings.EqualFold(s.value, "oldest") {
		r.say(name, c.shown("initialOffset"), "a consumer's first start misses what was published before", `set initialOffset to "oldest"`)
	}
	if s, set := c.get("producerRequiredAcks"); set && !s.elsewhere && !strings.EqualFold(s.value, "all") {
		r.say(name, c.shown("producerRequiredAcks"), "a publish succeeds before all replicas have the message, and is lost with the broker that had it",
			`set producerRequiredAcks to "all"`)
	}
	if s, set := c.get("consumeRetryEnabled"); set && !s.elsewhere && !truthy(s.value) {
		r.say(name, c.shown("consumeRetryEnabled"), "a message that could not be given to the dead letters is skipped", "leave consumeRetryEnabled out")
	}
	if s, set := c.get("backOffMaxRetries"); set && !s.elsewhere && s.value != "-1" {
		r.say(name, c.shown("backOffMaxRetries"), "a message that could not be given to the dead letters so often is skipped", "leave backOffMaxRetries out")
	}
}

// checkKafkaGroups looks for components in one consumer group that take different topics.
func (r *reading) checkKafkaGroups() {
	first := make(map[[2]string]string)
	for i := range r.components {
		c := &r.components[i]
		if c.Spec.Type != "pubsub.kafka" {
			continue
		}
		group, set := c.get("consumerGroup")
		if !set {
			group, set = c.get("consumerID")
		}
		if set && group.elsewhere {
			continue
		}
		brokers, _ := c.get("brokers")
		key := [2]string{brokers.value, group.value}
		if other, taken := first[key]; taken {
			r.say(c.Metadata.Name, c.shown("consumerID"), "it is in one consumer group with "+other+", and each change of one stops the other",
				fmt.Sprintf(`set consumerID to "{appID}-%s"`, c.Metadata.Name))
			continue
		}
		first[key] = c.Metadata.Name
	}
}

// checkStates looks at where the workflow engine keeps its histories.
func (r *reading) checkStates() {
	var actors []*resource
	for i := range r.components {
		c := &r.components[i]
		if !strings.HasPrefix(c.Spec.Type, "state.") {
			continue
		}
		s, set := c.get("actorStateStore")
		if !set || !s.elsewhere && !truthy(s.value) {
			continue
		}
		if c.Spec.Type == "state.in-memory" {
			r.say(c.Metadata.Name, "state.in-memory", "a restart of the sidecar loses the workflows of all open checkouts", "use state.postgresql, version v2")
		}
		for _, other := range actors {
			if overlap(c.Scopes, other.Scopes) {
				r.say(c.Metadata.Name, "actorStateStore beside that of "+other.Metadata.Name, "a sidecar takes one of them, after a restart perhaps the other, without the workflows of the first",
					"leave actorStateStore to one component")
			}
		}
		actors = append(actors, c)
	}
	if len(actors) == 0 {
		r.say("state store", "no component with actorStateStore", "workflows have nowhere to be kept, so that none runs", `set actorStateStore to "true" on one state component`)
	}
}

// overlap tells whether an application is in both scopes; an empty scope has all.
func overlap(a, b []string) bool {
	if len(a) == 0 || len(b) == 0 {
		return true
	}
	for _, app := range a {
		for _, other := range b {
			if app == other {
				return true
			}
		}
	}
	return false
}

// checkRetention looks for an engine that forgets workflows before we are done with them.
func (r *reading) checkRetention(keep time.Duration) {
	for _, c := range r.configs {
		for _, state := range []string{"anyTerminal", "completed", "failed", "terminated"} {
			retention, set := c.Spec.Workflow.Retention[state]
			if set && (keep == 0 || retention < keep) {
				r.say(c.Metadata.Name, fmt.Sprintf("stateRetentionPolicy.%s %s", state, retention),
					"the engine forgets a workflow while its history may be asked for; the orchestrator itself purges what it no longer needs", "leave stateRetentionPolicy out")
			}
		}
	}
}
