package sweeper

import "github.com/prometheus/client_golang/prometheus"

// find is what the sweeper met in an overdue saga. Each is a series of the metric, so renaming one breaks alerts.
type find string

const (
	// foundSettled: nobody was ever asked about it and it was cancelled or its deadline had passed; it was ended.
	foundSettled find = "settled"
	// foundTakenOver: its events did not bring a choreographed one to its end; it goes on in a run of ours.
	foundTakenOver find = "taken_over"
	// foundNotStarted: the engine was not known to have started its run; it was started.
	foundNotStarted find = "not_started"
	// foundSilent: nothing had happened in it although its run lives; it was woken.
	foundSilent find = "silent"
	// foundUnanswered: it was woken and nothing has happened since; it goes on in its next run, as in the three that follow.
	foundUnanswered find = "unanswered"
	// foundGone: the engine does not know its run.
	foundGone find = "gone"
	// foundEnded: its run has failed, was terminated, or completed with the saga open.
	foundEnded find = "ended"
	// foundStopped: its run stopped because its code panicked or does not fit its history.
	foundStopped find = "stopped"
	// foundNoEngine: the engine could not be asked; it is looked at again.
	foundNoEngine find = "no_engine"
)

// finds counts what the sweeper of this process met. Only the leader meets anything, so the sum over processes is what happened.
type finds struct{ total *prometheus.CounterVec }

func newFinds() finds {
	f := finds{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sweeper_finds_total",
		Help: "Overdue sagas, by what the sweeper found and so did about them.",
	}, []string{"find"})}
	// A series that is there from the beginning shows its first increase, too.
	for _, what := range []find{foundSettled, foundTakenOver, foundNotStarted, foundSilent, foundUnanswered, foundGone, foundEnded,
		foundStopped, foundNoEngine} {
		f.total.WithLabelValues(string(what))
	}
	return f
}

func (f finds) count(what find) { f.total.WithLabelValues(string(what)).Inc() }

// Collector tells what the sweeper of this process found.
func (s *Sweeper) Collector() prometheus.Collector { return s.finds.total }
