package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/invoke"
)

// do is where a participant is asked to do a step.
const do = "/saga.participant.v1.ParticipantService/Do"

// program runs sagas as a careful engineer writes them by hand: each result is durable before the next call. Undoing, going on after a
// crash, and everything else that an engine has beside are left out, which only makes it faster.
type program struct {
	log   log
	calls *invoke.Caller // The engine's own HTTP client.
	urls  map[string]string
}

// log keeps what has happened. write returns when the entry is durable.
type log interface {
	write(context.Context, entry) error
}

// entry is a row of the log: seq 0 is the start, and then comes each step's answer and the end.
type entry struct {
	key     string
	seq     int32
	payload []byte
}

func newProgram(ctx context.Context, role, databaseURL string) (http.Handler, error) {
	p := &program{log: noLog{}, calls: invoke.Direct(), urls: map[string]string{}}
	for _, step := range steps {
		p.urls[step] = os.Getenv(strings.ToUpper(step) + "_URL")
	}
	if role != "direct" {
		pool, err := open(ctx, databaseURL, `
			CREATE TABLE IF NOT EXISTS log (key text, seq int, payload bytea, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (key, seq))`)
		if err != nil {
			return nil, err
		}
		p.log = rowLog{pool}
		if role == "group" {
			g := groupLog{pool, make(chan waiting)}
			go g.commit(ctx)
			p.log = g
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		input, err := io.ReadAll(r.Body)
		if err == nil {
			err = p.run(r.Context(), strings.TrimPrefix(r.URL.Path, "/"), input)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}), nil
}

// run is the saga.
func (p *program) run(ctx context.Context, key string, input []byte) error {
	var order Order
	if err := json.Unmarshal(input, &order); err != nil {
		return err
	}
	if err := p.log.write(ctx, entry{key: key, payload: input}); err != nil {
		return err
	}
	for i, step := range steps {
		answer, err := p.call(ctx, step, key, order)
		if err != nil {
			return err
		}
		if err := p.log.write(ctx, entry{key, int32(i + 1), answer}); err != nil {
			return err
		}
	}
	return p.log.write(ctx, entry{key, int32(len(steps) + 1), []byte("done")})
}

// call asks for a step and returns the answer.
func (p *program) call(ctx context.Context, step, key string, order Order) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	body, err := json.Marshal(request{
		Definition: "bench", Key: key, Step: step, Attempt: 1, IdempotencyKey: "bench:" + key + ":" + step + ":do", Digest: fmt.Sprint(order.Amount), Input: order,
	})
	if err != nil {
		return nil, err
	}
	client, url := p.calls.To(p.urls[step])
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+do, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		return nil, err
	}
	if a.Outcome != "OUTCOME_APPLIED" {
		return nil, fmt.Errorf("%s of %s: %s: %s", step, key, resp.Status, text)
	}
	return text, nil
}

// noLog forgets.
type noLog struct{}

func (noLog) write(context.Context, entry) error { return nil }

// rowLog commits each entry by itself.
type rowLog struct{ pool *pgxpool.Pool }

func (l rowLog) write(ctx context.Context, e entry) error {
	_, err := l.pool.Exec(ctx, `INSERT INTO log (key, seq, payload) VALUES ($1, $2, $3)`, e.key, e.seq, e.payload)
	return err
}

// groupLog has one goroutine that commits together what came while it committed what was before.
type groupLog struct {
	pool    *pgxpool.Pool
	waiting chan waiting
}

type waiting struct {
	entry
	durable chan error
}

func (l groupLog) write(ctx context.Context, e entry) error {
	w := waiting{e, make(chan error, 1)}
	select {
	case l.waiting <- w:
		return <-w.durable
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l groupLog) commit(ctx context.Context) {
	for first := range l.waiting {
		batch := []waiting{first}
		for more := true; more; {
			select {
			case w := <-l.waiting:
				batch = append(batch, w)
			default:
				more = false
			}
		}
		err := l.insert(ctx, batch)
		for _, w := range batch {
			w.durable <- err
		}
	}
}

func (l groupLog) insert(ctx context.Context, batch []waiting) error {
	keys, seqs, payloads := make([]string, len(batch)), make([]int32, len(batch)), make([][]byte, len(batch))
	for i, w := range batch {
		keys[i], seqs[i], payloads[i] = w.key, w.seq, w.payload
	}
	_, err := l.pool.Exec(ctx, `INSERT INTO log (key, seq, payload) SELECT * FROM unnest($1::text[], $2::int[], $3::bytea[])`, keys, seqs, payloads)
	return err
}
