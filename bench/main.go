// Command bench measures checkouts, then what carries their events (events.go), and then how a million checkouts are found
// (million.go). `make bench` runs it; it prints tables and writes bench/out/checkout.json, bench/out/events.json and
// bench/out/million.json. Of checkouts it compares:
//
//   - bare: a Dapr workflow with as many activities as a confirmed checkout, each making one empty invocation
//   - dapr: this project on Dapr
//   - direct: the bare workflow with the real participants called instead; what lies between it and dapr is the orchestrator's
//   - embedded: this project in one process
//
// The systems stand side by side on one PostgreSQL server (durable, as in production) and one control plane, and are measured
// in turns (bare, dapr, direct, embedded, bare, ...), a few seconds each, so that whatever else the machine does hits all alike. The headline is the
// median over the rounds of the ratio of throughputs, this on Dapr to bare, in the same round.
//
// Both clients begin with one call and then wait on a stream that the server pushes to: for a checkout, Start and Watch at the
// orchestrator's API; for the bare workflow, ScheduleNewWorkflow and WaitForWorkflowCompletion at the sidecar's. So the checkout
// pays for its API and its rows, and the bare workflow for the sidecar's look at its state.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

type options struct {
	rounds   int
	seconds  float64
	only     string
	inFlight string
	backlog  int
	out      string
	keep     bool
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 3, "turns that each system gets at each concurrency")
	flag.Float64Var(&o.seconds, "seconds", 5, "length of a turn, without its warm-up")
	flag.StringVar(&o.only, "only", "bare,dapr,direct,embedded,events,million", "which systems to measure, and whether events and a million checkouts")
	flag.StringVar(&o.inFlight, "in-flight", "1,16,64", "how many are under way at once")
	flag.IntVar(&o.backlog, "backlog", 10_000, "how many events wait when a relay or a consumer is measured")
	flag.StringVar(&o.out, "out", filepath.Join("bench", "out"), "folder that the figures are written to")
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
	starters, parts, err := chosen(o.only)
	if err != nil {
		return err
	}
	if o.backlog < 2*writeBatch || o.backlog%writeBatch != 0 {
		return fmt.Errorf("-backlog %d: want a multiple of %d from %d on", o.backlog, writeBatch, 2*writeBatch)
	}
	fmt.Fprintln(os.Stderr, "starting PostgreSQL, Dapr and the systems ...")
	startCtx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	g, err := startGround(startCtx, root, o.only != "embedded" && o.only != "million")
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
	if len(starters) > 0 {
		r, err := measureCheckouts(ctx, g, starters, concurrencies, o)
		if err != nil {
			return err
		}
		r.print(os.Stdout)
		if err := write(filepath.Join(o.out, "checkout.json"), r); err != nil {
			return err
		}
	}
	if slices.Contains(parts, "events") {
		r, err := measureEvents(ctx, g, o)
		if err != nil {
			return err
		}
		r.print(os.Stdout)
		if err := write(filepath.Join(o.out, "events.json"), r); err != nil {
			return err
		}
	}
	if !slices.Contains(parts, "million") {
		return nil
	}
	r, err := measureMillion(ctx, g, filepath.Join(o.out, "million-plans.txt"))
	if err != nil {
		return err
	}
	r.print(os.Stdout)
	return write(filepath.Join(o.out, "million.json"), r)
}

// measureCheckouts starts the systems, measures them, and stops them.
func measureCheckouts(ctx context.Context, g *ground, starters []starter, concurrencies []int, o options) (report, error) {
	startCtx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	var systems []*system
	for _, start := range starters {
		s, err := start(startCtx, g)
		if err != nil {
			return report{}, err
		}
		defer s.stop()
		systems = append(systems, s)
	}
	return measureAll(ctx, g, systems, concurrencies, o)
}

type starter func(context.Context, *ground) (*system, error)

// starters are the systems in the order of their turns.
var starters = []struct {
	name  string
	start starter
}{{"bare", startBare}, {"dapr", startOnDapr}, {"direct", startDirect}, {"embedded", startEmbedded}}

