package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/breaker"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/redact"
)

const (
	// doctorTimeout bounds each check, so that the whole answers while a person waits.
	doctorTimeout = 3 * time.Second
	// clockTolerance is how far this machine's clock may be from the database's. Deadlines go by the database's clock
	// alone; a larger difference makes ages and logs mislead.
	clockTolerance = 2 * time.Second
)

// DoctorConfig is what only Doctor looks at. What is zero is not looked at.
type DoctorConfig struct {
	// Migrations are those of the process's database.
	Migrations []pg.Migrations
	// Sidecar is this process's own.
	Sidecar SidecarAPI
	// ComponentFolders are where the sidecar's component files are.
	ComponentFolders []string
	// KeepWorkflows is how long the engine is to know a workflow that has ended; zero is for ever.
	KeepWorkflows time.Duration
	// Breakers hold back from participants that answer nobody.
	Breakers interface{ States() []breaker.State }
	// SweeperLock is the key of the advisory lock that the leading sweeper of this engine holds.
	SweeperLock int64
	// Missing is what this process lacks or what of it fails, and since when.
	Missing func() []process.Missing
}

// check looks at one thing, or at several of a kind.
type check func(context.Context) []*checkoutv1.Finding

// Doctor looks at everything this process needs and says how to mend what is wrong.
func (s *Service) Doctor(ctx context.Context, _ *connect.Request[checkoutv1.DoctorRequest]) (*connect.Response[checkoutv1.DoctorResponse], error) {
	checks := []check{
		one(s.checkDatabase),
		one(s.checkMigrations),
		one(s.checkClock),
		one(s.checkEngine),
		s.checkSidecar,
		s.checkComponentFiles,
		s.checkSweeper,
		s.checkParts,
	}
	for _, participant := range s.participants() {
		checks = append(checks, one(func(ctx context.Context) *checkoutv1.Finding { return s.checkParticipant(ctx, participant) }))
	}
	checks = append(checks, s.checkHeldBack, s.checkBus)
	for _, app := range producers() {
		checks = append(checks, one(func(ctx context.Context) *checkoutv1.Finding { return s.checkOutbox(ctx, app) }))
	}
	checks = append(checks, s.checkDeadLetters, one(s.checkAttention), one(s.checkOtherEngine))

	found := make([][]*checkoutv1.Finding, len(checks))
	var checking sync.WaitGroup
	for i, check := range checks {
		checking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
			defer cancel()
			found[i] = check(ctx)
		})
	}
	checking.Wait()
	return connect.NewResponse(&checkoutv1.DoctorResponse{Findings: slices.Concat(found...), Settings: s.settings}), nil
}

// one makes a check of what has one finding.
func one(look func(context.Context) *checkoutv1.Finding) check {
	return func(ctx context.Context) []*checkoutv1.Finding { return []*checkoutv1.Finding{look(ctx)} }
}

const mendDatabase = "start PostgreSQL (`make up`), or mend ORCHESTRATOR_DATABASE_URL"

func (s *Service) checkDatabase(ctx context.Context) *checkoutv1.Finding {
	began := time.Now()
	if err := s.pool.Ping(ctx); err != nil {
		return wrong("database", "cannot be reached: "+err.Error(), mendDatabase)
	}
	return fine("database", "answers in %s", took(began))
}

