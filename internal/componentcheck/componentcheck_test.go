package componentcheck_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/componentcheck"
)

// ours are the folders of this repository's own files with one of the brokers.
func ours(broker string) []string {
	return []string{"../../components", filepath.Join("../../components/brokers", broker)}
}

func TestOurOwnFilesHaveNoMistake(t *testing.T) {
	for _, broker := range []string{"redis", "rabbitmq", "kafka"} {
		mistakes, resources, err := componentcheck.Check(componentcheck.Config{Folders: ours(broker)})
		require.NoError(t, err)
		require.Empty(t, mistakes, broker)
		require.Greater(t, resources, 25, "subscriptions, components, policies and the configuration")
	}
}

// copied are our files in one folder, with one text replaced by another.
func copied(t *testing.T, broker, file, old, replacement string) string {
	t.Helper()
	folder := t.TempDir()
	changed := false
	for _, from := range ours(broker) {
		files, err := filepath.Glob(filepath.Join(from, "*.yaml"))
		require.NoError(t, err)
		for _, path := range files {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			if filepath.Base(path) == file {
				edited := strings.Replace(string(text), old, replacement, 1)
				changed = edited != string(text)
				text = []byte(edited)
			}
			require.NoError(t, os.WriteFile(filepath.Join(folder, filepath.Base(path)), text, 0o600))
		}
	}
	require.True(t, changed, "%q is not in %s", old, file)
	return folder
}

