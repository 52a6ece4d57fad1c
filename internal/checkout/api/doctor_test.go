package api_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout/api"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/sagas/doctor"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// findings are by the name of their check.
type findings map[string]*checkoutv1.Finding

func (f findings) requireFine(t *testing.T, check, detail string) {
	t.Helper()
	require.Contains(t, f, check)
	require.True(t, f[check].Ok, "%s: %s", check, f[check].Detail)
	require.Contains(t, f[check].Detail, detail)
	require.Empty(t, f[check].Mend)
}

func (f findings) requireWrong(t *testing.T, check, detail, mend string) {
	t.Helper()
	require.Contains(t, f, check)
	require.False(t, f[check].Ok, "%s: %s", check, f[check].Detail)
	require.Contains(t, f[check].Detail, detail)
	require.Contains(t, f[check].Mend, mend)
}

// examined is what Doctor finds in a process that edit makes another.
func (f *fixture) examined(t *testing.T, components api.Components, edit func(*doctor.Doctor)) findings {
	t.Helper()
	desk := checkouttest.Desk(f.store, f.engine, f.warehouse, f.payment)
	d := checkouttest.Doctor(t, f.pool, f.engine, desk)
	edit(d)
	service := api.New(api.Config{
		Store: f.store, Orders: checkouttest.Orders(f.pool), Pool: f.pool, Engine: f.engine, Definition: checkouttest.Definition(),
		Warehouse: f.warehouse, Payment: f.payment, Desk: desk,
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Doctor: d, Components: components,
	})
	answer, err := service.Doctor(t.Context(), connect.NewRequest(&checkoutv1.DoctorRequest{}))
	require.NoError(t, err)
	return byCheck(answer.Msg)
}

// beside examines a process with a sidecar.
func (f *fixture) beside(t *testing.T, sidecar doctor.Sidecar, folders ...string) findings {
	t.Helper()
	return f.examined(t, api.Components{Folders: folders}, func(d *doctor.Doctor) { d.Sidecar = sidecar })
}

func asItIs(*doctor.Doctor) {}

func byCheck(answer *checkoutv1.DoctorResponse) findings {
	found := make(findings)
	for _, finding := range answer.Findings {
		found[finding.Check] = finding
	}
	return found
}

func (w *world) examined(t *testing.T) findings {
	t.Helper()
	answer, err := w.api.Doctor(t.Context(), connect.NewRequest(&checkoutv1.DoctorRequest{}))
	require.NoError(t, err)
	return byCheck(answer.Msg)
}

