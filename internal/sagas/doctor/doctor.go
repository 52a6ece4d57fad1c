// Package doctor looks at everything that a process for sagas needs, and says how to mend what is wrong. It knows no wire format.
package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/breaker"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/redact"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

const (
	// timeout bounds each check, so that the whole answers while a person waits.
	timeout = 3 * time.Second
	// clockTolerance is how far this machine's clock may be from the database's. Deadlines go by the database's clock
	// alone; a larger difference makes ages and logs mislead.
	clockTolerance = 2 * time.Second
	// overdueTolerance is how late the sweeper may be, which looks every few seconds.
	overdueTolerance = time.Minute
)

// Doctor looks at one process. It is made before that runs; then Look may be called from many goroutines.
type Doctor struct {
	Words
	// Settings are what the process was configured with, passwords left out.
	Settings []Setting

	Pool  *pgxpool.Pool
	Store *store.Store
	// Migrations are those of the process's database.
	Migrations []pg.Migrations
	Engine     engine.Engine
	// Sidecar is this process's own, if it has one.
	Sidecar Sidecar
	// SweeperLock is the key of the advisory lock that the leading sweeper of this engine holds.
	SweeperLock int64
	// Missing is what this process lacks or what of it fails, and since when.
	Missing func() []process.Missing
	// Definitions are the sagas that this process has.
	Definitions []*saga.Definition
	// Participants are all whom this process can call. Probe asks one something that it can only answer when it works.
	Participants []string
	Probe        func(ctx context.Context, participant string) error
	// HeldBack tells who is not called because they answered nobody.
	HeldBack func() []breaker.State

	Beside
}

// Words are how sagas of this process are spoken of: what people type, the command about them, and what one and many are called.
type Words struct{ Program, Command, ID, One, Many string }

// WordsOf are those of any saga at a program.
func WordsOf(program string) Words { return Words{program, "saga", "NAME KEY", "saga", "sagas"} }

// Beside is what guests have looked at beside.
type Beside struct {
	Checks []Check
	// Ask has further questions to participants, and to those that do no step.
	Ask map[string]func(context.Context) error
	// PubSubs are the sidecar's components that events go through, and Subscriptions looks at what it delivers; nil where nothing is heard.
	PubSubs       []string
	Subscriptions func(Metadata) Finding
}

// Check looks at one thing, or at several of a kind.
type Check func(context.Context) []Finding

// Finding is what is so at something that was looked at, such as "database", and, where it is wrong, how to mend it.
type Finding struct {
	Check        string
	OK           bool
	Detail, Mend string
}

// Setting is an environment variable with its value.
type Setting struct{ Name, Value string }

// Fine is a finding of something that is as it should be.
func Fine(check, detail string, args ...any) Finding {
	return Finding{Check: check, OK: true, Detail: fmt.Sprintf(detail, args...)}
}

// Wrong is a finding of something that is to be mended. The detail loses line breaks, for a finding is one row of a table, and passwords.
func Wrong(check, detail, mend string) Finding {
	return Finding{Check: check, Detail: redact.Text(strings.Join(strings.Fields(detail), " ")), Mend: mend}
}

// One makes a check of what has one finding.
func One(look func(context.Context) Finding) Check {
	return func(ctx context.Context) []Finding { return []Finding{look(ctx)} }
}

// Look looks at everything at once.
func (d *Doctor) Look(ctx context.Context) []Finding {
	checks := []Check{One(d.database), One(d.migrations), One(d.clock), One(d.engine), d.sidecar, One(d.sweeper), d.parts}
	for _, name := range d.asked() {
		checks = append(checks, One(func(ctx context.Context) Finding { return d.participant(ctx, name) }))
	}
	checks = append(checks, d.unknownParticipants, d.heldBack)
	checks = append(checks, d.Checks...)
	checks = append(checks, d.open, One(d.definitions))

	found := make([][]Finding, len(checks))
	var checking sync.WaitGroup
	for i, check := range checks {
		checking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			found[i] = check(ctx)
		})
	}
	checking.Wait()
	return slices.Concat(found...)
}

// MendDatabase is what to do where the process's own database does not answer.
const MendDatabase = "start PostgreSQL, or mend ORCHESTRATOR_DATABASE_URL"

func (d *Doctor) database(ctx context.Context) Finding {
	began := time.Now()
	if err := d.Pool.Ping(ctx); err != nil {
		return Wrong("database", "cannot be reached: "+err.Error(), MendDatabase)
	}
	return Fine("database", "answers in %s", took(began))
}

