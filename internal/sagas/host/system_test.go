package host_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/saga/participant/v1/participantv1connect"
	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/gen/saga/v1/sagav1connect"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/sagas/host"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// trip is what most sagas of these tests are about.
type trip struct {
	Traveller string     `json:"traveller"`
	To        string     `json:"to"`
	Card      string     `json:"card"`
	Price     saga.Money `json:"price"`
}

type flight struct {
	Traveller string `json:"traveller"`
	To        string `json:"to"`
}

type charge struct {
	Card   string     `json:"card"`
	Amount saga.Money `json:"amount"`
}

var (
	bookFlight  = saga.Do("book-flight").At("airline").UndoneBy("cancel-flight")
	bookHotel   = saga.Do("book-hotel").At("agency").UndoneBy("cancel-hotel")
	chargeCard  = saga.Pivot("charge-card").At("bank").UndoneBy("refund-card")
	issueTicket = saga.Do("issue-ticket").At("airline").NothingToUndo()

	flightOf = saga.From(func(t trip) flight { return flight{t.Traveller, t.To} })
	chargeOf = saga.From(func(t trip) charge { return charge{t.Card, t.Price} })

	aboutTrip = func(t trip) saga.About { return saga.About{Whom: t.Traveller, Money: t.Price} }

	// trips has a pivot that can be refunded, and a step behind it; two of its steps have requests of their own.
	trips = saga.For[trip]{
		Name: "trip", Version: 1, About: aboutTrip,
		Steps: []saga.Step{bookFlight.Asking(flightOf), bookHotel, chargeCard.Asking(chargeOf), issueTicket.Asking(flightOf)},
		Check: func(t trip) error {
			if t.Traveller == "" {
				return errors.New("a trip needs a traveller")
			}
			return nil
		},
	}
	// tours has steps of the same names in another order, and no pivot: each refusal turns it back.
	tours = saga.For[trip]{Name: "tour", Version: 1, About: aboutTrip, Steps: []saga.Step{bookHotel, bookFlight}}
	// galas wait for a person where they are dear.
	galas = saga.For[trip]{
		Name: "gala", Version: 1, About: aboutTrip,
		Steps:   []saga.Step{bookHotel, saga.Decision("sign-off"), chargeCard.Asking(chargeOf), issueTicket},
		Decides: func(t trip) bool { return t.Price.MinorUnits > 1000 },
	}
)

// ada's trip goes well; what makes another go wrong is set on a copy of it.
var ada = trip{Traveller: "Ada Lovelace", To: "Turin", Card: "1234", Price: saga.Money{Currency: "EUR", MinorUnits: 900}}

// system is a whole orchestrator in this process, which can be closed and opened again, with the participants of its sagas. These
// outlive it, as their own processes would.
type system struct {
	t    *testing.T
	url  string
	crew *crew
	// agency is called over the wire, the others in process.
	agency *httptest.Server
	// agencyAnswers is what it answers to Do, whatever is asked; nil where it answers by itself.
	agencyAnswers atomic.Pointer[string]

	host  *host.Host
	sagas sagav1connect.SagaServiceClient
	stop  func()
}

// quick makes a saga impatient, so that a test need not be patient.
var quick = saga.Policy{
	FirstWait: 20 * time.Millisecond, LongestWait: 100 * time.Millisecond, Patience: 3,
	FirstStuckWait: 200 * time.Millisecond, LongestStuckWait: 500 * time.Millisecond,
}

func newSystem(t *testing.T, declared ...saga.Declaration) *system {
	t.Helper()
	t.Parallel()
	s := &system{t: t, url: pgtest.URL(t), crew: newCrew(t)}
	mux := http.NewServeMux()
	mux.Handle(participant.Handler(s.crew.members["agency"]))
	s.agency = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer := s.agencyAnswers.Load(); answer != nil && r.URL.Path == participantv1connect.ParticipantServiceDoProcedure {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(*answer))
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.agency.Close)
	t.Cleanup(s.close)
	s.open(declared...)
	return s
}

func definitions(t *testing.T, declared ...saga.Declaration) (all []*saga.Definition) {
	t.Helper()
	for _, d := range declared {
		definition, err := d.Define()
		require.NoError(t, err)
		all = append(all, definition)
	}
	return all
}

func (s *system) config(declared ...saga.Declaration) host.Config {
	s.t.Helper()
	here := maps.Clone(s.crew.members)
	delete(here, "agency")
	return host.Config{
		Definitions: definitions(s.t, declared...), Participants: here, URLs: map[string]string{"agency": s.agency.URL},
		DatabaseURL: s.url, Listen: "127.0.0.1:0", Engine: host.Embedded, KeepWorkflows: time.Hour, Policy: quick,
	}
}

