package orchestrator

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/event"
)

// Limits of an order.
const (
	maxLines        = 100
	maxQuantity     = 10_000
	maxName         = 64
	maxToken        = 128
	maxKey          = 255
	maxSKU          = 64
	defaultDeadline = 15 * time.Minute
	defaultApproval = 24 * time.Hour
	minDeadline     = time.Second
	maxDeadline     = 30 * 24 * time.Hour
)

// priceList is what is needed of the price list to judge an order.
type priceList struct {
	currencies []string
	// known holds each article of the order that has a price in any currency.
	known map[string]bool
	// prices holds the price in the order's currency.
	prices map[string]int64
}

// validate tells all that is wrong with an order, in the order of its fields; nothing if it can be accepted.
func validate(req *checkoutv1.StartRequest, key string, list priceList) []*checkoutv1.BadField {
	var bad []*checkoutv1.BadField
	refuse := func(field, problem string, args ...any) {
		bad = append(bad, badField(field, problem, args...))
	}

	switch {
	case req.OrderId == "" && key == "":
		refuse("order_id", "is missing, and so is the Idempotency-Key header; a start needs one of them to be repeatable")
	case req.OrderId != "" && !checkout.OrderIDPattern.MatchString(req.OrderId):
		refuse("order_id", "must be 1 to 64 letters, digits, dots, underscores and hyphens and begin with a letter or a digit")
	}
	if key != "" && !printable(key, maxKey) {
		refuse("Idempotency-Key", "must be at most %d printable characters", maxKey)
	}
	switch {
	case req.CustomerId == "":
		refuse("customer_id", "is missing")
	case wrongName(req.CustomerId) != "":
		refuse("customer_id", "%s", wrongName(req.CustomerId))
	}
	currencyKnown := false
	for _, c := range list.currencies {
		currencyKnown = currencyKnown || c == req.Currency
	}
	switch {
	case req.Currency == "":
		refuse("currency", "is missing")
	case !currencyKnown:
		refuse("currency", "%q is unknown; prices are in %s", clip(req.Currency), strings.Join(list.currencies, ", "))
	}
	switch {
	case len(req.Items) == 0:
		refuse("items", "is empty; an order has 1 to %d lines", maxLines)
	case len(req.Items) > maxLines:
		refuse("items", "has %d lines; an order has at most %d", len(req.Items), maxLines)
	}
	bad = append(bad, validateItems(req, list, currencyKnown)...)
	switch {
	case req.PaymentMethod == "":
		refuse("payment_method", "is missing")
	case wrongName(req.PaymentMethod) != "":
		refuse("payment_method", "%s", wrongName(req.PaymentMethod))
	}
	if wrongDeadline(req.Deadline) {
		refuse("deadline", "must be 1 second to 30 days")
	}
	if c := req.Coordination; c != "" && c != event.Orchestrated && c != event.Choreographed {
		refuse("coordination", "must be %s or %s, not %q", event.Orchestrated, event.Choreographed, clip(c))
	}
	if wrongDeadline(req.ApprovalDeadline) {
		refuse("approval_deadline", "must be 1 second to 30 days")
	}
	return bad
}

func wrongDeadline(d *durationpb.Duration) bool {
	return d != nil && (d.CheckValid() != nil || d.AsDuration() < minDeadline || d.AsDuration() > maxDeadline)
}

func validateItems(req *checkoutv1.StartRequest, list priceList, currencyKnown bool) []*checkoutv1.BadField {
	var bad []*checkoutv1.BadField
	seen := make(map[string]int)
	for i, item := range head(req.Items) {
		field := fmt.Sprintf("items[%d].", i)
		first, twice := seen[item.Sku]
		switch {
		case item.Sku == "":
			bad = append(bad, badField(field+"sku", "is missing"))
		case twice:
			// Refused and not merged: two lines for one article are as likely a slip as a wish.
			bad = append(bad, badField(field+"sku", "%s is also items[%d]; put the quantities together", clip(item.Sku), first))
		case !list.known[item.Sku]:
			bad = append(bad, badField(field+"sku", "there is no article %q", clip(item.Sku)))
		case currencyKnown && list.prices[item.Sku] == 0:
			bad = append(bad, badField(field+"sku", "%s has no price in %s", item.Sku, req.Currency))
		}
		if !twice {
			seen[item.Sku] = i
		}
		if item.Quantity < 1 || item.Quantity > maxQuantity {
			bad = append(bad, badField(field+"quantity", "must be 1 to %d, not %d", maxQuantity, item.Quantity))
		}
	}
	return bad
}

// head is the lines that are looked at: all that a good order can have, so that a huge one costs no more.
func head(items []*checkoutv1.Item) []*checkoutv1.Item {
	return items[:min(len(items), maxLines)]
}

// articles are the names that are worth asking the price list about.
func articles(items []*checkoutv1.Item) []string {
	var skus []string
	for _, item := range head(items) {
		if printable(item.Sku, maxSKU) {
			skus = append(skus, item.Sku)
		}
	}
	return skus
}

// printable tells whether s has 1 to most characters, all of which can be seen. PostgreSQL would refuse some of the others.
func printable(s string, most int) bool {
	if s == "" || !utf8.ValidString(s) || utf8.RuneCountInString(s) > most {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// wrongName tells what is wrong with a name that payment is given too; empty if nothing is. It must refuse all that a
// participant refuses as malformed: an accepted order that a participant will not even read could never end.
func wrongName(s string) string {
	switch {
	case !printable(s, maxName):
		return fmt.Sprintf("must be at most %d printable characters", maxName)
	case len(s) > maxName:
		return fmt.Sprintf("must be at most %d bytes", maxName)
	case strings.ContainsFunc(s, unicode.IsSpace):
		return "must not contain spaces"
	}
	return ""
}

// clip keeps what a caller sent from filling an error message.
func clip(s string) string {
	if runes := []rune(s); len(runes) > maxSKU {
		return string(runes[:maxSKU]) + "…"
	}
	return s
}
