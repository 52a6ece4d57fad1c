package doctor_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/breaker"
	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/sagas/doctor"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// idle is an engine that runs nothing.
type idle struct {
	engine.Engine
	check error
}

func (idle) Name() string                  { return "embedded" }
func (e idle) Check(context.Context) error { return e.check }

const lock = -0x7f6b6f75740001 // PostgreSQL shows a key in two unsigned halves.

// healthy is a doctor of a process that lacks nothing but a sweeper that leads.
func healthy(t *testing.T) *doctor.Doctor {
	t.Helper()
	pool := pgtest.Pool(t)
	require.NoError(t, pg.Migrate(t.Context(), pool, store.Migrations()))
	return &doctor.Doctor{
		Words: doctor.WordsOf("travel"), Pool: pool, Store: store.New(pool, commit.New(pool), nil), Migrations: []pg.Migrations{store.Migrations()}, Engine: idle{},
		SweeperLock: lock, Missing: func() []process.Missing { return nil }, HeldBack: func() []breaker.State { return nil },
		Participants: []string{"bank"}, Probe: func(context.Context, string) error { return nil },
	}
}

// leads has a sweeper lead in a database until stop.
func leads(t *testing.T, pool *pgxpool.Pool) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	led, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- pg.Lead(ctx, pool, lock, func(ctx context.Context, _ *pgx.Conn) error {
			close(led)
			<-ctx.Done()
			return nil
		})
	}()
	<-led
	return func() {
		cancel()
		require.NoError(t, <-ended)
	}
}

func finding(t *testing.T, d *doctor.Doctor, check string) doctor.Finding {
	t.Helper()
	for _, f := range d.Look(t.Context()) {
		if f.Check == check {
			return f
		}
	}
	require.Failf(t, "the doctor does not look", "at %q", check)
	return doctor.Finding{}
}

func TestDoctorLooksForASweeperThatLeads(t *testing.T) {
	t.Parallel()
	d := healthy(t)
	f := finding(t, d, "sweeper")
	require.False(t, f.OK)
	require.Contains(t, f.Detail, "none leads, so that nobody looks after overdue sagas")
	require.Contains(t, f.Mend, "restart")
	stop := leads(t, d.Pool)
	defer stop()
	require.Equal(t, doctor.Fine("sweeper", "one leads"), finding(t, d, "sweeper"))
}

func TestDoctorNamesWhatIsWrongWithAProcess(t *testing.T) {
	t.Parallel()
	d := healthy(t)
	defer leads(t, d.Pool)()
	for _, f := range d.Look(t.Context()) {
		require.True(t, f.OK, "%s: %s", f.Check, f.Detail)
		require.Empty(t, f.Mend)
	}
	refused := errors.New("connection\nrefused")
	for name, c := range map[string]struct {
		breaks              func(*doctor.Doctor)
		check, detail, mend string
	}{
		"an engine that does not run": {
			func(d *doctor.Doctor) { d.Engine = idle{check: errors.New("no worker is connected")} }, "engine embedded", "no worker is connected", "log of the orchestrator",
		},
		"a participant that does not answer": {
			func(d *doctor.Doctor) { d.Probe = func(context.Context, string) error { return refused } }, "participant bank", "cannot be asked: connection refused", "sagas wait for it",
		},
		"one whose events cannot be asked for": {
			func(d *doctor.Doctor) {
				d.Ask = map[string]func(context.Context) error{"bank": func(context.Context) error { return refused }}
			}, "participant bank", "connection refused", "start it",
		},
		"one that does no step": {
			func(d *doctor.Doctor) {
				d.Ask = map[string]func(context.Context) error{"post": func(context.Context) error { return refused }}
			}, "participant post", "connection refused", "start it",
		},
		"one that is held back": {
			func(d *doctor.Doctor) {
				d.HeldBack = func() []breaker.State {
					return []breaker.State{{Participant: "bank", HeldBack: "it answers nobody", Since: time.Now().Add(-3 * time.Minute), LastError: "refused"}}
				}
			}, "held back", "bank is not called, because nobody got an answer since 3m0s: refused", "mend bank",
		},
		"a part that fails": {
			func(d *doctor.Doctor) {
				d.Missing = func() []process.Missing {
					return []process.Missing{{Name: "database", Since: time.Now(), Error: refused}}
				}
			}, "parts of this process", "connection refused", "mend what it says",
		},
		"a sidecar that is not there": {
			func(d *doctor.Doctor) { d.Sidecar.URL = "http://127.0.0.1:1" }, "sidecar", "refused", "start it",
		},
		"what a guest finds": {
			func(d *doctor.Doctor) {
				d.Checks = []doctor.Check{doctor.One(func(context.Context) doctor.Finding {
					return doctor.Wrong("letters", "one is dead: postgres://u:secret@h/d", "read it")
				})}
			}, "letters", "one is dead: postgres://u:xxxxx@h/d", "read it",
		},
	} {
		t.Run(name, func(t *testing.T) {
			broken := *d
			c.breaks(&broken)
			f := finding(t, &broken, c.check)
			require.False(t, f.OK)
			require.Contains(t, f.Detail, c.detail)
			require.Contains(t, f.Mend, c.mend)
		})
	}
}
