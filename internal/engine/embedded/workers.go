package embedded

import (
	"sync"

	"github.com/dapr/durabletask-go/api/protos"
)

// job is an activity that is to be carried out.
type job struct {
	instance *instance
	task     *protos.HistoryEvent
}

// workers carry out activities, so many at once, each on a goroutine that is used again: a new one would have to grow its stack anew.
type workers struct {
	// perform carries out an activity and returns those that it caused.
	perform func(job) []job
	max     int
	all     sync.WaitGroup

	mu      sync.Mutex
	some    sync.Cond // there is something to do, or nothing any more
	waiting []job
	idle    int
	running int
	stopped bool
}

func newWorkers(limit int, perform func(job) []job) *workers {
	w := &workers{perform: perform, max: limit}
	w.some.L = &w.mu
	return w
}

// add has activities carried out; once stopped, it does nothing.
func (w *workers) add(jobs []job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.enqueue(jobs)
}

func (w *workers) enqueue(jobs []job) {
	if w.stopped {
		return
	}
	for _, j := range jobs {
		w.waiting = append(w.waiting, j)
		if len(w.waiting) > w.idle && w.running < w.max {
			w.running++
			w.all.Go(w.work)
		} else {
			w.some.Signal()
		}
	}
}

// stop lets no further activity begin. Those that nobody has begun stand in the log.
func (w *workers) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped, w.waiting = true, nil
	w.some.Broadcast()
}

// wait returns when no activity is in hand any more; stop was called before.
func (w *workers) wait() { w.all.Wait() }

func (w *workers) work() {
	var caused []job
	for {
		next, ok := w.next(caused)
		if !ok {
			return
		}
		caused = w.perform(next)
	}
}

// next is what a worker does next. If nobody waits, that is what its last activity caused.
func (w *workers) next(caused []job) (job, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped && len(w.waiting) == 0 && len(caused) > 0 {
		w.enqueue(caused[1:])
		return caused[0], true
	}
	w.enqueue(caused)
	for len(w.waiting) == 0 && !w.stopped {
		w.idle++
		w.some.Wait()
		w.idle--
	}
	if w.stopped {
		return job{}, false
	}
	first := w.waiting[0]
	w.waiting[0] = job{}
	w.waiting = w.waiting[1:]
	return first, true
}
