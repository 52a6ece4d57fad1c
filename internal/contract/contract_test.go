package contract_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	deadletterv1 "github.com/checkoutsaga/orchestrator/gen/deadletter/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	_ "github.com/checkoutsaga/orchestrator/gen/notification/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	ordersv1 "github.com/checkoutsaga/orchestrator/gen/orders/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	pricingv1 "github.com/checkoutsaga/orchestrator/gen/pricing/v1"
	_ "github.com/checkoutsaga/orchestrator/gen/saga/participant/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/contract"
)

func TestI9WhatBreaksARuleIsToldByField(t *testing.T) {
	t.Parallel()
	year10000 := &timestamppb.Timestamp{Seconds: 253402300800}
	for name, c := range map[string]struct {
		message proto.Message
		want    []string
	}{
		"everything at once": {&warehousev1.ReserveRequest{OrderId: "-", Lines: []*warehousev1.Line{{Sku: "A B", Quantity: -1}, {Quantity: 1}}}, []string{
			"order_id: must be 1 to 64 letters, digits, dots, underscores and hyphens and begin with a letter or a digit",
			"lines[0].sku: must not contain spaces or control characters", "lines[0].quantity: must be 1 to 10000, not -1", "lines[1].sku: is missing",
		}},
		"an id with a new line": {&checkoutv1.GetRequest{OrderId: "ord-1\n"}, []string{
			"order_id: must be 1 to 64 letters, digits, dots, underscores and hyphens and begin with a letter or a digit",
		}},
		"an article twice": {&warehousev1.ReserveRequest{OrderId: "a", Lines: []*warehousev1.Line{{Sku: "A", Quantity: 1}, {Sku: "B", Quantity: 1}, {Sku: "A", Quantity: 1}}},
			[]string{"lines: A is in several lines; put their quantities together"}},
		"no money":               {&pricingv1.SetPriceRequest{Sku: "A"}, []string{"unit_price: is missing"}},
		"too much money":         {&paymentv1.CaptureRequest{OrderId: "a", Amount: &operationv1.Money{Currency: "EUR", MinorUnits: 1_000_000_000_001}}, []string{"amount.minor_units: must be 1 to 1000000000000, not 1000000000001"}},
		"no currency":            {&operationv1.Money{Currency: "eur", MinorUnits: 1}, []string{"currency: must be a currency's three letters, such as EUR"}},
		"64 wide characters":     {&warehousev1.GetStockRequest{Sku: strings.Repeat("茶", 64)}, []string{"sku: must not be longer than 64 bytes"}},
		"a turn of writing":      {&warehousev1.GetStockRequest{Sku: "a\u202eb"}, []string{"sku: must not contain spaces or control characters"}},
		"a zero byte":            {&checkoutv1.ListRequest{CustomerId: "a\x00"}, []string{"customer_id: must not contain spaces or control characters"}},
		"a reason with ESC":      {&deadletterv1.ArchiveRequest{Reason: "\x1b[2J"}, []string{"reason: must be at most 500 printable characters"}},
		"a long actor":           {&deadletterv1.ReplayRequest{Reason: "r", Actor: strings.Repeat("a", 129)}, []string{"actor: must be at most 128 printable characters"}},
		"a page token":           {&ordersv1.ListOrdersRequest{CustomerId: "c", PageToken: "?"}, []string{"page_token: must be one that a page ended with"}},
		"an id of a list":        {&operationv1.ForgetOperationsRequest{OrderIds: []string{"ord-1", "ord\x00"}}, []string{"order_ids[1]: must be 1 to 64 letters, digits, dots, underscores and hyphens and begin with a letter or a digit"}},
		"a list without end":     {&operationv1.ForgetOperationsRequest{OrderIds: make([]string, 1001)}, []string{"order_ids: must be at most 1000, not 1001"}},
		"a time that is none":    {&eventv1.ListEventsRequest{Selection: &eventv1.Selection{Since: &timestamppb.Timestamp{Nanos: -1}}}, []string{"selection.since: must be a time"}},
		"the year 10000":         {&checkoutv1.AuditRequest{Since: year10000}, []string{"since: must be a time"}},
		"a deadline too far":     {&checkoutv1.StartRequest{CustomerId: "c", Currency: "EUR", PaymentMethod: "p", Items: []*checkoutv1.Item{{Sku: "A", Quantity: 1}}, Deadline: durationpb.New(31 * 24 * time.Hour)}, []string{"deadline: must be 1 second to 30 days"}},
		"an enum of no value":    {&checkoutv1.ResolveRequest{OrderId: "a", Step: "s", Reason: "r", As: 9}, []string{"as: must be RESOLUTION_RETRY, RESOLUTION_DONE or RESOLUTION_REFUND"}},
		"an enum of a list":      {&checkoutv1.ListRequest{Statuses: []checkoutv1.Status{0}}, []string{"statuses[0]: must be STATUS_RUNNING, STATUS_AWAITING_APPROVAL, STATUS_COMPENSATING, STATUS_NEEDS_ATTENTION, STATUS_CONFIRMED, STATUS_REJECTED, STATUS_CANCELLED or STATUS_EXPIRED"}},
		"nothing to pay":         {&warehousev1.InventoryReserved{Header: &eventv1.Header{EventId: "e", Topic: "t", Producer: "p", Coordination: "choreographed", OccurredAt: timestamppb.Now()}}, []string{"payment: is missing in a choreographed checkout"}},
		"a gateway's humour":     {&paymentv1.SetBehaviourRequest{PaymentMethod: "p", Void: "maybe"}, []string{"void: must be works, fails, refused, times_out_after, times_out_before or fails_twice"}},
		"an engine of one's own": {&checkoutv1.RedriveRequest{OrderId: "a", Reason: "r", Engine: "steam"}, []string{"engine: must be dapr or embedded"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, p := range contract.Check(c.message) {
				got = append(got, p.Field+": "+p.Problem)
			}
			require.Empty(t, cmp.Diff(c.want, got))
		})
	}
}