// chosen tells which systems to measure, and which of the other parts.
func chosen(only string) (found []starter, parts []string, err error) {
	names := strings.Split(only, ",")
	for _, s := range starters {
		if slices.Contains(names, s.name) {
			found = append(found, s.start)
			names = slices.DeleteFunc(names, func(name string) bool { return name == s.name })
		}
	}
	for _, name := range names {
		if name != "events" && name != "million" {
			return nil, nil, fmt.Errorf("-only %s: want bare, dapr, direct, embedded, events or million, separated by commas", only)
		}
	}
	return found, names, nil
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

// report is what bench/out/checkout.json holds.
type report struct {
	At      time.Time `json:"at"`
	Machine string    `json:"machine"`
	Rounds  int       `json:"rounds"`
	Rows    []row     `json:"rows"`
}

// row is one system at one concurrency; figures are medians over the turns, quantiles are over all checkouts of all turns.
type row struct {
	System      string             `json:"system"`
	InFlight    int                `json:"in_flight"`
	PerSecond   float64            `json:"per_second"`
	P50MS       float64            `json:"p50_ms"`
	P99MS       float64            `json:"p99_ms"`
	CPUPer1000  float64            `json:"cpu_seconds_per_1000"`
	CPUByKind   map[string]float64 `json:"cpu_seconds_per_1000_by_process"`
	RatioToBare float64            `json:"throughput_ratio_to_bare,omitempty"`
	CPUToBare   float64            `json:"cpu_ratio_to_bare,omitempty"`
	Turns       []turn             `json:"turns"`
}

func measureAll(ctx context.Context, g *ground, systems []*system, concurrencies []int, o options) (report, error) {
	r := report{
		At: time.Now().UTC().Truncate(time.Second), Rounds: o.rounds,
		Machine: machine(),
	}
	length := time.Duration(o.seconds * float64(time.Second))
	for _, s := range systems {
		if _, err := g.measure(ctx, s, 4, time.Second, s.name+"-first"); err != nil {
			return r, err
		}
	}
	for _, inFlight := range concurrencies {
		turns := make([][]turn, len(systems))
		for round := range o.rounds {
			for i, s := range systems {
				t, err := g.measure(ctx, s, inFlight, length, fmt.Sprintf("%s-%d-%d", s.name, inFlight, round))
				if err != nil {
					return r, err
				}
				fmt.Fprintf(os.Stderr, "%3d in flight, round %d, %-8s %7.1f/s\n", inFlight, round+1, s.name, t.PerSecond)
				turns[i] = append(turns[i], t)
			}
		}
		for i, s := range systems {
			summary := summarize(s.name, inFlight, turns[i])
			if systems[0].name == "bare" && i > 0 {
				summary.RatioToBare, summary.CPUToBare = ratios(turns[i], turns[0])
			}
			r.Rows = append(r.Rows, summary)
		}
	}
	return r, nil
}

func summarize(name string, inFlight int, turns []turn) row {
	var perSecond, cpu []float64
	byKind := map[string][]float64{}
	var latencies []time.Duration
	for _, t := range turns {
		perSecond = append(perSecond, t.PerSecond)
		cpu = append(cpu, t.cpu())
		latencies = append(latencies, t.latencies...)
		for kind, seconds := range t.CPUPer1000 {
			byKind[kind] = append(byKind[kind], seconds)
		}
	}
	r := row{
		System: name, InFlight: inFlight, PerSecond: median(perSecond), CPUPer1000: median(cpu), CPUByKind: map[string]float64{},
		P50MS: milliseconds(quantile(latencies, 0.5)), P99MS: milliseconds(quantile(latencies, 0.99)), Turns: turns,
	}
	for kind, seconds := range byKind {
		if m := median(seconds); m >= 0.01 {
			r.CPUByKind[kind] = m
		}
	}
	return r
}

// ratios are the medians over the rounds of throughput and CPU time, those of turns to those of base in the same round.
func ratios(turns, base []turn) (throughput, cpu float64) {
	var t, c []float64
	for i := range turns {
		t = append(t, turns[i].PerSecond/base[i].PerSecond)
		c = append(c, turns[i].cpu()/base[i].cpu())
	}
	return median(t), median(c)
}

func (t turn) cpu() (sum float64) {
	for _, seconds := range t.CPUPer1000 {
		sum += seconds
	}
	return sum
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (r report) print(to io.Writer) {
	fmt.Fprintf(to, "\n%s; medians of %d rounds\n\n", r.Machine, r.Rounds)
	w := tabwriter.NewWriter(to, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "in flight\tsystem\tper second\tp50 ms\tp99 ms\tCPU s per 1,000\tthroughput to bare\tCPU to bare\t")
	for _, row := range r.Rows {
		ratio, cpu := "", ""
		if row.RatioToBare > 0 {
			ratio, cpu = fmt.Sprintf("%.2f", row.RatioToBare), fmt.Sprintf("%.2f", row.CPUToBare)
		}
		fmt.Fprintf(w, "%d\t%s\t%.1f\t%.1f\t%.1f\t%.1f\t%s\t%s\t\n", row.InFlight, row.System, row.PerSecond, row.P50MS, row.P99MS, row.CPUPer1000, ratio, cpu)
	}
	w.Flush()
	fmt.Fprintln(to, "\nCPU seconds per 1,000 by process:")
	for _, row := range r.Rows {
		fmt.Fprintf(to, "  %2d %-8s  %s\n", row.InFlight, row.System, byProcess(row.CPUByKind))
	}
}

// byProcess lists CPU seconds, the most first.
func byProcess(cpu map[string]float64) string {
	var list strings.Builder
	for _, kind := range slices.SortedFunc(maps.Keys(cpu), func(a, b string) int { return cmp.Compare(cpu[b], cpu[a]) }) {
		fmt.Fprintf(&list, " %s %.3g", kind, cpu[kind])
	}
	return list.String()
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