// sidecar answers as daprd does; edit makes it another.
func sidecar(t *testing.T, edit func(answer map[string]any)) doctor.Sidecar {
	t.Helper()
	var subscriptions []any
	for _, topic := range event.ConsumedBy("orchestrator") {
		subscriptions = append(subscriptions, map[string]any{"pubsubname": "pubsub", "topic": topic.Name, "deadLetterTopic": bus.DeadLettersOf(topic.Name)})
	}
	for _, topic := range event.Consumed() {
		subscriptions = append(subscriptions, map[string]any{"pubsubname": "deadletter", "topic": bus.DeadLettersOf(topic.Name), "deadLetterTopic": ""})
	}
	answer := map[string]any{
		"id": "orchestrator", "runtimeVersion": localstack.DaprVersion,
		"components": []any{
			map[string]any{"name": "pubsub", "type": "pubsub.redis", "version": "v1"},
			map[string]any{"name": "deadletter", "type": "pubsub.redis", "version": "v1"},
			map[string]any{"name": "workflow-state", "type": "state.postgresql", "version": "v2", "capabilities": []string{"ETAG", "TRANSACTIONAL", "ACTOR"}},
		},
		"subscriptions": subscriptions,
		"actorRuntime":  map[string]any{"runtimeStatus": "RUNNING", "hostReady": true},
		"scheduler":     map[string]any{"connected_addresses": []string{"127.0.0.1:50006"}},
		"workflows":     map[string]any{"connectedWorkers": 1},
	}
	if edit != nil {
		edit(answer)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1.0/metadata" || r.Header.Get("dapr-api-token") != "secret" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	return doctor.Sidecar{URL: server.URL, Token: "secret"}
}

func TestDoctorKnowsWhetherItsSidecarWillDo(t *testing.T) {
	f := setup(t)
	got := f.beside(t, sidecar(t, nil))
	got.requireFine(t, "sidecar version", localstack.DaprVersion)
	require.Equal(t, localstack.DaprVersion, got["sidecar version"].Detail, "the tests run on the version that doctor expects")
	got.requireFine(t, "sidecar connections", "scheduler 127.0.0.1:50006, placement, 1 workflow worker")
	got.requireFine(t, "sidecar components", "pubsub (pubsub.redis), deadletter (pubsub.redis), workflow-state (state.postgresql)")
	got.requireFine(t, "sidecar subscriptions", "all ")
	got.requireFine(t, "component files", "ORCHESTRATOR_COMPONENTS does not name their folder")

	for name, c := range map[string]struct {
		edit          func(map[string]any)
		check, detail string
		mend          string
	}{
		"another patch will do":   {func(m map[string]any) { m["runtimeVersion"] = "1.18.5" }, "sidecar version", "1.18.5; this build was tested on", ""},
		"a build without a name":  {func(m map[string]any) { m["runtimeVersion"] = "edge" }, "sidecar version", `does not say ("edge")`, ""},
		"a newer minor version":   {func(m map[string]any) { m["runtimeVersion"] = "1.19.0" }, "sidecar version", "1.19.0, and this build was tested on", "run Dapr 1.18.2"},
		"an older minor version":  {func(m map[string]any) { m["runtimeVersion"] = "1.1.8" }, "sidecar version", "1.1.8, and", "run Dapr 1.18.2"},
		"no scheduler":            {func(m map[string]any) { delete(m, "scheduler") }, "sidecar connections", "no scheduler", "scheduler"},
		"no placement":            {func(m map[string]any) { delete(m, "actorRuntime") }, "sidecar connections", "no placement", "placement"},
		"no worker":               {func(m map[string]any) { delete(m, "workflows") }, "sidecar connections", "no workflow worker", "restart"},
		"no component for events": {func(m map[string]any) { m["components"] = m["components"].([]any)[1:] }, "sidecar components", "not loaded: pubsub", "--resources-path"},
		"no state store": {func(m map[string]any) { m["components"] = m["components"].([]any)[:2] }, "sidecar components",
			"not loaded: a state store for workflows", "--resources-path"},
		"a state store that keeps no actors": {func(m map[string]any) {
			m["components"].([]any)[2].(map[string]any)["capabilities"] = []string{"ETAG"}
		}, "sidecar components", "not loaded: a state store for workflows", "--resources-path"},
		"a topic that is not received": {func(m map[string]any) { m["subscriptions"] = m["subscriptions"].([]any)[1:] }, "sidecar subscriptions",
			"missing: " + event.ConsumedBy("orchestrator")[0].Name, "subscriptions.yaml"},
		"nothing received at all": {func(m map[string]any) { delete(m, "subscriptions") }, "sidecar subscriptions", " more", "subscriptions.yaml"},
		"a topic without dead letters": {func(m map[string]any) { m["subscriptions"].([]any)[0].(map[string]any)["deadLetterTopic"] = "" },
			"sidecar subscriptions", "without dead letters", "subscriptions.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			got := f.beside(t, sidecar(t, c.edit))
			if c.mend == "" {
				got.requireFine(t, c.check, c.detail)
				return
			}
			got.requireWrong(t, c.check, c.detail, c.mend)
		})
	}

	stranger := sidecar(t, nil)
	stranger.Token = ""
	f.beside(t, stranger).requireWrong(t, "sidecar", "401", "start it")
	f.beside(t, doctor.Sidecar{URL: "http://127.0.0.1:1"}).requireWrong(t, "sidecar", "refused", "start it")
}

