// Command bench compares systems that run sagas, side by side on one machine. README.md in this folder says what each of them is, and
// what was measured when. `make bench` runs it; it prints tables and writes bench/out/*.json. Its sections, for -only:
//
//   - saga: a saga of three calls, by this engine and by programs written by hand
//   - embedded: the whole checkout in one process
//   - dapr: the whole checkout on Dapr, beside bare workflows
//   - events: what carries the events (events.go)
//   - million: how a million checkouts are found (million.go)
//
// The systems of the first three stand side by side on one PostgreSQL server (durable, as in production). They are measured in turns, a
// few seconds each, so that whatever else the machine does hits all alike. What counts are the ratios within a round.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	rounds   int
	seconds  float64
	only     string
	inFlight string
	backlog  int
	out      string
	profile  bool
	keep     bool
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "turns that each system gets at each concurrency")
	flag.Float64Var(&o.seconds, "seconds", 5, "length of a turn, without its warm-up")
	flag.StringVar(&o.only, "only", strings.Join(sections, ","), "which sections to measure")
	flag.StringVar(&o.inFlight, "in-flight", "1,16,64,256", "how many are under way at once")
	flag.IntVar(&o.backlog, "backlog", 10_000, "how many events wait when a relay or a consumer is measured")
	flag.StringVar(&o.out, "out", filepath.Join("bench", "out"), "folder that the figures are written to")
	flag.BoolVar(&o.profile, "profile", false, "instead of comparing: CPU profiles and statements of the programs, at each concurrency")
	flag.BoolVar(&o.keep, "keep", false, "leave the data and the logs of this run below .local/bench")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	concurrencies, err := numbers(o.inFlight)
	if err != nil {
		return err
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	if _, err := os.Stat("go.mod"); err != nil {
		return errors.New("run it from the folder of go.mod, as make bench does")
	}
	only := strings.Split(o.only, ",")
	for _, section := range only {
		if !slices.Contains(sections, section) {
			return fmt.Errorf("-only %s: want some of %s, separated by commas", o.only, strings.Join(sections, ", "))
		}
	}
	if o.rounds < 1 || o.seconds <= 0 {
		return errors.New("want at least one round, and seconds above 0")
	}
	if o.backlog < 2*writeBatch || o.backlog%writeBatch != 0 {
		return fmt.Errorf("-backlog %d: want a multiple of %d from %d on", o.backlog, writeBatch, 2*writeBatch)
	}
	fmt.Fprintln(os.Stderr, "starting PostgreSQL and the systems ...")
	startCtx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	g, err := startGround(startCtx, root, slices.Contains(only, "dapr") || slices.Contains(only, "events"), o.profile)
	if g != nil {
		defer func() {
			stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			// What was started and did not work is told by its logs.
			err = errors.Join(err, g.stop(stopCtx, o.keep || err != nil))
		}()
	}
	if err != nil {
		return err
	}
	if starters := chosen(only); len(starters) > 0 {
		if err := compare(ctx, g, starters, concurrencies, o); err != nil {
			return err
		}
	}
	if slices.Contains(only, "events") {
		r, err := measureEvents(ctx, g, o)
		if err != nil {
			return err
		}
		r.print(os.Stdout)
		if err := write(filepath.Join(o.out, "events.json"), r); err != nil {
			return err
		}
	}
	if !slices.Contains(only, "million") {
		return nil
	}
	r, err := measureMillion(ctx, g, filepath.Join(o.out, "million-plans.txt"))
	if err != nil {
		return err
	}
	r.print(os.Stdout)
	return write(filepath.Join(o.out, "million.json"), r)
}

// compare starts the systems, measures them in turns, and stops them.
func compare(ctx context.Context, g *ground, starters []starter, concurrencies []int, o options) error {
	startCtx, cancel := context.WithTimeout(ctx, 10*time.Minute) // Programs are built first.
	defer cancel()
	var systems []*system
	for _, start := range starters {
		s, err := start(startCtx, g)
		if err != nil {
			return err
		}
		defer s.stop()
		systems = append(systems, s)
	}
	for _, s := range systems {
		if _, err := g.measure(ctx, s, 4, time.Second, s.name+"-first"); err != nil {
			return err
		}
	}
	if o.profile {
		return g.profileAll(ctx, systems, concurrencies, o)
	}
	r, err := measureAll(ctx, g, systems, concurrencies, o)
	if err != nil {
		return err
	}
	r.print(os.Stdout)
	return write(filepath.Join(o.out, "systems.json"), r)
}

// measureAll gives each system its turn at each concurrency, round by round.
func measureAll(ctx context.Context, g *ground, systems []*system, concurrencies []int, o options) (report, error) {
	r := report{At: time.Now().UTC().Truncate(time.Second), Machine: machine(), Rounds: o.rounds, Seconds: o.seconds}
	for _, inFlight := range concurrencies {
		for _, s := range systems {
			r.Rows = append(r.Rows, row{System: s.name, InFlight: inFlight})
		}
	}
	for round := range o.rounds {
		for i, inFlight := range concurrencies {
			for j, s := range systems {
				t, err := g.measure(ctx, s, inFlight, o.length(), fmt.Sprintf("%s-%d-%d", s.name, inFlight, round))
				if err != nil {
					return r, err
				}
				fmt.Fprintf(os.Stderr, "round %d, %3d in flight, %-8s %7.1f/s\n", round+1, inFlight, s.name, t.PerSecond)
				at := &r.Rows[i*len(systems)+j]
				at.Turns = append(at.Turns, t)
			}
		}
	}
	for i, at := range r.Rows {
		r.Rows[i] = summarize(at.System, at.InFlight, at.Turns)
	}
	r.Ratios = r.compare()
	return r, nil
}

func (o options) length() time.Duration { return time.Duration(o.seconds * float64(time.Second)) }

var sections = []string{"saga", "embedded", "dapr", "events", "million"}

type starter func(context.Context, *ground) (*system, error)

// systems are those of the sections in the order of their turns.
var systems = []struct {
	sections []string
	start    starter
}{
	// Beside the whole checkout, too: its calls are what a checkout is measured against.
	{[]string{"saga", "embedded"}, startSaga("direct")},
	{[]string{"saga"}, startSaga("log")},
	{[]string{"saga"}, startSaga("group")},
	{[]string{"saga"}, startSaga("saga")},
	{[]string{"embedded"}, startEmbedded},
	{[]string{"embedded"}, startArticle},
	{[]string{"dapr"}, startBare},
	{[]string{"dapr"}, startOnDapr},
	{[]string{"dapr"}, startWorkflow},
}

func chosen(only []string) (found []starter) {
	for _, s := range systems {
		if slices.ContainsFunc(s.sections, func(section string) bool { return slices.Contains(only, section) }) {
			found = append(found, s.start)
		}
	}
	return found
}

func numbers(list string) ([]int, error) {
	var all []int
	for _, text := range strings.Split(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("-in-flight %s: want numbers separated by commas", list)
		}
		all = append(all, n)
	}
	return all, nil
}

func machine() string {
	return fmt.Sprintf("%s/%s, %d processors", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
}

// write writes a report as JSON.
func write(file string, report any) error {
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	fmt.Fprintln(os.Stderr, "written to", file)
	return nil
}
