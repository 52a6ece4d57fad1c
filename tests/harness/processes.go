package harness

import (
	"fmt"
	"maps"
	"testing"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
)

// Processes is the whole system as real processes with the embedded engine. Addresses stay the same when one of them is
// killed and started again.
type Processes struct {
	System
	OrchestratorProcess, WarehouseProcess, PaymentProcess *Process
}

// WithoutProxies lets the orchestrator call the participants directly, for measurements.
func WithoutProxies(p *processOptions) { p.direct = true }

type processOptions struct{ direct bool }

// StartProcesses builds and starts the real programs.
func StartProcesses(t testing.TB, options ...func(*processOptions)) *Processes {
	t.Helper()
	var o processOptions
	for _, option := range options {
		option(&o)
	}
	ports, err := localstack.FreePorts(3)
	if err != nil {
		t.Fatal(err)
	}
	var address [3]string
	for i, port := range ports {
		address[i] = fmt.Sprintf("127.0.0.1:%d", port)
	}
	p := &Processes{System: System{Databases: databases(t)}}
	// The embedded bus is for apps of one process. So events stay in their outboxes here, and nobody hears them.
	maps.DeleteFunc(p.Databases, func(name, _ string) bool { return name != "orchestrator" && name != "warehouse" && name != "payment" })
	p.WarehouseProcess = NewProcess(t, "warehouse", "http://"+address[0], []string{
		"WAREHOUSE_DATABASE_URL=" + p.Databases["warehouse"], "WAREHOUSE_LISTEN=" + address[0]})
	p.PaymentProcess = NewProcess(t, "payment", "http://"+address[1], []string{
		"PAYMENT_DATABASE_URL=" + p.Databases["payment"], "PAYMENT_LISTEN=" + address[1]})

	warehouse, payment := p.WarehouseProcess.URL(), p.PaymentProcess.URL()
	if !o.direct {
		p.WarehouseProxy, p.PaymentProxy = StartProxy(t, warehouse), StartProxy(t, payment)
		warehouse, payment = p.WarehouseProxy.URL(), p.PaymentProxy.URL()
	}
	p.OrchestratorProcess = NewProcess(t, "orchestrator", "http://"+address[2], []string{
		"ORCHESTRATOR_DATABASE_URL=" + p.Databases["orchestrator"], "ORCHESTRATOR_LISTEN=" + address[2],
		"ORCHESTRATOR_ENGINE=embedded", "WAREHOUSE_URL=" + warehouse, "PAYMENT_URL=" + payment}, "serve")

	p.WarehouseProcess.Launch(t)
	p.PaymentProcess.Launch(t)
	p.OrchestratorProcess.Launch(t)
	for _, process := range []*Process{p.WarehouseProcess, p.PaymentProcess, p.OrchestratorProcess} {
		process.AwaitReady(t)
	}
	p.connect(t, map[string]string{
		"orchestrator": p.OrchestratorProcess.URL(), "warehouse": p.WarehouseProcess.URL(), "payment": p.PaymentProcess.URL(),
	})
	return p
}
