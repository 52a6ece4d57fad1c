package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"gopkg.in/yaml.v3"

	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
)

const root = "../.."

// subscription is what we use of Dapr's (pkg/apis/subscriptions/v2alpha1 of 1.18.2); a field that is not here is a mistake.
type subscription struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   struct{ Name string }
	Spec       struct {
		PubsubName      string `yaml:"pubsubname"`
		Topic           string
		Metadata        map[string]string
		Routes          routes
		DeadLetterTopic string `yaml:"deadLetterTopic"`
	}
	Scopes []string
}

type routes struct {
	Default string
	Rules   []rule
}

type rule struct{ Match, Path string }

// These stand for all that Dapr does with events, so they are held here too, without buf.
func TestTheSubscriptionsInComponentsAreThoseOfTheContracts(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "components", "subscriptions.yaml"))
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(string(writeSubscriptions()), string(text)), "run make generate")

	var want []subscription
	subscribe := func(pubsub, app, topic, deadLetters string, metadata map[string]string) {
		s := subscription{APIVersion: "dapr.io/v2alpha1", Kind: "Subscription", Scopes: []string{app}}
		s.Spec.PubsubName, s.Spec.Topic, s.Spec.DeadLetterTopic, s.Spec.Metadata = pubsub, topic, deadLetters, metadata
		s.Spec.Routes = routes{Default: "/events/" + topic}
		if deadLetters != "" {
			s.Spec.Routes = routes{Rules: []rule{{Match: textTrace, Path: "/events/" + topic}}}
		}
		want = append(want, s)
	}
	for _, topic := range event.Consumed() {
		for _, consumer := range topic.Consumers {
			if consumer.App != "notification" { // It streams.
				subscribe("pubsub", consumer.App, topic.Name, "dlq."+topic.Name, nil)
			}
		}
		subscribe("deadletter", "orchestrator", "dlq."+topic.Name, "", map[string]string{"rawPayload": "true"})
	}

	var found []subscription
	kubernetesName := regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	names := make(map[string]bool)
	read := yaml.NewDecoder(bytes.NewReader(text))
	read.KnownFields(true)
	for {
		var s subscription
		err := read.Decode(&s)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		require.Regexp(t, kubernetesName, s.Metadata.Name)
		require.False(t, names[s.Metadata.Name], "%s: Dapr takes one resource of a name", s.Metadata.Name)
		names[s.Metadata.Name] = true
		s.Metadata.Name = ""
		found = append(found, s)
	}
	require.ElementsMatch(t, want, found)
}

func TestTheComponentsThatSubscriptionsNameAreThereForEveryBroker(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "components", "brokers", "*", "pubsub.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, component := range []string{"pubsub", "deadletter"} {
			require.Contains(t, string(text), "\n  name: "+component+"\n", file)
		}
	}
}

func TestThePageHasEveryTopicWithItsConsumers(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "topics.md"))
	require.NoError(t, err)
	rows := make(map[string]string)
	for row := range strings.Lines(string(text)) {
		if rest, isRow := strings.CutPrefix(row, "| [`"); isRow {
			topic, _, _ := strings.Cut(rest, "`")
			rows[topic] = row
		}
	}
	require.Len(t, rows, len(event.Topics()))
	for _, topic := range event.Topics() {
		row := rows[topic.Name]
		require.Contains(t, row, "| "+topic.Owner+" |")
		require.Contains(t, row, "(#"+anchor(topic.Name)+")")
		require.Contains(t, string(text), "\n## "+topic.Name+"\n")
		require.Equal(t, len(topic.Consumers) > 0, strings.Contains(row, "`dlq."+topic.Name+"`"), row)
		for _, c := range topic.Consumers {
			only := map[bool]string{true: " (choreographed only)"}[c.ChoreographedOnly]
			require.Regexp(t, regexp.QuoteMeta("**"+c.App+"** "+c.Reaction+only)+`(<br>| \|)`, row)
		}
	}
}

func TestThePageSaysWhatTheContractsComment(t *testing.T) {
	set := contracts(t)
	for _, file := range set.File {
		file.SourceCodeInfo = &descriptorpb.SourceCodeInfo{}
		for i, m := range file.MessageType {
			file.SourceCodeInfo.Location = append(file.SourceCodeInfo.Location, &descriptorpb.SourceCodeInfo_Location{
				Path: []int32{4, int32(i)}, Span: []int32{0, 0, 0},
				LeadingComments: proto.String(" " + m.GetName() + " | came\n to pass. Later more.\n"),
			})
		}
	}
	dir := t.TempDir()
	require.NoError(t, run([]string{dir}, encoded(t, set)))
	page, err := os.ReadFile(filepath.Join(dir, "docs", "topics.md"))
	require.NoError(t, err)
	require.Contains(t, string(page), `| payment | PaymentCompleted \| came to pass. | 1 | order |`, "the table has the first sentence")
	require.Contains(t, string(page), "## payments.payment.completed\n\nPaymentCompleted | came to pass. Later more. [payment.v1.PaymentCompleted]", "the section has all")
	require.Contains(t, string(page), "| `amount` | [money](#money) |  |", "what many events have is described once")
	require.Contains(t, string(page), "| `order.items[].quantity` | number |  |")
	subscriptions, err := os.ReadFile(filepath.Join(dir, "components", "subscriptions.yaml"))
	require.NoError(t, err)
	require.Equal(t, string(writeSubscriptions()), string(subscriptions))
}

func TestContractsThatDoNotFitAreRefused(t *testing.T) {
	dir := t.TempDir()
	require.ErrorContains(t, run(nil, encoded(t, contracts(t))), "usage")
	require.ErrorContains(t, run([]string{dir}, strings.NewReader("")), "not found", "as when buf failed")
	require.ErrorContains(t, run([]string{dir}, strings.NewReader("no descriptors")), "read contracts")
	require.ErrorContains(t, run([]string{dir}, encoded(t, contracts(t))), "has no comment that says when it happens")

	set := contracts(t)
	options := &descriptorpb.MessageOptions{}
	proto.SetExtension(options, eventv1.E_Event, &eventv1.Declaration{Topic: "checkout.order.dreamt"})
	set.File[len(set.File)-1].MessageType = append(set.File[len(set.File)-1].MessageType,
		&descriptorpb.DescriptorProto{Name: proto.String("OrderDreamt"), Options: options})
	require.ErrorContains(t, run([]string{dir}, encoded(t, set)), "OrderDreamt is declared as an event, and internal/events/event does not import its package")

	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "nothing is written of contracts that do not fit")
}

// contracts are those of this build, without comments.
func contracts(t *testing.T) *descriptorpb.FileDescriptorSet {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "proto", "baseline.binpb"))
	require.NoError(t, err)
	set := &descriptorpb.FileDescriptorSet{}
	require.NoError(t, proto.Unmarshal(data, set))
	return set
}

func encoded(t *testing.T, set *descriptorpb.FileDescriptorSet) io.Reader {
	t.Helper()
	data, err := proto.Marshal(set)
	require.NoError(t, err)
	return bytes.NewReader(data)
}
