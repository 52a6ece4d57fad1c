package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
)

// digest is a version and a hash over what makes two starts the same order: customer, currency, items by article, payment
// method. It is stored, so this function may only change together with its version. Each field goes in with its length,
// so that no two orders run together to the same bytes; prices, deadline and ids are left out.
func digest(req *checkoutv1.StartRequest) string {
	items := slices.SortedFunc(slices.Values(req.Items), func(a, b *checkoutv1.Item) int {
		return cmp.Compare(a.Sku, b.Sku)
	})
	h := sha256.New()
	number := func(n int) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
	}
	text := func(s string) {
		number(len(s))
		h.Write([]byte(s))
	}
	text(req.CustomerId)
	text(req.Currency)
	number(len(items))
	for _, item := range items {
		text(item.Sku)
		number(int(item.Quantity))
	}
	text(req.PaymentMethod)
	return "v1:" + hex.EncodeToString(h.Sum(nil))
}
