package bus

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// InLanes hands events over side by side, at most lanes at once. Those of one key go one after the other, and none after one that
// was not taken; no key waits for another one as long as a lane is free. It is for Publishers whose carrier takes single events.
func InLanes(ctx context.Context, lanes int, events []Event, hand func(context.Context, Event) error) []error {
	failed := make([]error, len(events))
	var keys []string
	ofKey := make(map[string][]int)
	for i, e := range events {
		if ofKey[e.Key] == nil {
			keys = append(keys, e.Key)
		}
		ofKey[e.Key] = append(ofKey[e.Key], i)
	}
	var all errgroup.Group
	all.SetLimit(lanes)
	for _, key := range keys {
		all.Go(func() error {
			for n, i := range ofKey[key] {
				if failed[i] = hand(ctx, events[i]); failed[i] == nil {
					continue
				}
				for _, behind := range ofKey[key][n+1:] {
					failed[behind] = fmt.Errorf("event %s before it was not taken", events[i].ID)
				}
				break
			}
			return nil
		})
	}
	_ = all.Wait()
	return failed
}