func TestDoctorNamesSettingsThatLoseData(t *testing.T) {
	f := setup(t)
	side := sidecar(t, nil)
	folders := []string{"../../../components", "../../../components/brokers/redis"}
	f.beside(t, side, folders...).requireFine(t, "component files", "nothing in them loses data")

	text, err := os.ReadFile("../../../components/brokers/redis/pubsub.yaml")
	require.NoError(t, err)
	folder := t.TempDir()
	edited := strings.Replace(string(text), "  metadata:\n", "  metadata:\n    - name: maxLenApprox\n      value: \"1000\"\n", 1)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "pubsub.yaml"), []byte(edited), 0o600))
	folders[1] = folder
	f.beside(t, side, folders...).requireWrong(t, "component files: pubsub", `maxLenApprox "1000": trimming a stream takes away`, "leave maxLenApprox out")

	f.beside(t, side, filepath.Join(folder, "nowhere")).requireWrong(t, "component files", "no such file", "ORCHESTRATOR_COMPONENTS")
}

func TestDoctorCountsTheMigrationsOfAllTables(t *testing.T) {
	f := setup(t)
	f.pool = pgtest.Pool(t)
	require.NoError(t, pg.Migrate(t.Context(), f.pool, store.Migrations())) // Those of the sagas, which are not all.
	f.examined(t, api.Components{}, asItIs).requireWrong(t, "migrations", "are not applied", "restart")
	require.NoError(t, pg.Migrate(t.Context(), f.pool, checkouttest.Migrations()...))
	f.examined(t, api.Components{}, asItIs).requireFine(t, "migrations", "all applied")
}

func TestDoctorCountsCheckoutsThatNeedAttention(t *testing.T) {
	f := setup(t)
	f.examined(t, api.Components{}, asItIs).requireFine(t, "attention", "no checkout needs any")
	for _, id := range []string{"ord-1", "ord-2"} {
		f.start(t, order(withID(id)))
	}
	_, err := f.pool.Exec(t.Context(), `
		UPDATE checkouts SET status = 'NEEDS_ATTENTION',
		       attention = jsonb_build_object('since', now() - CASE order_id WHEN 'ord-1' THEN interval '2 hours' ELSE interval '1 minute' END)`)
	require.NoError(t, err)
	f.examined(t, api.Components{}, asItIs).requireWrong(t, "attention", "2 checkouts need it, the longest for 2h0m0s", "orchestrator checkout list --attention")
}

func TestI5DoctorFindsEventsThatDoNotGetOut(t *testing.T) {
	w := newWorld(t)
	w.ship(t, "ord-1")
	w.settle(t)
	got := w.examined(t)
	for _, app := range []string{"orchestrator", "warehouse", "payment", "orders", "pricing"} {
		got.requireFine(t, "outbox "+app, "nothing waits")
	}

	w.apps["payment"].stop()
	w.say(t, "payment", "ord-2", &paymentv1.PaymentAuthorized{}, &paymentv1.PaymentCompleted{Amount: price})
	w.examined(t).requireFine(t, "outbox payment", "2 events wait, the oldest (payments.payment.authorized) for 0s")
	_, err := w.apps["payment"].pool.Exec(t.Context(), `UPDATE outbox SET occurred_at = occurred_at - interval '5 minutes' WHERE published_at IS NULL`)
	require.NoError(t, err)
	w.examined(t).requireWrong(t, "outbox payment", "2 events wait, the oldest (payments.payment.authorized) for 5m0s", "look at the broker")

	w.apps["payment"].set(func(a *app) { a.down = true })
	got = w.examined(t)
	got.requireWrong(t, "outbox payment", "connection refused", "start payment")
	got.requireWrong(t, "participant payment", "connection refused", "start it")
	got.requireFine(t, "participant orders", "answers from its database")
}

func TestDoctorSaysWhomItWasNotToldOf(t *testing.T) {
	f := setup(t)
	f.examined(t, api.Components{}, asItIs).requireFine(t, "outbox orders", "was not told of it")
}

func TestI5DoctorCountsDeadLetters(t *testing.T) {
	w := newWorld(t)
	w.examined(t).requireFine(t, "dead letters", "none is open")
	w.apps["notification"].set(func(a *app) { a.failing = errors.New("no paper") })
	w.ship(t, "ord-1")
	w.settle(t)
	require.Eventually(t, func() bool { return !w.examined(t)["dead letters"].Ok }, 2*soon, 50*time.Millisecond)
	w.examined(t).requireWrong(t, "dead letters", "the oldest (orders.order.status_changed) for ", "orchestrator dead-letter list")
}