func TestWhatKeepsTheRulesIsTaken(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]proto.Message{
		"the longest names":        &warehousev1.GetStockRequest{Sku: strings.Repeat("茶", 21) + "a"},
		"a reason of words":        &checkoutv1.CancelRequest{OrderId: "a", Reason: strings.Repeat("ü ", 250)},
		"nothing that is required": &checkoutv1.ListRequest{},
		"all times":                &checkoutv1.AuditRequest{Since: &timestamppb.Timestamp{Seconds: -62135596800}},
		"a whole order's worth":    &operationv1.Money{Currency: "JPY", MinorUnits: 1_000_000_000_000},
	} {
		require.Empty(t, contract.Check(m), name)
	}
}

// A request may be a megabyte of what is wrong: a list that is too long is not looked into, and no answer tells of everything.
func TestI9OnlyTheFirstOfManyWrongFieldsAreTold(t *testing.T) {
	t.Parallel()
	bad := contract.Check(&operationv1.ForgetOperationsRequest{OrderIds: make([]string, 1000)})
	require.Len(t, bad, 20)
	require.Equal(t, "order_ids[19]", bad[19].Field)
	require.Contains(t, bad[19].Problem, "; and 980 more")
	huge := &warehousev1.ReserveRequest{OrderId: "a"}
	for range 300_000 {
		huge.Lines = append(huge.Lines, &warehousev1.Line{})
	}
	require.Equal(t, "lines: must be at most 100, not 300000", contract.Sentence(contract.Check(huge)))
}

// Whoever adds a field to a request has to say what it may hold.
func TestEveryFieldOfARequestHasARule(t *testing.T) {
	t.Parallel()
	seen := make(map[protoreflect.FullName]bool)
	for _, s := range services() {
		for i := range s.Methods().Len() {
			for _, lacks := range unruled(s.Methods().Get(i).Input(), seen) {
				t.Errorf("%s may hold anything", lacks)
			}
		}
	}
	require.Greater(t, len(seen), 40)
	require.Contains(t, fmt.Sprint(unruled((&checkoutv1.Entry{}).ProtoReflect().Descriptor(), seen)), "checkout.v1.Entry.step", "a field without a rule is seen")
}

// unruled are the fields of a message, and of what is in it, that no rule holds. A bool can be nothing but that.
func unruled(m protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) (all []protoreflect.FullName) {
	if seen[m.FullName()] {
		return nil
	}
	seen[m.FullName()] = true
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		rules, _ := proto.GetExtension(f.Options(), validate.E_Field).(*validate.FieldRules)
		switch {
		case f.Message() != nil && f.Message().FullName() == "google.protobuf.Value":
			// Any JSON: no rule can measure it, so package saga/participant does, and proves it.
		case f.IsList():
			if !rules.GetRepeated().HasMaxItems() || f.Message() == nil && !rules.GetRepeated().HasItems() {
				all = append(all, f.FullName())
			}
		case f.Kind() != protoreflect.BoolKind && f.Message() == nil, f.Message() != nil && strings.HasPrefix(string(f.Message().FullName()), "google."):
			if rules.WhichType() == validate.FieldRules_Type_not_set_case {
				all = append(all, f.FullName())
			}
		}
		if f.Message() != nil && !strings.HasPrefix(string(f.Message().FullName()), "google.") {
			all = append(all, unruled(f.Message(), seen)...)
		}
	}
	return all
}

func BenchmarkCheck(b *testing.B) {
	m := &checkoutv1.StartRequest{
		OrderId: "ord-1", CustomerId: "cus-1", Currency: "EUR", PaymentMethod: "tok_visa",
		Items: []*checkoutv1.Item{{Sku: "CHAIR-OAK", Quantity: 2}, {Sku: "LAMP-BRASS", Quantity: 1}},
	}
	require.Empty(b, contract.Check(m))
	b.ReportAllocs()
	for b.Loop() {
		contract.Check(m)
	}
}

// services are all that the contracts have.
func services() (all []protoreflect.ServiceDescriptor) {
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			all = append(all, file.Services().Get(i))
		}
		return true
	})
	slices.SortFunc(all, func(a, b protoreflect.ServiceDescriptor) int {
		return strings.Compare(string(a.FullName()), string(b.FullName()))
	})
	return all
}
