// Command trip books trips: flight, hotel and car, then the card, then ticket and vouchers; all of it or nothing.
package main

import (
	"errors"
	"time"

	"github.com/checkoutsaga/orchestrator/orchestrator"
	"github.com/checkoutsaga/orchestrator/saga"

	"example.com/trip/participants"
)

// Trip is what somebody wants to book.
type Trip struct {
	Traveller string     `json:"traveller"`
	To        string     `json:"to"`
	Nights    int        `json:"nights"`
	Card      string     `json:"card"`
	Price     saga.Money `json:"price"`
}

// BookTrip is the saga of a trip, first step first.
var BookTrip = saga.For[Trip]{
	Name: "trip", Version: 1, Deadline: 10 * time.Minute,
	Steps: []saga.Step{
		saga.Do("book-flight").At("airline").UndoneBy("cancel-flight").Asking(saga.From(flight)),
		saga.Do("book-hotel").At("agency").UndoneBy("cancel-hotel"),
		saga.Do("rent-car").At("agency").UndoneBy("return-car"),
		saga.Pivot("charge-card").At("bank").UndoneBy("refund-card").Asking(saga.From(charge)),
		saga.Do("issue-ticket").At("airline").NothingToUndo().Asking(saga.From(flight)),
		saga.Do("send-vouchers").At("agency").NothingToUndo(),
	},
	About: func(t Trip) saga.About { return saga.About{Whom: t.Traveller, Money: t.Price} },
	Check: func(t Trip) error {
		if t.Traveller == "" || t.To == "" || t.Nights < 1 {
			return errors.New("a trip needs a traveller, where to, and at least one night")
		}
		return nil
	},
}

func flight(t Trip) participants.Flight { return participants.Flight{Traveller: t.Traveller, To: t.To} }
func charge(t Trip) participants.Charge { return participants.Charge{Card: t.Card, Amount: t.Price} }

func main() {
	orchestrator.Main(orchestrator.Config{Sagas: []saga.Declaration{BookTrip}, Dev: participants.Open})
}
