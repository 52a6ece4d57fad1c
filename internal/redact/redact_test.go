package redact_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/redact"
)

func TestAnAddressIsShownWithoutItsPasswords(t *testing.T) {
	for address, want := range map[string]string{
		"": "",
		"postgres://orders@127.0.0.1:5432/orders?sslmode=disable":            "postgres://orders@127.0.0.1:5432/orders?sslmode=disable",
		"postgres://orders:secret@127.0.0.1:5432/orders":                     "postgres://orders:xxxxx@127.0.0.1:5432/orders",
		"postgres://127.0.0.1/orders?user=orders&password=secret&sslmode=on": "postgres://127.0.0.1/orders?user=orders&password=xxxxx&sslmode=on",
		"postgres://db/orders?sslpassword=secret":                            "postgres://db/orders?sslpassword=xxxxx",
		"http://key:secret@127.0.0.1:8081":                                   "http://key:xxxxx@127.0.0.1:8081",
		"host=db user=orders password=secret":                                "(set, not shown)",
		"postgres://orders:sec/ret@db/orders":                                "(set, not shown)",
	} {
		require.Equal(t, want, redact.URL(address), address)
	}
}

func TestATextKeepsAllButPasswords(t *testing.T) {
	for text, want := range map[string]string{
		"cannot reach amqp://guest:secret@127.0.0.1:5672: refused":   "cannot reach amqp://guest:xxxxx@127.0.0.1:5672: refused",
		"two: a://u:one@h and b://v:two@h":                           "two: a://u:xxxxx@h and b://v:xxxxx@h",
		"an @ in it: a://u:se@cret@h/x":                              "an @ in it: a://u:xxxxx@h/x",
		`cannot parse "host=db password=secret": no`:                 `cannot parse "host=db password=xxxxx": no`,
		`host=db password='a b' user=x`:                              `host=db password=xxxxx user=x`,
		"POST http://127.0.0.1:8080/a@b: refused":                    "POST http://127.0.0.1:8080/a@b: refused",
		"order ord-1 of cus@example.com ended CONFIRMED at 12:00:01": "order ord-1 of cus@example.com ended CONFIRMED at 12:00:01",
		"redis://:secret@127.0.0.1:6379":                             "redis://:xxxxx@127.0.0.1:6379",
	} {
		require.Equal(t, want, redact.Text(text), text)
	}
}

func TestNoPasswordThatAURLMayCarryGetsThrough(t *testing.T) {
	for _, password := range []string{"p:q", "p@q", "p%2Fq", "p&q=r", "p,q;r", "p'q", "(p)[q]", "p=q", "~p*q!$"} {
		for _, before := range []string{"", "reach ", `dial "`, "error: ", "(", "url="} {
			require.NotContains(t, redact.Text(before+"postgres://orders:"+password+"@127.0.0.1:5432/orders?sslmode=disable"), password)
		}
	}
}
