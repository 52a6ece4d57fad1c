package main

import (
	"fmt"
	"strings"

	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// maxHeldItems is how many articles are told in a table.
const maxHeldItems = 5

// heldWords says what the participants hold for an order.
func heldWords(s cli.Surroundings, h heldView) string {
	var items, parts []string
	for _, item := range h.Stock[:min(len(h.Stock), maxHeldItems)] {
		items = append(items, fmt.Sprintf("%d %s", item.Quantity, item.SKU))
	}
	if more := len(h.Stock) - len(items); more > 0 {
		items = append(items, fmt.Sprintf("%d more articles", more))
	}
	if len(items) > 0 {
		parts = append(parts, strings.Join(items, ", "))
	}
	if h.Authorized != nil {
		text := cli.Amount(h.Authorized) + " authorized"
		if h.AuthorizedUntil != nil {
			if left := h.AuthorizedUntil.Sub(s.Now()); left > 0 {
				text += " for another " + cli.Span(left)
			} else {
				text += ", which expired " + cli.Span(-left) + " ago"
			}
		}
		parts = append(parts, text)
	}
	if h.Captured != nil {
		parts = append(parts, cli.Amount(h.Captured)+" captured")
	}
	return cli.OrDash(strings.Join(parts, "; "))
}