// open opens the orchestrator with these definitions and has it run until close.
func (s *system) open(declared ...saga.Declaration) {
	s.t.Helper()
	opened, err := host.Open(s.t.Context(), s.config(declared...), host.Extra{}, s.log())
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- opened.Run(ctx) }()
	s.host, s.sagas = opened, sagav1connect.NewSagaServiceClient(http.DefaultClient, opened.URL())
	s.stop = func() {
		cancel()
		if err := <-ran; err != nil {
			s.t.Errorf("the host ended by itself: %v", err)
		}
		opened.Close()
	}
}

func (s *system) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(s.t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
}

func (s *system) close() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

func (s *system) ctx() context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	s.t.Cleanup(cancel)
	return ctx
}

func value(t *testing.T, input any) *structpb.Value {
	t.Helper()
	text, err := json.Marshal(input)
	require.NoError(t, err)
	v := &structpb.Value{}
	require.NoError(t, protojson.Unmarshal(text, v))
	return v
}

// start starts a saga.
func (s *system) start(definition, key string, input any) *sagav1.StartResponse {
	s.t.Helper()
	answer, err := s.sagas.Start(s.ctx(), connect.NewRequest(&sagav1.StartRequest{Definition: definition, Key: key, Input: value(s.t, input)}))
	require.NoError(s.t, err)
	return answer.Msg
}

func (s *system) get(definition, key string) *sagav1.Saga {
	s.t.Helper()
	answer, err := s.sagas.Get(s.ctx(), connect.NewRequest(&sagav1.GetRequest{Definition: definition, Key: key}))
	require.NoError(s.t, err)
	return answer.Msg.Saga
}

// until waits until a saga is as it should be.
func (s *system) until(definition, key, what string, is func(*sagav1.Saga) bool) (found *sagav1.Saga) {
	s.t.Helper()
	ctx := s.ctx()
	require.Eventually(s.t, func() bool {
		answer, err := s.sagas.Get(ctx, connect.NewRequest(&sagav1.GetRequest{Definition: definition, Key: key}))
		if err != nil {
			return false
		}
		found = answer.Msg.Saga
		return is(found)
	}, 40*time.Second, 10*time.Millisecond, "%s %s: %s", definition, key, what)
	return found
}

// ends waits for a saga's end.
func (s *system) ends(definition, key string, as sagav1.Status) *sagav1.Saga {
	s.t.Helper()
	final := s.until(definition, key, "it should end", func(g *sagav1.Saga) bool { return g.EndedAt != nil })
	require.Equal(s.t, as, final.Status, "%v", final)
	return final
}

// needs waits until a person is called for a reason.
func (s *system) needs(definition, key, code string) *sagav1.Saga {
	s.t.Helper()
	return s.until(definition, key, "a person should be called for "+code, func(g *sagav1.Saga) bool { return g.Attention.GetCode() == code })
}

// states are how far the steps of a saga are, as a line.
func states(g *sagav1.Saga) (all []string) {
	for _, step := range g.Steps {
		text := step.Name + " " + step.State
		if step.Compensation != "not-needed" {
			text += ", undone: " + step.Compensation
		}
		all = append(all, text)
	}
	return all
}

// refusedWith requires an error of a code, and returns its sentence.
func refusedWith(t *testing.T, code connect.Code, err error) string {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, code, connect.CodeOf(err), "%v", err)
	return err.Error()
}

// badFields are the wrong fields that an error tells of.
func badFields(t *testing.T, err error) map[string]string {
	t.Helper()
	refusedWith(t, connect.CodeInvalidArgument, err)
	wrong := new(connect.Error)
	require.ErrorAs(t, err, &wrong)
	all := make(map[string]string)
	for _, detail := range wrong.Details() {
		v, err := detail.Value()
		require.NoError(t, err)
		bad, is := v.(*checkoutv1.BadField)
		require.True(t, is)
		all[bad.Field] = bad.Problem
	}
	return all
}

// audit audits and returns what is found, and how many sagas were compared.
func (s *system) audit(definition, key string) (found []*sagav1.Violation, checked int64) {
	s.t.Helper()
	stream, err := s.sagas.Audit(s.ctx(), connect.NewRequest(&sagav1.AuditRequest{Definition: definition, Key: key}))
	require.NoError(s.t, err)
	for stream.Receive() {
		found = append(found, stream.Msg().Violations...)
		checked = stream.Msg().Checked
	}
	require.NoError(s.t, stream.Err())
	return found, checked
}

func (s *system) auditFindsNothing(definition string, compared int) {
	s.t.Helper()
	found, checked := s.audit(definition, "")
	require.Empty(s.t, found)
	require.EqualValues(s.t, compared, checked)
}

// crew are the participants of all sagas, on one database of their own. What each has done for a saga is a row of its books.
type crew struct {
	t       *testing.T
	pool    *pgxpool.Pool
	members map[string]participant.Participant

	mu       sync.Mutex
	troubles map[string]trouble
}

// trouble is what comes between a participant and whoever asks it. It calls next for the participant's own answer.
type trouble func(ctx context.Context, r participant.Request, next func() (participant.Result, error)) (participant.Result, error)

