package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/participants/payment"
	"github.com/checkoutsaga/orchestrator/participants/warehouse"
)

// DevConfig is an orchestrator with its participants in the same process.
type DevConfig struct {
	// Config is the orchestrator's; its engine is the embedded one, and its participants' addresses are filled in.
	Config
	WarehouseDatabaseURL, PaymentDatabaseURL string
	WarehouseListen, PaymentListen           string
}

// DevFromEnv reads the configuration from environment variables.
func DevFromEnv(getenv func(string) string) DevConfig {
	c := DevConfig{
		Config:               FromEnv(getenv),
		WarehouseDatabaseURL: getenv("WAREHOUSE_DATABASE_URL"), PaymentDatabaseURL: getenv("PAYMENT_DATABASE_URL"),
		WarehouseListen: getenv("WAREHOUSE_LISTEN"), PaymentListen: getenv("PAYMENT_LISTEN"),
	}
	if c.WarehouseListen == "" {
		c.WarehouseListen = DefaultWarehouseListen
	}
	if c.PaymentListen == "" {
		c.PaymentListen = DefaultPaymentListen
	}
	return c
}

// Validate names every setting that is wrong.
func (c *DevConfig) Validate() error {
	c.Engine = Embedded
	wrong := []error{c.Config.Validate()}
	for _, url := range []setting{{"WAREHOUSE_DATABASE_URL", c.WarehouseDatabaseURL}, {"PAYMENT_DATABASE_URL", c.PaymentDatabaseURL}} {
		if url.value == "" {
			wrong = append(wrong, fmt.Errorf("%s: is missing; each participant has a database of its own", url.name))
		}
	}
	for _, address := range []setting{{"WAREHOUSE_LISTEN", c.WarehouseListen}, {"PAYMENT_LISTEN", c.PaymentListen}} {
		if _, _, err := net.SplitHostPort(address.value); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: must be an address such as %s, not %q", address.name, DefaultWarehouseListen, address.value))
		}
	}
	return errors.Join(wrong...)
}

func (c *DevConfig) settings() []*checkoutv1.Setting {
	return append(c.Config.settings(),
		&checkoutv1.Setting{Name: "WAREHOUSE_DATABASE_URL", Value: withoutPassword(c.WarehouseDatabaseURL)},
		&checkoutv1.Setting{Name: "PAYMENT_DATABASE_URL", Value: withoutPassword(c.PaymentDatabaseURL)})
}

// Dev is an orchestrator and its participants, each on its own database and its own address.
type Dev struct {
	*Node
	warehouse       *warehouse.Service
	payment         *payment.Service
	warehouseServer *rpcserver.Server
	paymentServer   *rpcserver.Server
}

// OpenDev opens the participants and then the orchestrator that calls them.
func OpenDev(ctx context.Context, config DevConfig, log *slog.Logger) (*Dev, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	d := &Dev{}
	if err := d.open(ctx, config, log); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Dev) open(ctx context.Context, config DevConfig, log *slog.Logger) (err error) {
	if d.warehouse, err = warehouse.Open(ctx, warehouse.Config{DatabaseURL: config.WarehouseDatabaseURL}); err != nil {
		return err
	}
	if d.payment, err = payment.Open(ctx, payment.Config{DatabaseURL: config.PaymentDatabaseURL}, log); err != nil {
		return err
	}
	if d.warehouseServer, err = rpcserver.Listen(rpcserver.Config{Address: config.WarehouseListen, Ready: d.warehouse.Ready, Log: log}); err != nil {
		return err
	}
	d.warehouse.Mount(d.warehouseServer)
	if d.paymentServer, err = rpcserver.Listen(rpcserver.Config{Address: config.PaymentListen, Ready: d.payment.Ready, Log: log}); err != nil {
		return err
	}
	d.payment.Mount(d.paymentServer)

	config.WarehouseURL, config.PaymentURL = d.warehouseServer.URL(), d.paymentServer.URL()
	d.Node, err = openNode(ctx, config.Config, config.settings(), log)
	return err
}

// WarehouseURL is where the warehouse listens.
func (d *Dev) WarehouseURL() string { return d.warehouseServer.URL() }

// PaymentURL is where payment listens.
func (d *Dev) PaymentURL() string { return d.paymentServer.URL() }

// Run serves all of it until ctx ends. The participants stop last: activities in hand still call them.
func (d *Dev) Run(ctx context.Context) error {
	return runParts(ctx, d.log, append(d.parts(),
		part{"warehouse", d.warehouseServer.Run},
		part{"payment", d.paymentServer.Run},
		part{"payment's recovery", d.payment.Run})...)
}

// Close gives back what OpenDev took. Run must have returned.
func (d *Dev) Close() {
	if d.Node != nil {
		d.Node.Close()
	}
	for _, server := range []*rpcserver.Server{d.warehouseServer, d.paymentServer} {
		if server != nil {
			_ = server.Close() // After Run the listener is closed already.
		}
	}
	if d.payment != nil {
		d.payment.Close()
	}
	if d.warehouse != nil {
		d.warehouse.Close()
	}
}
