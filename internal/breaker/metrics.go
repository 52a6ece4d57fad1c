package breaker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	heldBack = prometheus.NewDesc("participant_held_back",
		"1 while this process calls a participant for nobody, because it answers nobody; otherwise 0.", []string{"participant"}, nil)
	heldBackSeconds = prometheus.NewDesc("participant_held_back_seconds",
		"For how long a participant that is held back has answered nobody; 0 for one that is not.", []string{"participant"}, nil)
	openedTotal = prometheus.NewDesc("participant_breaker_opened_total",
		"How often a participant began to be held back.", []string{"participant"}, nil)
)

// Collector has the state of each participant.
func (b *Breakers) Collector() prometheus.Collector { return collector{b} }

type collector struct{ breakers *Breakers }

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- heldBack
	ch <- heldBackSeconds
	ch <- openedTotal
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.breakers.States() {
		held, seconds := 0.0, 0.0
		if s.HeldBack != "" {
			held, seconds = 1, time.Since(s.Since).Seconds()
		}
		ch <- prometheus.MustNewConstMetric(heldBack, prometheus.GaugeValue, held, s.Participant)
		ch <- prometheus.MustNewConstMetric(heldBackSeconds, prometheus.GaugeValue, seconds, s.Participant)
		ch <- prometheus.MustNewConstMetric(openedTotal, prometheus.CounterValue, float64(s.Opened), s.Participant)
	}
}