func newCrew(t *testing.T) *crew {
	t.Helper()
	pool, err := pg.Open(t.Context(), pgtest.URL(t), 10)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, ledger.Migrate(t.Context(), pool))
	// No key: what is done twice is there twice.
	_, err = pool.Exec(t.Context(), `CREATE TABLE books (definition text, key text, step text, units bigint)`)
	require.NoError(t, err)
	c := &crew{t: t, pool: pool, troubles: make(map[string]trouble)}
	member := func(steps map[string]ledger.Step) participant.Participant { return &member{ledger.New(pool, steps), c} }
	c.members = map[string]participant.Participant{
		"airline": member(map[string]ledger.Step{"book-flight": entry, "issue-ticket": entry}),
		"agency":  member(map[string]ledger.Step{"book-hotel": entry, "rent-car": entry}),
		"bank":    member(map[string]ledger.Step{"charge-card": entry, "hold-card": entry}),
		"insurer": member(map[string]ledger.Step{"insure": entry}),
	}
	return c
}

// entry enters a step into the books and strikes it out again. An input that says so is refused by it.
var entry = ledger.Step{
	Do: func(ctx context.Context, tx pgx.Tx, r participant.Request) (participant.Result, error) {
		var asked struct {
			To   string `json:"to"`
			Card string `json:"card"`
		}
		if err := json.Unmarshal(r.Input, &asked); err != nil {
			return participant.Result{}, fmt.Errorf("%w: %w", participant.ErrBadRequest, err)
		}
		if asked.To == "refused by "+r.Step || asked.Card == "refused by "+r.Step {
			return participant.Reject("sold_out", "there is nothing left"), nil
		}
		_, err := tx.Exec(ctx, `INSERT INTO books VALUES ($1, $2, $3, 1)`, r.Definition, r.Key, r.Step)
		return participant.Result{Outcome: participant.Applied, Reference: r.Step + "/" + r.Key}, err
	},
	Undo: func(ctx context.Context, tx pgx.Tx, r participant.Request) error {
		_, err := tx.Exec(ctx, `DELETE FROM books WHERE definition = $1 AND key = $2 AND step = $3`, r.Definition, r.Key, r.Step)
		return err
	},
}

// member is a participant with its troubles.
type member struct {
	*ledger.Participant
	crew *crew
}

func (m *member) Do(ctx context.Context, r participant.Request) (participant.Result, error) {
	return m.crew.meet(ctx, "do "+r.Step, r, m.Participant.Do)
}

func (m *member) Undo(ctx context.Context, r participant.Request) (participant.Result, error) {
	return m.crew.meet(ctx, "undo "+r.Step, r, m.Participant.Undo)
}

func (c *crew) meet(ctx context.Context, what string, r participant.Request, asked func(context.Context, participant.Request) (participant.Result, error)) (participant.Result, error) {
	c.mu.Lock()
	meets := c.troubles[what]
	c.mu.Unlock()
	next := func() (participant.Result, error) { return asked(ctx, r) }
	if meets == nil {
		return next()
	}
	return meets(ctx, r, next)
}

// on sets what happens on "do" or "undo" of a step; nil is that nothing does any more.
func (c *crew) on(what string, happens trouble) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.troubles[what] = happens
}

// hang keeps whoever asks until it gives up, or until release: then what was asked is done all the same.
func (c *crew) hang(what string) (release func()) {
	free := make(chan struct{})
	c.on(what, func(ctx context.Context, _ participant.Request, next func() (participant.Result, error)) (participant.Result, error) {
		select {
		case <-free:
			return next()
		case <-ctx.Done():
			return participant.Result{}, ctx.Err()
		}
	})
	return sync.OnceFunc(func() { close(free) })
}

// fails does nothing but fail.
func fails(context.Context, participant.Request, func() (participant.Result, error)) (participant.Result, error) {
	return participant.Result{}, errors.New("the database is away")
}

// answers is a participant that was written by somebody who did not read the contract.
func answers(result participant.Result) trouble {
	return func(context.Context, participant.Request, func() (participant.Result, error)) (participant.Result, error) {
		return result, nil
	}
}

// books are how often each step stands in the books for a saga.
func (c *crew) books(definition, key string) map[string]int {
	c.t.Helper()
	rows, err := c.pool.Query(c.t.Context(), `SELECT step, count(*) FROM books WHERE definition = $1 AND key = $2 GROUP BY step`, definition, key)
	require.NoError(c.t, err)
	all := make(map[string]int)
	var step string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&step, &n}, func() error {
		all[step] = n
		return nil
	})
	require.NoError(c.t, err)
	return all
}

func (c *crew) exec(sql string, args ...any) {
	c.t.Helper()
	done, err := c.pool.Exec(c.t.Context(), sql, args...)
	require.NoError(c.t, err)
	require.Positive(c.t, done.RowsAffected(), "nothing was broken by %s", sql)
}
