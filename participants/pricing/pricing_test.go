package pricing

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	pricingv1 "github.com/checkoutsaga/orchestrator/gen/pricing/v1"
	"github.com/checkoutsaga/orchestrator/gen/pricing/v1/pricingv1connect"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestANewPriceIsKeptAndTold(t *testing.T) {
	t.Parallel()
	p := start(t)
	for _, step := range []struct {
		sku      string
		currency string
		units    int64
		changed  bool
		told     []string
	}{
		{"CHAIR-OAK", "EUR", 4999, false, nil}, // What the catalogue begins with.
		{"CHAIR-OAK", "EUR", 4500, true, []string{"1: 4500 EUR"}},
		{"CHAIR-OAK", "EUR", 4500, false, []string{"1: 4500 EUR"}},
		{"CHAIR-OAK", "USD", 4950, true, []string{"1: 4500 EUR", "2: 4950 USD"}},
		{"CHAIR-OAK", "EUR", 4999, true, []string{"1: 4500 EUR", "2: 4950 USD", "3: 4999 EUR"}},
		{"CHAIR-PINE", "EUR", 2999, true, []string{"1: 2999 EUR"}}, // Not in the catalogue before.
	} {
		before := time.Now()
		res, err := p.set(t.Context(), step.sku, step.currency, step.units)
		require.NoError(t, err)
		require.Equal(t, step.changed, res.Changed, step)
		require.Equal(t, step.sku, res.Price.Sku)
		require.Equal(t, step.units, res.Price.UnitPrice.MinorUnits)
		if step.changed {
			require.WithinRange(t, res.Price.UpdatedAt.AsTime(), before.Add(-time.Second), time.Now().Add(time.Second))
		}
		require.Equal(t, step.told, p.told(t, step.sku))
		require.Contains(t, p.list(t, step.sku), fmt.Sprintf("%s %d %s", step.sku, step.units, step.currency))
	}
}

func TestI2TheSamePriceSetByManyAtOnceIsToldOnce(t *testing.T) {
	t.Parallel()
	p := start(t)
	var changed atomic.Int32
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			res, err := p.set(t.Context(), "CHAIR-OAK", "EUR", 4500)
			if assert.NoError(t, err) && res.Changed {
				changed.Add(1)
			}
		})
	}
	all.Wait()
	require.Equal(t, int32(1), changed.Load())
	require.Equal(t, []string{"1: 4500 EUR"}, p.told(t, "CHAIR-OAK"))
}

func TestI6TheLastEventOfAnArticleTellsThePriceThatItHas(t *testing.T) {
	t.Parallel()
	p := start(t)
	var all sync.WaitGroup
	for i := range 20 {
		for _, sku := range []string{"CHAIR-OAK", "TABLE-OAK"} {
			for _, currency := range []string{"EUR", "USD"} {
				all.Go(func() {
					_, err := p.set(t.Context(), sku, currency, int64(1000+i))
					assert.NoError(t, err)
				})
			}
		}
	}
	all.Wait()
	for _, sku := range []string{"CHAIR-OAK", "TABLE-OAK"} {
		told := p.told(t, sku)
		require.Len(t, told, 40)
		for _, currency := range []string{"EUR", "USD"} {
			ofCurrency := slices.DeleteFunc(slices.Clone(told), func(s string) bool { return !strings.HasSuffix(s, currency) })
			_, last, _ := strings.Cut(ofCurrency[len(ofCurrency)-1], ": ")
			require.Contains(t, p.list(t, sku), sku+" "+last)
		}
	}
}

func TestI5APriceIsToldIfAndOnlyIfItWasCommitted(t *testing.T) {
	t.Parallel()
	p := start(t)
	// Fails at the commit, when all is written.
	const fail = `
		CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the disk is full'; END $$;
		CREATE CONSTRAINT TRIGGER fail AFTER INSERT OR UPDATE ON prices DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()`
	_, err := p.service.store.pool.Exec(t.Context(), fail)
	require.NoError(t, err)
	_, err = p.set(t.Context(), "CHAIR-OAK", "EUR", 4500)
	require.Equal(t, connect.CodeInternal, connect.CodeOf(err))
	require.Empty(t, p.told(t, "CHAIR-OAK"))
	require.Contains(t, p.list(t, "CHAIR-OAK"), "CHAIR-OAK 4999 EUR")

	_, err = p.service.store.pool.Exec(t.Context(), `DROP TRIGGER fail ON prices`)
	require.NoError(t, err)
	res, err := p.set(t.Context(), "CHAIR-OAK", "EUR", 4500)
	require.NoError(t, err)
	require.True(t, res.Changed)
	require.Equal(t, []string{"1: 4500 EUR"}, p.told(t, "CHAIR-OAK"))
}

func TestPricesAreListedByArticleAndCurrency(t *testing.T) {
	t.Parallel()
	p := start(t)
	all := p.list(t, "")
	require.Len(t, all, 40)
	require.Equal(t, []string{"ARMCHAIR-WOOL 34900 EUR", "ARMCHAIR-WOOL 38390 USD", "BASKET-WILLOW 1799 EUR"}, all[:3])
	require.Equal(t, []string{"COAT-RACK 5499 EUR", "COAT-RACK 6048 USD"}, p.list(t, "COAT-RACK"))
	require.Empty(t, p.list(t, "NO-SUCH-CHAIR"))
}