func (d *Doctor) migrations(ctx context.Context) Finding {
	pending, err := pg.Pending(ctx, d.Pool, d.Migrations...)
	if err != nil {
		return Wrong("migrations", "cannot be read: "+err.Error(), MendDatabase)
	}
	if pending > 0 {
		return Wrong("migrations", fmt.Sprintf("%d are not applied", pending), "restart the orchestrator; it migrates when it starts")
	}
	return Fine("migrations", "all applied")
}

func (d *Doctor) clock(ctx context.Context) Finding {
	var theirs time.Time
	asked := time.Now()
	if err := d.Pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&theirs); err != nil {
		return Wrong("clock", "the database cannot be asked: "+err.Error(), MendDatabase)
	}
	// The database read its clock somewhere between our two readings; the middle halves the doubt.
	answered := time.Now()
	difference := asked.Add(answered.Sub(asked) / 2).Sub(theirs).Abs().Round(time.Millisecond)
	if difference > clockTolerance {
		return Wrong("clock", fmt.Sprintf("differs from the database's by %s", difference), "synchronize both machines by NTP")
	}
	return Fine("clock", "differs from the database's by %s", difference)
}

func (d *Doctor) engine(ctx context.Context) Finding {
	name := "engine " + d.Engine.Name()
	if err := d.Engine.Check(ctx); err != nil {
		return Wrong(name, err.Error(), "look at the log of the orchestrator and, with Dapr, of its sidecar and scheduler; "+
			"a sidecar that has accepted no worker for a minute is to be restarted")
	}
	return Fine(name, "works")
}

// lookForLeader is the pause between two looks for a sweeper that leads.
const lookForLeader = 100 * time.Millisecond

// sweeper looks for a leader among the sweepers of this engine, this process's or another's.
func (d *Doctor) sweeper(ctx context.Context) Finding {
	const name = "sweeper"
	const leader = `
		SELECT EXISTS (SELECT FROM pg_locks
		WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND (classid::bigint << 32) | objid::bigint = $1
		  AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`
	for {
		var led bool
		err := d.Pool.QueryRow(ctx, leader, d.SweeperLock).Scan(&led)
		switch {
		case err == nil && led:
			return Fine(name, "one leads")
		case ctx.Err() != nil: // A process that has just begun, or the next after a leader's end, has had its time to become it.
			return Wrong(name, "none leads, so that nobody looks after overdue "+d.Many,
				"restart the orchestrator; another takes over 10 s after a leader is gone")
		case err != nil:
			return Wrong(name, "cannot be looked for: "+err.Error(), MendDatabase)
		}
		select {
		case <-time.After(lookForLeader):
		case <-ctx.Done():
		}
	}
}

// parts tells what this process has lacked for a while, or what of it fails, and since when.
func (d *Doctor) parts(context.Context) []Finding {
	const name = "parts of this process"
	var found []Finding
	for _, m := range d.Missing() {
		found = append(found, Wrong(name, m.String(), "mend what it says is missing; the process goes on by itself within seconds"))
	}
	return orFine(found, Fine(name, "all work"))
}