func (s *Service) checkMigrations(ctx context.Context) *checkoutv1.Finding {
	pending, err := pg.Pending(ctx, s.pool, s.doctor.Migrations...)
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

// checkSweeper looks for a leader among the sweepers of this engine, this process's or another's.
func (s *Service) checkSweeper(ctx context.Context) []*checkoutv1.Finding {
	if s.doctor.SweeperLock == 0 {
		return nil
	}
	const name = "sweeper"
	const leader = `
		SELECT EXISTS (SELECT FROM pg_locks
		WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND (classid::bigint << 32) | objid::bigint = $1
		  AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`
	for {
		var led bool
		err := s.pool.QueryRow(ctx, leader, s.doctor.SweeperLock).Scan(&led)
		if err == nil && led {
			return []*checkoutv1.Finding{fine(name, "one leads")}
		}
		if ctx.Err() != nil { // A process that has just begun, or the next after a leader's end, has had its time to become it.
			return []*checkoutv1.Finding{wrong(name, "none leads, so that nobody looks after overdue checkouts",
				"restart the orchestrator; another takes over 10 s after a leader is gone")}
		}
		if err != nil {
			return []*checkoutv1.Finding{wrong(name, "cannot be looked for: "+err.Error(), mendDatabase)}
		}
		select {
		case <-time.After(lookForLeader):
		case <-ctx.Done():
		}
	}
}

// lookForLeader is the pause between two looks for a sweeper that leads.
const lookForLeader = 100 * time.Millisecond

// checkParts tells what this process has lacked for a while, or what of it fails, and since when.
func (s *Service) checkParts(context.Context) []*checkoutv1.Finding {
	if s.doctor.Missing == nil {
		return nil
	}
	const name = "parts of this process"
	var found []*checkoutv1.Finding
	for _, m := range s.doctor.Missing() {
		found = append(found, wrong(name, oneLine(errors.New(m.String())), "mend what it says is missing; the process goes on by itself within seconds"))
	}
	if len(found) == 0 {
		found = append(found, fine(name, "all work"))
	}
	return found
}

// participants are all that this process was told of, those that do steps first.
func (s *Service) participants() []string {
	names := []string{checkout.Warehouse, checkout.Payment}
	for _, app := range slices.Sorted(maps.Keys(s.events)) {
		if app != appName && !slices.Contains(names, app) {
			names = append(names, app)
		}
	}
	return names
}

// appName is this process's among the apps that write and receive events.
const appName = "orchestrator"

// probe is an event id that no event has: who can say that it has not received it, has its tables.
const probe = "doctor"

// checkParticipant asks for what a participant can answer only with its database, migrated: of its operations, of the events that it
// writes, and of those that it receives, as far as it has any.
func (s *Service) checkParticipant(ctx context.Context, participant string) *checkoutv1.Finding {
	name := "participant " + participant
	began := time.Now()
	if err := s.askParticipant(ctx, participant); err != nil {
		return wrong(name, "cannot be asked: "+oneLine(err), "start it (`make up`), or mend its address or its database; checkouts wait for it meanwhile")
	}
	return fine(name, "answers from its database in %s", took(began))
}

func (s *Service) askParticipant(ctx context.Context, participant string) error {
	if list := s.operationsOf(participant); list != nil {
		if _, err := list(ctx, connect.NewRequest(&operationv1.ListOperationsRequest{PageSize: 1})); err != nil {
			return err
		}
	}
	app := s.events[participant]
	if app == nil {
		return nil
	}
	if _, err := app.ListEvents(ctx, connect.NewRequest(&eventv1.ListEventsRequest{PageSize: 1})); err != nil {
		return err
	}
	_, err := app.CheckReceived(ctx, connect.NewRequest(&eventv1.CheckReceivedRequest{EventIds: []string{probe}}))
	return err
}

// operationsOf is how a participant that does steps lists what it did; nil for one that does none.
func (s *Service) operationsOf(participant string) func(context.Context, *connect.Request[operationv1.ListOperationsRequest]) (*connect.Response[operationv1.ListOperationsResponse], error) {
	switch participant {
	case checkout.Warehouse:
		return s.warehouse.ListOperations
	case checkout.Payment:
		return s.payment.ListOperations
	}
	return nil
}

// checkHeldBack tells of participants that this process does not call, because they answered nobody.
func (s *Service) checkHeldBack(context.Context) []*checkoutv1.Finding {
	if s.doctor.Breakers == nil {
		return nil
	}
	const name = "held back"
	var found []*checkoutv1.Finding
	for _, state := range s.doctor.Breakers.States() {
		if state.HeldBack != "" {
			found = append(found, wrong(name, fmt.Sprintf("%s is not called, because nobody got an answer since %s: %s", state.Participant, age(state.Since), state.LastError),
				"mend "+state.Participant+"; the checkouts that wait for it go on by themselves when it answers"))
		}
	}
	if len(found) == 0 {
		found = append(found, fine(name, "no participant"))
	}
	return found
}

// checkAttention counts the checkouts that wait for a person.
func (s *Service) checkAttention(ctx context.Context) *checkoutv1.Finding {
	const name = "attention"
	count, oldest, err := s.store.NeedAttention(ctx)
	if err != nil {
		return wrong(name, "cannot be counted: "+err.Error(), mendDatabase)
	}
	if count == 0 {
		return fine(name, "no checkout needs any")
	}
	return wrong(name, fmt.Sprintf("%s it, the longest for %s", number(count, "checkout needs", "checkouts need"), age(oldest)),
		"`orchestrator checkout list --attention`; `orchestrator checkout status ID` says what to do")
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
				"run a process with their engine (`orchestrator serve --engine "+other+"`) until they have ended, or move them with `orchestrator checkout redrive`")
		}
	}
	return fine(name, "none is open")
}

func fine(check, detail string, args ...any) *checkoutv1.Finding {
	return &checkoutv1.Finding{Check: check, Ok: true, Detail: fmt.Sprintf(detail, args...)}
}

func wrong(check, detail, mend string) *checkoutv1.Finding {
	return &checkoutv1.Finding{Check: check, Detail: redact.Text(detail), Mend: mend}
}

// took is how long something took that began at a time, short enough to be read.
func took(began time.Time) time.Duration { return time.Since(began).Round(100 * time.Microsecond) }

// age is how long ago something was.
func age(of time.Time) time.Duration { return time.Since(of).Round(time.Second) }

// number is a count with its noun.
func number(count int, one, many string) string {
	if count == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", count, many)
}
