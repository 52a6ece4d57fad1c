package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is what bench/out/systems.json holds.
type report struct {
	At      time.Time `json:"at"`
	Machine string    `json:"machine"`
	Rounds  int       `json:"rounds"`
	Seconds float64   `json:"seconds"`
	Rows    []row     `json:"rows"`
	Ratios  []ratio   `json:"ratios"`
}

// row is one system at one concurrency; figures are medians over the turns, quantiles are over all that ended in all turns.
type row struct {
	System     string             `json:"system"`
	InFlight   int                `json:"in_flight"`
	PerSecond  spread             `json:"per_second"`
	P50MS      float64            `json:"p50_ms"`
	P99MS      float64            `json:"p99_ms"`
	CPUPer1000 spread             `json:"cpu_seconds_per_1000"`
	CPUByKind  map[string]float64 `json:"cpu_seconds_per_1000_by_process"`
	MemoryMB   map[string]float64 `json:"memory_mb_by_process"`
	Commits    float64            `json:"commits_each"`
	WALBytes   float64            `json:"wal_bytes_each"`
	Turns      []turn             `json:"turns"`
}

// spread is a median and what it lies between.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(of []float64) spread {
	if len(of) == 0 {
		return spread{}
	}
	return spread{median(of), slices.Min(of), slices.Max(of)}
}

func (s spread) format(digits int) string {
	return fmt.Sprintf("%.*f (%.*f–%.*f)", digits, s.Median, digits, s.Min, digits, s.Max)
}

func summarize(name string, inFlight int, turns []turn) row {
	var latencies []time.Duration
	for _, t := range turns {
		latencies = append(latencies, t.latencies...)
	}
	return row{
		System: name, InFlight: inFlight, Turns: turns,
		PerSecond: spreadOf(each(turns, func(t turn) float64 { return t.PerSecond })),
		P50MS:     milliseconds(quantile(latencies, 0.5)), P99MS: milliseconds(quantile(latencies, 0.99)),
		CPUPer1000: spreadOf(each(turns, turn.cpu)),
		CPUByKind:  medians(turns, func(t turn) map[string]float64 { return t.CPUPer1000 }),
		MemoryMB:   medians(turns, func(t turn) map[string]float64 { return t.MemoryMB }),
		Commits:    median(each(turns, func(t turn) float64 { return t.Commits })),
		WALBytes:   median(each(turns, func(t turn) float64 { return t.WALBytes })),
	}
}

func each(turns []turn, figure func(turn) float64) (figures []float64) {
	for _, t := range turns {
		figures = append(figures, figure(t))
	}
	return figures
}

// medians are those of each kind of process that is worth a line.
func medians(turns []turn, figures func(turn) map[string]float64) map[string]float64 {
	byKind := map[string]float64{}
	for kind := range figures(turns[0]) {
		if m := median(each(turns, func(t turn) float64 { return figures(t)[kind] })); m >= 0.005 {
			byKind[kind] = m
		}
	}
	return byKind
}

func (t turn) cpu() (sum float64) {
	for _, seconds := range t.CPUPer1000 {
		sum += seconds
	}
	return sum
}

// ratios are those of throughput and CPU time, each of a turn to that of base in the same round.
func ratios(turns, base []turn) (throughput, cpu spread) {
	var t, c []float64
	for i := range turns {
		if base[i].Done > 0 { // Else the machine was too slow for so short a turn.
			t = append(t, turns[i].PerSecond/base[i].PerSecond)
		}
		c = append(c, turns[i].cpu()/base[i].cpu())
	}
	return spreadOf(t), spreadOf(c)
}

// at is a system at a concurrency.
type at struct {
	system   string
	inFlight int
}

