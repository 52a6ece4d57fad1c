package componentcheck

import (
	"fmt"
	"strings"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/events/bus"
)

type policies struct {
	Timeouts        map[string]string   `yaml:"timeouts"`
	Retries         map[string]retry    `yaml:"retries"`
	CircuitBreakers map[string]struct{} `yaml:"circuitBreakers"`
}

type retry struct {
	Policy     string `yaml:"policy"`
	Duration   string `yaml:"duration"`
	MaxRetries *int   `yaml:"maxRetries"`
}

type targets struct {
	Components map[string]struct {
		Inbound  *policyNames `yaml:"inbound"`
		Outbound *policyNames `yaml:"outbound"`
	} `yaml:"components"`
}

type policyNames struct {
	Timeout        string `yaml:"timeout"`
	Retry          string `yaml:"retry"`
	CircuitBreaker string `yaml:"circuitBreaker"`
}

const (
	// deathNoticed is how long a sidecar takes to see that its application is dead (health checks in dapr.yaml). Deliveries in hand
	// must be tried for longer, or they become dead letters.
	deathNoticed = 4 * time.Second
	// constantPause is Dapr's default pause of a constant retry policy.
	constantPause = 5 * time.Second
)

// unlimited is the number of tries of a retry policy without a limit.
const unlimited = -1

func (p retry) times() int {
	if p.MaxRetries == nil || *p.MaxRetries < 0 {
		return unlimited
	}
	return *p.MaxRetries
}

// pause is between two tries; an exponential policy has no fixed one.
func (p retry) pause() time.Duration {
	if d, err := time.ParseDuration(p.Duration); err == nil {
		return d
	}
	return constantPause
}

// inbound finds the policies by which a component delivers.
func (r *reading) inbound(component string) (names policyNames, retries retry, timeout time.Duration, found bool) {
	for _, res := range r.resiliencies {
		target, listed := res.Spec.Targets.Components[component]
		if !listed || target.Inbound == nil {
			continue
		}
		names = *target.Inbound
		retries, found = res.Spec.Policies.Retries[names.Retry]
		timeout, _ = time.ParseDuration(res.Spec.Policies.Timeouts[names.Timeout])
		return names, retries, timeout, found
	}
	return policyNames{}, retry{}, 0, false
}

// deliveryBudget is how long a component's bounded retries go on: their pauses and a last try. It is 0 where they have no end.
func (r *reading) deliveryBudget(component string) time.Duration {
	_, retries, timeout, found := r.inbound(component)
	if !found || retries.times() == unlimited {
		return 0
	}
	return time.Duration(retries.times())*retries.pause() + timeout
}

// checkDelivery looks at what becomes of an event that its consumer does not take at once.
func (r *reading) checkDelivery() {
	r.checkPolicies()
	for i := range r.components {
		if c := &r.components[i]; strings.HasPrefix(c.Spec.Type, "pubsub.") {
			r.checkPoliciesOf(c)
		}
	}
	r.checkSubscriptions()
}

func (r *reading) checkPolicies() {
	for i, res := range r.resiliencies {
		if i > 0 {
			r.say(res.Metadata.Name, "a second resiliency, in "+res.file, "which of two policies for the same target holds depends on the order in which files are read",
				"put all policies into one resiliency")
		}
		for name := range res.Spec.Policies.Retries {
			r.checkDefault(res, name)
		}
		for name := range res.Spec.Policies.Timeouts {
			r.checkDefault(res, name)
		}
		for name := range res.Spec.Policies.CircuitBreakers {
			r.checkDefault(res, name)
		}
	}
}

// checkDefault refuses policies for everything that is not named.
func (r *reading) checkDefault(res resource, policy string) {
	if strings.HasPrefix(policy, "Default") {
		r.say(res.Metadata.Name, "policy "+policy, "it governs the workflow engine's own calls too, and cuts off or repeats what runs for a checkout",
			"give it another name and name its targets")
	}
}

