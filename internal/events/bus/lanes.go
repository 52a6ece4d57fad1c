package bus

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
)

var laneSeed = maphash.MakeSeed()

// InLanes hands events over side by side, at most lanes at once. Those of one key go one after the other, and none after one that
// was not taken. It is for Publishers whose carrier takes single events.
func InLanes(ctx context.Context, lanes int, events []Event, hand func(context.Context, Event) error) []error {
	failed := make([]error, len(events))
	queues := make([][]int, lanes)
	for i, e := range events {
		lane := maphash.String(laneSeed, e.Key) % uint64(lanes)
		queues[lane] = append(queues[lane], i)
	}
	var all sync.WaitGroup
	for _, queue := range queues {
		if len(queue) == 0 {
			continue
		}
		all.Go(func() {
			stuck := make(map[string]string)
			for _, i := range queue {
				e := events[i]
				if before, isStuck := stuck[e.Key]; isStuck {
					failed[i] = fmt.Errorf("event %s before it was not taken", before)
					continue
				}
				if failed[i] = hand(ctx, e); failed[i] != nil {
					stuck[e.Key] = e.ID
				}
			}
		})
	}
	all.Wait()
	return failed
}