// They may part later, when either catalogue is changed by a migration of its own: then this test has served.
func TestTheCatalogueBeginsAsTheOrchestratorsPriceList(t *testing.T) {
	t.Parallel()
	row := regexp.MustCompile(`\('([A-Z-]+)', '([A-Z]{3})', ([0-9]+)\)`)
	read := func(file string) (rows []string) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, found := range row.FindAllStringSubmatch(string(text), -1) {
			rows = append(rows, strings.Join(found[1:], " "))
		}
		slices.Sort(rows)
		return rows
	}
	ours := read("migrations/00001_prices.sql")
	require.Len(t, ours, 40)
	require.Equal(t, read("../../internal/checkout/orders/migrations/0001_orders.sql"), ours)
}

func TestI9BadInputIsRefusedWithItsField(t *testing.T) {
	t.Parallel()
	p := start(t)
	for _, c := range []struct {
		sku, currency string
		units         int64
		says          string
	}{
		{"", "EUR", 1, "sku: is missing"},
		{"OAK CHAIR", "EUR", 1, "sku: must not contain spaces"},
		{strings.Repeat("A", 65), "EUR", 1, "sku: must not be longer"},
		{"CHAIR-OAK", "euro", 1, "unit_price.currency: must be a currency's three letters, such as EUR"},
		{"CHAIR-OAK", "ZZZ", 1, `unit_price.currency: there is no currency "ZZZ"`},
		{"CHAIR-OAK", "EUR", 0, "unit_price.minor_units: "},
		{"CHAIR-OAK", "EUR", -1, "unit_price.minor_units: "},
		{"CHAIR-OAK", "EUR", 1_000_000_000_001, "unit_price.minor_units: "},
		{"", "", 0, "sku: is missing; unit_price.currency: is missing; unit_price.minor_units: "},
	} {
		_, err := p.set(t.Context(), c.sku, c.currency, c.units)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), c.says)
		require.ErrorContains(t, err, c.says)
	}
	_, err := p.client.SetPrice(t.Context(), connect.NewRequest(&pricingv1.SetPriceRequest{Sku: "CHAIR-OAK"}))
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "no price at all")
	_, err = p.client.ListPrices(t.Context(), connect.NewRequest(&pricingv1.ListPricesRequest{Sku: "a b"}))
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	require.ErrorContains(t, err, "sku: ")
	require.Len(t, p.list(t, ""), 40)
	require.Empty(t, p.told(t, "CHAIR-OAK"))
}

func TestAsAProcessItTellsOnTheBus(t *testing.T) {
	t.Parallel()
	carrier := embedded.New()
	heard := make(chan bus.Delivery, 10)
	carrier.Subscribe(bus.Subscription{Topic: "pricing.price.updated", Handle: func(_ context.Context, d bus.Delivery) bus.Answer {
		heard <- d
		return bus.Success
	}})
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	p, err := process.Open(t.Context(), Kind, process.Settings{DatabaseURL: pgtest.URL(t), Listen: "127.0.0.1:0"}, log)
	require.NoError(t, err)
	p.UseEmbedded(carrier)
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- process.RunParts(ctx, log, p.Parts()...) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ran)
		p.Close()
	})
	client := pricingv1connect.NewPricingServiceClient(http.DefaultClient, p.URL())
	_, err = client.SetPrice(t.Context(), connect.NewRequest(&pricingv1.SetPriceRequest{
		Sku: "CHAIR-OAK", UnitPrice: &operationv1.Money{Currency: "EUR", MinorUnits: 4500},
	}))
	require.NoError(t, err)
	select {
	case d := <-heard:
		told, err := event.Decode(d.Topic, d.Data)
		require.NoError(t, err)
		require.Equal(t, "CHAIR-OAK", told.GetHeader().Sku)
		require.Equal(t, int64(4500), told.(*pricingv1.PriceUpdated).UnitPrice.MinorUnits)
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was told")
	}
}

// fixture is the participant on a real server and a database of its own.
type fixture struct {
	service *Service
	client  pricingv1connect.PricingServiceClient
}

func start(t *testing.T) *fixture {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	service, err := open(t.Context(), pgtest.URL(t), log)
	require.NoError(t, err)
	t.Cleanup(service.Close)
	server, err := rpcserver.Listen(rpcserver.Config{Address: "127.0.0.1:0", Ready: service.Ready, Log: log})
	require.NoError(t, err)
	service.Mount(server)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-served)
	})
	return &fixture{service: service, client: pricingv1connect.NewPricingServiceClient(http.DefaultClient, server.URL())}
}

func (f *fixture) set(ctx context.Context, sku, currency string, units int64) (*pricingv1.SetPriceResponse, error) {
	res, err := f.client.SetPrice(ctx, connect.NewRequest(&pricingv1.SetPriceRequest{
		Sku: sku, UnitPrice: &operationv1.Money{Currency: currency, MinorUnits: units},
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func (f *fixture) list(t *testing.T, sku string) (prices []string) {
	t.Helper()
	res, err := f.client.ListPrices(t.Context(), connect.NewRequest(&pricingv1.ListPricesRequest{Sku: sku}))
	require.NoError(t, err)
	for _, p := range res.Msg.Prices {
		prices = append(prices, fmt.Sprintf("%s %d %s", p.Sku, p.UnitPrice.MinorUnits, p.UnitPrice.Currency))
	}
	return prices
}

// told is what events tell of an article, in their order.
func (f *fixture) told(t *testing.T, sku string) (prices []string) {
	t.Helper()
	listed, err := f.service.store.outbox.List(t.Context(), outbox.Selection{Topic: "pricing.price.updated"}, 0, 1000)
	require.NoError(t, err)
	for _, e := range listed {
		m, err := event.Decode(e.Header.Topic, e.Data)
		require.NoError(t, err)
		if m.GetHeader().Sku == sku {
			unit := m.(*pricingv1.PriceUpdated).UnitPrice
			prices = append(prices, fmt.Sprintf("%d: %d %s", m.GetHeader().Seq, unit.MinorUnits, unit.Currency))
		}
	}
	return prices
}