func (r *reading) checkPoliciesOf(c *resource) {
	name := c.Metadata.Name
	names, retries, timeout, found := r.inbound(name)
	switch {
	case !found && names.Retry != "":
		r.say(name, fmt.Sprintf("inbound retry %q", names.Retry), "there is no policy of this name, so nothing is tried again", "define it in the same resiliency")
	case !found:
		r.say(name, "no inbound retry", "what fails once goes to the dead letters, or is lost where there are none", "give the component an inbound retry policy in the resiliency")
	case strings.EqualFold(retries.Policy, "exponential"):
		r.say(name, fmt.Sprintf("inbound retry %q is exponential", names.Retry), "it ends after 15 minutes whatever maxRetries says", "use policy constant")
	case retries.times() != unlimited && time.Duration(retries.times())*retries.pause() <= deathNoticed:
		r.say(name, fmt.Sprintf("inbound retry %q tries for %s", names.Retry, time.Duration(retries.times())*retries.pause()),
			fmt.Sprintf("an application that died is noticed after %s, and what it had in hand is with the dead letters by then", deathNoticed), "let it try for 8 s")
	}
	if timeout > 0 && timeout <= bus.HandleTimeout {
		r.say(name, fmt.Sprintf("inbound timeout %q is %s", names.Timeout, timeout),
			fmt.Sprintf("a handler may take %s and is not stopped by it, so that it runs beside its own retry", bus.HandleTimeout), "set it to 8s")
	}
	for _, res := range r.resiliencies {
		target := res.Spec.Targets.Components[name]
		for _, direction := range []struct {
			name  string
			names *policyNames
		}{{"inbound", target.Inbound}, {"outbound", target.Outbound}} {
			if direction.names != nil && direction.names.CircuitBreaker != "" {
				r.say(name, fmt.Sprintf("%s circuit breaker %q", direction.name, direction.names.CircuitBreaker),
					"both directions share it, and while it is open each delivery fails at once and goes to the dead letters", "leave circuit breakers of this component out")
			}
		}
		if c.Spec.Type == "pubsub.rabbitmq" && target.Outbound != nil && target.Outbound.Timeout != "" {
			r.say(name, fmt.Sprintf("outbound timeout %q", target.Outbound.Timeout), "RabbitMQ's component reports a publish whose time is up as done",
				"leave the outbound timeout out")
		}
	}
}

func (r *reading) checkSubscriptions() {
	pubsubs := make(map[string]bool)
	for _, c := range r.components {
		pubsubs[c.Metadata.Name] = strings.HasPrefix(c.Spec.Type, "pubsub.")
	}
	takesLetters := make(map[string]bool) // topics of dead letters
	subscribed := make(map[string]bool)
	for _, s := range r.subscriptions {
		subscribed[s.Spec.Topic] = true
		if s.Spec.DeadLetterTopic != "" {
			takesLetters[s.Spec.DeadLetterTopic] = true
		}
	}
	for _, s := range r.subscriptions {
		name := s.Metadata.Name
		if !pubsubs[s.Spec.PubSub] {
			r.say(name, fmt.Sprintf("pubsubname %q", s.Spec.PubSub), "there is no such component, so the subscription is not made and its events are not received", "name the component that carries events")
			continue
		}
		_, retries, _, found := r.inbound(s.Spec.PubSub)
		switch letters := s.Spec.DeadLetterTopic; {
		case letters == "" && !(found && retries.times() == unlimited):
			r.say(name, "no deadLetterTopic", "what is not taken after the retries is lost", "set deadLetterTopic to dlq."+s.Spec.Topic)
		case letters != "" && !subscribed[letters]:
			r.say(name, fmt.Sprintf("deadLetterTopic %q", letters), "nobody is subscribed to it, so that nobody keeps what arrives there", "subscribe the orchestrator to it")
		}
		if takesLetters[s.Spec.Topic] && !truthy(s.option("rawPayload")) {
			r.say(name, "no rawPayload", "a dead letter that is no CloudEvent is refused here once more", `set rawPayload to "true" in its metadata`)
		}
	}
}
