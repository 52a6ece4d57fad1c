package orchestrator

import (
	"context"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/store"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

const (
	// doctorTimeout bounds each check, so that the whole answers while a person waits.
	doctorTimeout = 3 * time.Second
	// clockTolerance is how far this machine's clock may be from the database's. Deadlines go by the database's clock
	// alone; a larger difference makes ages and logs mislead.
	clockTolerance = 2 * time.Second
)

// Doctor looks at everything this process needs and says how to mend what is wrong.
func (s *Service) Doctor(ctx context.Context, _ *connect.Request[checkoutv1.DoctorRequest]) (*connect.Response[checkoutv1.DoctorResponse], error) {
	checks := []func(context.Context) *checkoutv1.Finding{
		s.checkDatabase,
		s.checkMigrations,
		s.checkClock,
		s.checkEngine,
		func(ctx context.Context) *checkoutv1.Finding { return s.checkParticipant(ctx, checkout.Warehouse) },
		func(ctx context.Context) *checkoutv1.Finding { return s.checkParticipant(ctx, checkout.Payment) },
		s.checkOtherEngine,
	}
	answer := &checkoutv1.DoctorResponse{Findings: make([]*checkoutv1.Finding, len(checks)), Settings: s.settings}
	var checking sync.WaitGroup
	for i, check := range checks {
		checking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
			defer cancel()
			answer.Findings[i] = check(ctx)
		})
	}
	checking.Wait()
	return connect.NewResponse(answer), nil
}

const mendDatabase = "start PostgreSQL (`make up`), or mend ORCHESTRATOR_DATABASE_URL"

func (s *Service) checkDatabase(ctx context.Context) *checkoutv1.Finding {
	began := time.Now()
	if err := s.pool.Ping(ctx); err != nil {
		return wrong("database", "cannot be reached: "+err.Error(), mendDatabase)
	}
	return fine("database", "answers in %s", time.Since(began).Round(time.Microsecond*100))
}

func (s *Service) checkMigrations(ctx context.Context) *checkoutv1.Finding {
	pending, err := pg.Pending(ctx, s.pool, store.Migrations()...)
	if err != nil {
		return wrong("migrations", "cannot be read: "+err.Error(), mendDatabase)
	}
	if pending > 0 {
		return wrong("migrations", fmt.Sprintf("%d are not applied", pending), "restart the orchestrator; it migrates when it starts")
	}
	return fine("migrations", "all applied")
}

func (s *Service) checkClock(ctx context.Context) *checkoutv1.Finding {
	var theirs time.Time
	asked := time.Now()
	if err := s.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&theirs); err != nil {
		return wrong("clock", "the database cannot be asked: "+err.Error(), mendDatabase)
	}
	// The database read its clock somewhere between our two readings; the middle halves the doubt.
	answered := time.Now()
	difference := asked.Add(answered.Sub(asked) / 2).Sub(theirs).Abs().Round(time.Millisecond)
	if difference > clockTolerance {
		return wrong("clock", fmt.Sprintf("differs from the database's by %s", difference), "synchronize both machines by NTP")
	}
	return fine("clock", "differs from the database's by %s", difference)
}

func (s *Service) checkEngine(ctx context.Context) *checkoutv1.Finding {
	name := "engine " + s.engine.Name()
	if err := s.engine.Check(ctx); err != nil {
		return wrong(name, err.Error(), "look at the log of the orchestrator and, with Dapr, of its sidecar and scheduler; "+
			"a sidecar that has accepted no worker for a minute is to be restarted; `make down up` restarts all")
	}
	return fine(name, "works")
}

func (s *Service) checkParticipant(ctx context.Context, participant string) *checkoutv1.Finding {
	list := s.warehouse.ListOperations
	if participant == checkout.Payment {
		list = s.payment.ListOperations
	}
	name := "participant " + participant
	began := time.Now()
	if _, err := list(ctx, connect.NewRequest(&operationv1.ListOperationsRequest{PageSize: 1})); err != nil {
		return wrong(name, "cannot be asked: "+err.Error(), "start it (`make up`), or mend its address; checkouts wait for it meanwhile")
	}
	return fine(name, "answers in %s", time.Since(began).Round(time.Microsecond*100))
}

// checkOtherEngine looks for open checkouts that no process with this engine will ever drive.
func (s *Service) checkOtherEngine(ctx context.Context) *checkoutv1.Finding {
	const name = "checkouts of another engine"
	open, err := s.store.OpenByEngine(ctx)
	if err != nil {
		return wrong(name, "cannot be counted: "+err.Error(), mendDatabase)
	}
	for other, count := range open {
		if other != s.engine.Name() {
			return wrong(name, fmt.Sprintf("%d of engine %s are open, and engine %s does not drive them", count, other, s.engine.Name()),
				"run a process with their engine (`orchestrator serve --engine "+other+"`) until they have ended")
		}
	}
	return fine(name, "none is open")
}

func fine(check, detail string, args ...any) *checkoutv1.Finding {
	return &checkoutv1.Finding{Check: check, Ok: true, Detail: fmt.Sprintf(detail, args...)}
}

func wrong(check, detail, mend string) *checkoutv1.Finding {
	return &checkoutv1.Finding{Check: check, Detail: detail, Mend: mend}
}