// asked are all that this process was told of, those that do steps first.
func (d *Doctor) asked() []string {
	names := slices.Sorted(slices.Values(d.Participants))
	for _, name := range slices.Sorted(maps.Keys(d.Ask)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// participant asks for what a participant can answer only with its database, migrated.
func (d *Doctor) participant(ctx context.Context, participant string) Finding {
	name := "participant " + participant
	began := time.Now()
	var err error
	if slices.Contains(d.Participants, participant) {
		err = d.Probe(ctx, participant)
	}
	if more := d.Ask[participant]; err == nil && more != nil {
		err = more(ctx)
	}
	if err != nil {
		return Wrong(name, "cannot be asked: "+err.Error(), "start it, or mend its address or its database; "+d.Many+" wait for it meanwhile")
	}
	return Fine(name, "answers from its database in %s", took(began))
}

// unknownParticipants are those of sagas under way that this process was not told of.
func (d *Doctor) unknownParticipants(ctx context.Context) (found []Finding) {
	needed, err := d.Store.ParticipantsUnderWay(ctx)
	if err != nil {
		return []Finding{Wrong("participants", "those of open "+d.Many+" cannot be read: "+err.Error(), MendDatabase)}
	}
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		if !slices.Contains(d.Participants, name) {
			found = append(found, Wrong("participant "+name, fmt.Sprintf("%s needs it, and this process was not told of it", needed[name]),
				fmt.Sprintf("set %s_URL and restart the orchestrator", strings.ToUpper(strings.ReplaceAll(name, "-", "_")))))
		}
	}
	return found
}

// heldBack tells of participants that this process does not call, because they answered nobody.
func (d *Doctor) heldBack(context.Context) []Finding {
	const name = "held back"
	var found []Finding
	for _, state := range d.HeldBack() {
		if state.HeldBack != "" {
			found = append(found, Wrong(name, fmt.Sprintf("%s is not called, because nobody got an answer since %s: %s", state.Participant, Age(state.Since), state.LastError),
				fmt.Sprintf("mend %s; the %s that wait for it go on by themselves when it answers", state.Participant, d.Many)))
		}
	}
	return orFine(found, Fine(name, "no participant"))
}

// open looks at the sagas that have not ended: those that wait for a person, those that nobody sweeps, and those that no process with
// this engine will ever drive.
func (d *Doctor) open(ctx context.Context) []Finding {
	const attention, overdue = "attention", "overdue"
	elsewhere := d.Many + " of another engine"
	groups, err := d.Store.OpenGroups(ctx)
	if err != nil {
		return []Finding{Wrong(attention, "cannot be counted: "+err.Error(), MendDatabase)}
	}
	found := []Finding{Fine(attention, "no %s needs any", d.One), Fine(overdue, "no %s is", d.One), Fine(elsewhere, "none is open")}
	waiting, others := 0, make(map[string]int64)
	var waitingFor, late time.Duration
	for _, g := range groups {
		if g.Status == string(journal.NeedsAttention) {
			waiting += int(g.Sagas)
			waitingFor = max(waitingFor, seconds(g.AttentionAge))
		}
		if g.Engine == d.Engine.Name() {
			late = max(late, seconds(g.OverdueAge))
		} else {
			others[g.Engine] += g.Sagas
		}
	}
	command := "`" + d.Program + " " + d.Command
	if waiting > 0 {
		found[0] = Wrong(attention, fmt.Sprintf("%s it, the longest for %s", Number(waiting, d.One+" needs", d.Many+" need"), waitingFor),
			command+" list --attention`; "+command+" status "+d.ID+"` says what to do")
	}
	if late > overdueTolerance {
		found[1] = Wrong(overdue, fmt.Sprintf("a %s has waited for the sweeper for %s", d.One, late),
			"look whether a sweeper leads, and at the log of the orchestrator")
	}
	for _, other := range slices.Sorted(maps.Keys(others)) {
		found[2] = Wrong(elsewhere, fmt.Sprintf("%d of engine %s are open, and engine %s does not drive them", others[other], other, d.Engine.Name()),
			"run a process with their engine (`"+d.Program+" serve --engine "+other+"`) until they have ended, or move them with "+command+" redrive`")
	}
	return found
}

// definitions looks for open sagas of a definition, or of a version of it, that this process does not have. They carry their own plan.
func (d *Doctor) definitions(ctx context.Context) Finding {
	const name = "definitions"
	open, err := d.Store.OpenVersions(ctx)
	if err != nil {
		return Wrong(name, "open "+d.Many+" cannot be counted: "+err.Error(), MendDatabase)
	}
	versions := make(map[string]int)
	for _, has := range d.Definitions {
		versions[has.Name()] = has.Plan().Version
	}
	var gone, older []string
	for _, v := range open {
		is := fmt.Sprintf("%d of %s version %d", v.Sagas, v.Definition, v.Version)
		switch here, has := versions[v.Definition]; {
		case !has:
			gone = append(gone, is)
		case here != v.Version:
			older = append(older, is)
		}
	}
	switch {
	case len(gone) > 0:
		return Wrong(name, "this process has no such definition: "+strings.Join(gone, ", ")+" are open",
			"run a program that has it until they have ended; they go on by their own plans, but what the definition has beside them is left out")
	case len(older) > 0:
		return Fine(name, "%s are open, and go on by their own plans", strings.Join(older, ", "))
	}
	return Fine(name, "every open %s is of one of this process", d.One)
}

// orFine are the findings, or the one that all is well.
func orFine(found []Finding, fine Finding) []Finding {
	if len(found) == 0 {
		return []Finding{fine}
	}
	return found
}

// took is how long something took that began at a time, short enough to be read.
func took(began time.Time) time.Duration { return time.Since(began).Round(100 * time.Microsecond) }

func seconds(n float64) time.Duration {
	return time.Duration(n * float64(time.Second)).Round(time.Second)
}

// Age is how long ago something was.
func Age(of time.Time) time.Duration { return time.Since(of).Round(time.Second) }

// Number is a count with its noun.
func Number(count int, one, many string) string {
	if count == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", count, many)
}
