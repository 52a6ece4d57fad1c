package deadletter

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// scrapeTimeout bounds what a scrape asks of the database.
const scrapeTimeout = 2 * time.Second

var (
	openLetters = prometheus.NewDesc("dead_letters_open",
		"Messages that a consumer could not take and that nobody has replayed or archived yet, by topic.", []string{"topic"}, nil)
	openAge = prometheus.NewDesc("dead_letters_open_age_seconds",
		"For how long the oldest of them has waited.", nil, nil)
)

// Collector tells of the open letters, as the database has them when it is asked. Every process that shares the database tells
// the same.
func (s *Service) Collector() prometheus.Collector { return collector{s} }

type collector struct{ service *Service }

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- openLetters
	ch <- openAge
}

// Collect leaves the metrics out while the database does not answer: an error would take all others from the page too.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	open, oldest, err := c.service.letters.waiting(ctx)
	if err != nil {
		c.service.log.Warn("the open dead letters are not known", "error", err)
		return
	}
	for topic, count := range open {
		ch <- prometheus.MustNewConstMetric(openLetters, prometheus.GaugeValue, float64(count), topic)
	}
	ch <- prometheus.MustNewConstMetric(openAge, prometheus.GaugeValue, oldest.Seconds())
}

// waiting counts the open letters by topic, and tells for how long the oldest has waited.
func (l letters) waiting(ctx context.Context) (open map[string]int64, oldest time.Duration, err error) {
	const query = `
		SELECT topic, count(*), clock_timestamp() - min(arrived_at) FROM dead_letters WHERE state = 'open' GROUP BY topic`
	rows, err := l.pool.Query(ctx, query)
	if err != nil {
		return nil, 0, fmt.Errorf("count open dead letters: %w", err)
	}
	open = make(map[string]int64)
	var topic string
	var count int64
	var age time.Duration
	if _, err := pgx.ForEachRow(rows, []any{&topic, &count, &age}, func() error {
		open[topic], oldest = count, max(oldest, age)
		return nil
	}); err != nil {
		return nil, 0, fmt.Errorf("count open dead letters: %w", err)
	}
	return open, oldest, nil
}