func TestI5EachSettingThatLosesSomethingIsFound(t *testing.T) {
	with := func(setting, value string) [2]string {
		return [2]string{"  metadata:\n", "  metadata:\n    - name: " + setting + "\n      value: " + value + "\n"}
	}
	const secondState = `scopes:
  - orchestrator
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: other-state
spec:
  type: state.redis
  version: v1
  metadata:
    - name: actorStateStore
      value: true
`
	for name, c := range map[string]struct {
		broker, file string
		edit         [2]string
		resource     string
		setting      string
		why          string
	}{
		"redis trims by length": {"redis", "pubsub.yaml", with("maxLenApprox", `"10000"`), "pubsub", `maxLenApprox "10000"`, "nobody has read yet"},
		"redis trims by age":    {"redis", "pubsub.yaml", with("streamTTL", "24h"), "pubsub", `streamTTL "24h"`, "nobody has read yet"},
		"redis redelivers by a text": {"redis", "pubsub.yaml", [2]string{`value: "5000"`, "value: 5s"}, "pubsub", `redeliverInterval "5s"`,
			"whole milliseconds only"},
		"redis redelivers never":          {"redis", "pubsub.yaml", [2]string{`value: "5000"`, `value: "0"`}, "pubsub", `redeliverInterval "0"`, "never comes again"},
		"redis redelivers too early":      {"redis", "pubsub.yaml", [2]string{`value: "5000"`, "value: 500"}, "pubsub", `redeliverInterval "500"`, "5s"},
		"redis gives up too early":        {"redis", "pubsub.yaml", [2]string{"value: 20s", "value: 10s"}, "pubsub", `processingTimeout "10s"`, "take 16s"},
		"redis never gives up":            {"redis", "pubsub.yaml", [2]string{"value: 20s", `value: "0"`}, "pubsub", `processingTimeout "0"`, "never comes again"},
		"redis readers wait for ever":     {"redis", "pubsub.yaml", [2]string{"name: readTimeout", "name: dialTimeout"}, "pubsub", "no readTimeout", "takes the next message"},
		"a consumer for each start":       {"redis", "pubsub.yaml", with("consumerID", `"{appID}-{uuid}"`), "pubsub", `consumerID "{appID}-{uuid}"`, "new consumer"},
		"one consumer for all":            {"rabbitmq", "pubsub.yaml", with("consumerID", "checkout"), "pubsub", `consumerID "checkout"`, "all applications are one consumer"},
		"rabbitmq in memory only":         {"rabbitmq", "pubsub.yaml", [2]string{`value: "true"`, `value: "false"`}, "pubsub", `durable "false"`, "restart"},
		"rabbitmq deletes queues":         {"rabbitmq", "pubsub.yaml", [2]string{"name: deletedWhenUnused", "name: deleteWhenUnused"}, "pubsub", "no deletedWhenUnused", "last consumer"},
		"rabbitmq acknowledges at once":   {"rabbitmq", "pubsub.yaml", with("autoAck", `"true"`), "pubsub", `autoAck "true"`, "in hand"},
		"rabbitmq throws failures away":   {"rabbitmq", "pubsub.yaml", [2]string{"name: requeueInFailure", "name: x"}, "pubsub", "no requeueInFailure", "thrown away"},
		"rabbitmq does not confirm":       {"rabbitmq", "pubsub.yaml", [2]string{"name: publisherConfirm", "name: x"}, "pubsub", "no publisherConfirm", "before the broker has"},
		"rabbitmq is transient":           {"rabbitmq", "pubsub.yaml", [2]string{`value: "2"`, `value: "1"`}, "pubsub", `deliveryMode "1"`, "not written to disk"},
		"rabbitmq hands over everything":  {"rabbitmq", "pubsub.yaml", [2]string{`value: "50"`, `value: "0"`}, "pubsub", `prefetchCount "0"`, "at once"},
		"rabbitmq bounds its queues":      {"rabbitmq", "pubsub.yaml", with("maxLen", `"1000"`), "pubsub", `maxLen "1000"`, "oldest first"},
		"rabbitmq expires messages":       {"rabbitmq", "pubsub.yaml", with("ttlInSeconds", `"60"`), "pubsub", `ttlInSeconds "60"`, "throws away"},
		"rabbitmq tries too slowly":       {"rabbitmq", "pubsub.yaml", [2]string{"name: reconnectWaitSeconds", "name: x"}, "pubsub", "no reconnectWaitSeconds", "reported as done"},
		"kafka begins with the newest":    {"kafka", "pubsub.yaml", [2]string{"value: oldest", "value: newest"}, "pubsub", `initialOffset "newest"`, "first start misses"},
		"kafka says nothing of where":     {"kafka", "pubsub.yaml", [2]string{"name: initialOffset", "name: x"}, "pubsub", "no initialOffset", "first start misses"},
		"kafka waits for one replica":     {"kafka", "pubsub.yaml", with("producerRequiredAcks", "local"), "pubsub", `producerRequiredAcks "local"`, "all replicas"},
		"kafka skips what fails":          {"kafka", "pubsub.yaml", with("consumeRetryEnabled", `"false"`), "pubsub", `consumeRetryEnabled "false"`, "skipped"},
		"kafka skips after a while":       {"kafka", "pubsub.yaml", with("backOffMaxRetries", `"10"`), "pubsub", `backOffMaxRetries "10"`, "skipped"},
		"kafka has one group for both":    {"kafka", "pubsub.yaml", [2]string{"name: consumerID", "name: x"}, "deadletter", "no consumerID", "one consumer group with pubsub"},
		"the broker is in memory":         {"redis", "pubsub.yaml", [2]string{"type: pubsub.redis", "type: pubsub.in-memory"}, "pubsub", "pubsub.in-memory", "restart"},
		"workflows are in memory":         {"redis", "state.yaml", [2]string{"state.postgresql", "state.in-memory"}, "workflow-state", "state.in-memory", "all open checkouts"},
		"workflows are nowhere":           {"redis", "state.yaml", [2]string{"name: actorStateStore", "name: x"}, "state store", "no component with actorStateStore", "none runs"},
		"two stores for workflows":        {"redis", "state.yaml", [2]string{"scopes:\n  - orchestrator\n", secondState}, "other-state", "actorStateStore beside that of workflow-state", "the other"},
		"the engine forgets":              {"redis", "config.yaml", [2]string{"  workflow:\n", "  workflow:\n    stateRetentionPolicy:\n      completed: 1h\n"}, "checkoutsaga", "stateRetentionPolicy.completed 1h0m0s", "forgets"},
		"a circuit breaker inbound":       {"redis", "resiliency.yaml", [2]string{"inbound:\n", "inbound:\n          circuitBreaker: cb\n"}, "pubsub", `inbound circuit breaker "cb"`, "dead letters"},
		"a circuit breaker outbound":      {"redis", "resiliency.yaml", [2]string{"outbound:\n", "outbound:\n          circuitBreaker: cb\n"}, "pubsub", `outbound circuit breaker "cb"`, "dead letters"},
		"no inbound policy":               {"redis", "resiliency.yaml", [2]string{"        inbound:\n          timeout: delivery\n          retry: delivery\n", ""}, "pubsub", "no inbound retry", "once"},
		"an inbound policy without a try": {"redis", "resiliency.yaml", [2]string{"retry: delivery\n", "retry: deliver\n"}, "pubsub", `inbound retry "deliver"`, "no policy of this name"},
		"an exponential policy":           {"redis", "resiliency.yaml", [2]string{"policy: constant", "policy: exponential"}, "pubsub", `inbound retry "delivery" is exponential`, "15 minutes"},
		"retries that end too early":      {"redis", "resiliency.yaml", [2]string{"maxRetries: 8", "maxRetries: 3"}, "pubsub", `inbound retry "delivery" tries for 3s`, "died is noticed after 4s"},
		"a timeout below the handler's":   {"redis", "resiliency.yaml", [2]string{"delivery: 8s", "delivery: 5s"}, "pubsub", `inbound timeout "delivery" is 5s`, "beside its own retry"},
		"a publish with an end":           {"rabbitmq", "resiliency.yaml", [2]string{"outbound:\n", "outbound:\n          timeout: delivery\n"}, "pubsub", `outbound timeout "delivery"`, "as done"},
		"a policy for all":                {"redis", "resiliency.yaml", [2]string{"      delivery: 8s", "      delivery: 8s\n      DefaultTimeoutPolicy: 1s"}, "checkoutsaga", "policy DefaultTimeoutPolicy", "workflow engine's own calls"},
		"a resiliency that is not read":   {"redis", "resiliency.yaml", [2]string{"apiVersion", "kind: Configuration\n---\napiVersion"}, "checkoutsaga", "resiliency no. 2 of resiliency.yaml", "only the first"},
		"two resiliencies":                {"redis", "state.yaml", [2]string{"apiVersion", "kind: Resiliency\nmetadata: {name: more}\n---\napiVersion"}, "more", "a second resiliency, in state.yaml", "order"},
		"no dead letters":                 {"redis", "subscriptions.yaml", [2]string{"  deadLetterTopic: dlq.checkout.order.created\n", ""}, "warehouse-checkout-order-created", "no deadLetterTopic", "lost"},
		"dead letters that nobody keeps":  {"redis", "subscriptions.yaml", [2]string{"dlq.checkout.order.created", "dlq.nobody"}, "warehouse-checkout-order-created", `deadLetterTopic "dlq.nobody"`, "nobody keeps"},
		"dead letters that are events":    {"redis", "subscriptions.yaml", [2]string{`rawPayload: "true"`, `rawPayload: "false"`}, "orchestrator-dlq-checkout-order-cancelled", "no rawPayload", "no CloudEvent"},
		"a subscription to no component":  {"redis", "subscriptions.yaml", [2]string{"pubsubname: pubsub", "pubsubname: events"}, "orders-checkout-order-cancelled", `pubsubname "events"`, "not received"},
		"dead letters with an end":        {"redis", "resiliency.yaml", [2]string{"maxRetries: -1", "maxRetries: 30"}, "orchestrator-dlq-checkout-order-cancelled", "no deadLetterTopic", "lost"},
		"a file that cannot be read":      {"redis", "config.yaml", [2]string{"spec:\n", "spec:\n\t- x\n"}, "config.yaml", "its resource no. 1", "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			mistakes, _, err := componentcheck.Check(componentcheck.Config{Folders: []string{copied(t, c.broker, c.file, c.edit[0], c.edit[1])}})
			require.NoError(t, err)
			for _, m := range mistakes {
				require.NotEmpty(t, m.Mend)
				if m.Resource == c.resource && m.Setting == c.setting {
					require.Contains(t, m.Why, c.why)
					return
				}
			}
			require.Failf(t, "not found", "%s: %s; found %q", c.resource, c.setting, mistakes)
		})
	}
}

