package outbox

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// scrapeTimeout bounds what a scrape asks of the database.
const scrapeTimeout = 2 * time.Second

var (
	backlogEvents = prometheus.NewDesc("outbox_backlog_events",
		"Events that were written and not published yet.", nil, nil)
	backlogAge = prometheus.NewDesc("outbox_backlog_age_seconds",
		"For how long the oldest of them has waited; minutes mean that the bus takes no events.", nil, nil)
)

// Collector tells the backlog, as the database has it when it is asked. Every process that shares the database tells the same.
func (o *Outbox) Collector() prometheus.Collector { return collector{o} }

type collector struct{ outbox *Outbox }

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- backlogEvents
	ch <- backlogAge
}

// Collect leaves the metrics out while the database does not answer: an error would take all others from the page too.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	backlog, err := c.outbox.Backlog(ctx)
	if err != nil {
		c.outbox.log.Warn("the outbox's backlog is not known", "error", err)
		return
	}
	ch <- prometheus.MustNewConstMetric(backlogEvents, prometheus.GaugeValue, float64(backlog.Events))
	ch <- prometheus.MustNewConstMetric(backlogAge, prometheus.GaugeValue, backlog.Oldest.Seconds())
}