// targets are what this engine wants to reach, with "" where it wants nothing.
var targets = []struct {
	what            string
	of, to          at
	throughput, cpu string
	calls           float64 // How many times as many calls of has; 0 where that is of no account.
}{
	{what: "three-step saga to hand-written group commit", of: at{"saga", 64}, to: at{"group", 64}, throughput: "≥ 0.9", cpu: "≤ 1.3"},
	{what: "three-step saga to hand-written log", of: at{"saga", 1}, to: at{"log", 1}, throughput: "≥ 1.0"},
	{what: "three-step saga to hand-written group commit", of: at{"saga", 256}, to: at{"group", 256}, throughput: "≥ 0.85"},
	{what: "whole checkout to as many calls with no log", of: at{"embedded", 64}, to: at{"direct", 64}, cpu: "≤ 5", calls: 4. / 3},
	{what: "whole checkout to itself", of: at{"embedded", 256}, to: at{"embedded", 64}, throughput: "≥ 1.0"},
	{what: "one article that everybody buys to many (want ≥ 1,000/s)", of: at{"article", 64}, to: at{"embedded", 64}},
	{what: "on Dapr to a bare workflow that calls the same", of: at{"dapr", 64}, to: at{"workflow", 64}, throughput: "≥ 0.9", cpu: "≤ 1.2"},
	{what: "on Dapr to bare Dapr", of: at{"dapr", 64}, to: at{"bare", 64}},
}

// ratio is how one system compares with another: medians over the rounds, within each.
type ratio struct {
	What             string `json:"what"`
	Of               string `json:"of"`
	To               string `json:"to"`
	Throughput       spread `json:"throughput"`
	TargetThroughput string `json:"target_throughput,omitempty"`
	CPU              spread `json:"cpu"`
	TargetCPU        string `json:"target_cpu,omitempty"`
}

func (r report) compare() (all []ratio) {
	turns := map[at][]turn{}
	for _, row := range r.Rows {
		turns[at{row.System, row.InFlight}] = row.Turns
	}
	for _, t := range targets {
		if turns[t.of] == nil || turns[t.to] == nil {
			continue
		}
		found := ratio{What: t.what, Of: t.of.String(), To: t.to.String(), TargetThroughput: t.throughput, TargetCPU: t.cpu}
		found.Throughput, found.CPU = ratios(turns[t.of], turns[t.to])
		if t.calls > 0 {
			found.Throughput = found.Throughput.times(t.calls)
			found.CPU = found.CPU.times(1 / t.calls)
		}
		all = append(all, found)
	}
	return all
}

func (a at) String() string { return fmt.Sprintf("%s at %d", a.system, a.inFlight) }

func (s spread) times(n float64) spread { return spread{s.Median * n, s.Min * n, s.Max * n} }

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (r report) print(to io.Writer) {
	fmt.Fprintf(to, "\n%s; medians (min–max) of %d rounds of %g s\n\n", r.Machine, r.Rounds, r.Seconds)
	w := tabwriter.NewWriter(to, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "in flight\tsystem\tper second\tp50 ms\tp99 ms\tCPU s per 1,000\tcommits each\tWAL bytes each\t")
	for _, row := range r.Rows {
		fmt.Fprintf(w, "%d\t%s\t%s\t%.1f\t%.1f\t%s\t%.2f\t%.0f\t\n", row.InFlight, row.System,
			row.PerSecond.format(0), row.P50MS, row.P99MS, row.CPUPer1000.format(2), row.Commits, row.WALBytes)
	}
	w.Flush()
	fmt.Fprintln(to, "\nCPU seconds per 1,000 by process, and their memory in MB:")
	for _, row := range r.Rows {
		fmt.Fprintf(to, "  %3d %-8s  %s   |%s\n", row.InFlight, row.System, byProcess(row.CPUByKind), byProcess(row.MemoryMB))
	}
	fmt.Fprintln(to)
	fmt.Fprintln(w, "\tof\tto\tthroughput\twanted\tCPU\twanted\t")
	for _, c := range r.Ratios {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", c.What, c.Of, c.To, c.Throughput.format(2), c.TargetThroughput, c.CPU.format(2), c.TargetCPU)
	}
	w.Flush()
}

// byProcess lists figures, the most first.
func byProcess(figures map[string]float64) string {
	var list strings.Builder
	for _, kind := range slices.SortedFunc(maps.Keys(figures), func(a, b string) int { return cmp.Compare(figures[b], figures[a]) }) {
		fmt.Fprintf(&list, " %s %.3g", kind, figures[kind])
	}
	return list.String()
}
