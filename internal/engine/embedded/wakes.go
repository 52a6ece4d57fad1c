package embedded

import (
	"container/heap"
	"sync"
	"time"
)

// wakes are when the next timer of each instance fires, whether the instance is in memory or not.
type wakes struct {
	// sooner has an element when there is an earlier one than before.
	sooner chan struct{}

	mu   sync.Mutex
	byID map[string]*wake
	heap wakeHeap
}

type wake struct {
	id    string
	at    time.Time
	index int
}

func newWakes() *wakes { return &wakes{sooner: make(chan struct{}, 1), byID: make(map[string]*wake)} }

// set notes when an instance's next timer fires; a zero time means that it has none.
func (w *wakes) set(id string, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	was, is := w.byID[id]
	switch {
	case is && at.IsZero():
		heap.Remove(&w.heap, was.index)
		delete(w.byID, id)
		return
	case at.IsZero(), is && was.at.Equal(at):
		return
	case is:
		was.at = at
		heap.Fix(&w.heap, was.index)
	default:
		w.byID[id] = &wake{id: id, at: at}
		heap.Push(&w.heap, w.byID[id])
	}
	if w.heap[0].id == id {
		signal(w.sooner)
	}
}

// due takes out the instances that have a timer to fire by now, and tells when the next one has; zero where none has.
func (w *wakes) due(now time.Time) (ids []string, next time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.heap) > 0 {
		if first := w.heap[0]; first.at.After(now) {
			return ids, first.at
		}
		first := heap.Pop(&w.heap).(*wake)
		delete(w.byID, first.id)
		ids = append(ids, first.id)
	}
	return ids, time.Time{}
}

// signal puts an element into a channel that has room for one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wakeHeap implements heap.Interface.
type wakeHeap []*wake

func (h wakeHeap) Len() int           { return len(h) }
func (h wakeHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }

func (h wakeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *wakeHeap) Push(x any) {
	w := x.(*wake)
	w.index = len(*h)
	*h = append(*h, w)
}

func (h *wakeHeap) Pop() any {
	last := (*h)[len(*h)-1]
	(*h)[len(*h)-1] = nil
	*h = (*h)[:len(*h)-1]
	return last
}