func TestWhatTheEnvironmentSetsIsNotJudged(t *testing.T) {
	for _, edit := range [][2]string{
		{"value: \"5000\"", "envRef: REDELIVER"},
		{"value: 20s", "secretKeyRef: {name: redis, key: timeout}"},
	} {
		mistakes, _, err := componentcheck.Check(componentcheck.Config{Folders: []string{copied(t, "redis", "pubsub.yaml", edit[0], edit[1])}})
		require.NoError(t, err)
		require.Empty(t, mistakes)
	}
}

func TestTheEngineMayForgetWhatIsKeptLongEnough(t *testing.T) {
	folder := copied(t, "redis", "config.yaml", "  workflow:\n", "  workflow:\n    stateRetentionPolicy:\n      anyTerminal: 168h\n")
	for keep, mistakes := range map[time.Duration]int{24 * time.Hour: 0, 168 * time.Hour: 0, 169 * time.Hour: 1, 0: 1} {
		found, _, err := componentcheck.Check(componentcheck.Config{Folders: []string{folder}, KeepWorkflows: keep})
		require.NoError(t, err)
		require.Len(t, found, mistakes, "%s", keep)
	}
}

func TestAFolderWithoutFilesIsAnError(t *testing.T) {
	_, _, err := componentcheck.Check(componentcheck.Config{Folders: []string{t.TempDir()}})
	require.ErrorContains(t, err, "there are none in")
	_, _, err = componentcheck.Check(componentcheck.Config{Folders: []string{filepath.Join(t.TempDir(), "nowhere")}})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestOnlyRegularFilesAreReadAndWhatIsSkippedIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		make func(t *testing.T, path string)
		why  string
	}{
		"a named pipe": {func(t *testing.T, path string) { require.NoError(t, syscall.Mkfifo(path, 0o600)) }, "a named pipe"},
		"a socket": {func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			require.NoError(t, err)
			t.Cleanup(func() { l.Close() })
		}, "a socket"},
		"a link to a device": {func(t *testing.T, path string) { require.NoError(t, os.Symlink("/dev/zero", path)) }, "a device"},
		"a folder":           {func(t *testing.T, path string) { require.NoError(t, os.Mkdir(path, 0o700)) }, "a folder"},
		"a link to nothing":  {func(t *testing.T, path string) { require.NoError(t, os.Symlink("nothing", path)) }, "no such file"},
		"a gigabyte": {func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, nil, 0o600))
			require.NoError(t, os.Truncate(path, 1<<30))
		}, "more than 1 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "c")
			require.NoError(t, os.CopyFS(folder, os.DirFS("../../components")))
			require.NoError(t, os.CopyFS(folder, os.DirFS("../../components/brokers/redis")))
			c.make(t, filepath.Join(folder, "odd.yaml"))
			checked := make(chan []componentcheck.Mistake, 1)
			go func() {
				mistakes, _, err := componentcheck.Check(componentcheck.Config{Folders: []string{folder}})
				assert.NoError(t, err)
				checked <- mistakes
			}()
			select {
			case mistakes := <-checked:
				require.Len(t, mistakes, 1)
				require.Equal(t, "odd.yaml", mistakes[0].Resource)
				require.Contains(t, mistakes[0].Why, c.why)
			case <-time.After(10 * time.Second):
				t.Fatal("the check hangs")
			}
		})
	}
}

func TestALinkToARegularFileIsReadAsKubernetesMountsThem(t *testing.T) {
	from, folder := copied(t, "redis", "pubsub.yaml", "value: 20s", "value: 10s"), t.TempDir()
	files, err := filepath.Glob(filepath.Join(from, "*.yaml"))
	require.NoError(t, err)
	for _, path := range files {
		require.NoError(t, os.Symlink(path, filepath.Join(folder, filepath.Base(path))))
	}
	mistakes, _, err := componentcheck.Check(componentcheck.Config{Folders: []string{folder}})
	require.NoError(t, err)
	require.NotEmpty(t, mistakes)
	require.Contains(t, mistakes[0].Setting, "processingTimeout")
}

func TestAFolderThatIsANamedPipeIsAnError(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	_, _, err := componentcheck.Check(componentcheck.Config{Folders: []string{pipe}})
	require.ErrorContains(t, err, "is a named pipe and no folder")
}
