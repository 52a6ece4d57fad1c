package saga_test

import (
	"fmt"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/sagatest"
)

// A trip is booked at three places. The card is declined after the hotel's first answer got lost; so the room, which may
// or may not be reserved, is released, and the seat too, last step first.
func Example() {
	trip, err := saga.Define("trip", 1,
		saga.Do("reserve-room").At("hotel").UndoneBy("release-room"),
		saga.Do("hold-seat").At("airline").UndoneBy("free-seat"),
		saga.Pivot("charge-card").At("bank"), // no way back after this, but its own refusal
		saga.Do("send-ticket").At("airline").NothingToUndo(),
	)
	if err != nil {
		fmt.Println(err)
		return
	}

	played, err := sagatest.Scenario{
		Saga: trip,
		Script: sagatest.Script{
			"reserve-room": {sagatest.Fails("no answer in 5s")}, // then applied
			"charge-card":  {sagatest.Rejected("card declined")},
		},
	}.Play()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, line := range played.Story() {
		fmt.Println(line)
	}
	// Output:
	// reserve-room #1: error: no answer in 5s
	// wait 250ms
	// reserve-room #2: applied
	// hold-seat: applied
	// charge-card: rejected, card declined
	// free-seat: applied
	// release-room: applied
	// end: undone
}

// What is wrong with a list is told before anything runs.
func ExampleDefine_wrong() {
	_, err := saga.Define("trip", 1,
		saga.Do("reserve-room").At("hotel"),
		saga.Pivot("charge-card").At("bank"),
		saga.Do("hold-seat").At("airline").UndoneBy("free-seat"),
	)
	fmt.Println(err)
	// Output:
	// define saga "trip": step "reserve-room" does not say what undoes it: use UndoneBy with a name, or NothingToUndo
	// step "hold-seat" is undone by "free-seat", but stands after the pivot "charge-card", where nothing is undone: use NothingToUndo
}
