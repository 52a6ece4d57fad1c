package payment

import (
	"context"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// payerName is payer.name in SQL, of a row that has both.
const payerName = `CASE definition WHEN 'checkout' THEN key ELSE definition || '/' || key END`

// openWhy is why a saga must not be forgotten yet (package ledger): its money must have come to rest, and its events must be
// out, or the operations that they tell of would be gone before anybody heard of them.
const openWhy = `
	CASE WHEN EXISTS (SELECT FROM payments WHERE order_id = ` + payerName + `
	                    AND state IN ('authorizing', 'authorized', 'voiding', 'capturing', 'refunding'))
	     THEN (SELECT 'its payment is ' || state FROM payments WHERE order_id = ` + payerName + `)
	     WHEN EXISTS (SELECT FROM outbox AS e
	                  WHERE sagas.definition = 'checkout' AND e.about = 'order' AND e.key = sagas.key AND e.published_at IS NULL)
	     THEN 'an event about it is not published yet' END`

// checkBooks compares what the state of each order's payment says of money with what was booked and with what its operations
// record, in minor units. What was applied at the card network and what was booked is one transaction with the state, so all three
// agree at every moment; and it is one statement and so sees one moment. It reads each payment, entry and operation once, locks
// nothing and waits for nobody. Of an order whose operations were forgotten only the book is compared.
func (s *store) checkBooks(ctx context.Context) ([]*operationv1.Discrepancy, error) {
	const query = `
		WITH booked AS (
			SELECT order_id, min(currency) AS first_currency, max(currency) AS last_currency,
			       sum(minor_units) FILTER (WHERE account = 'held')                                AS held,
			       sum(minor_units) FILTER (WHERE account = 'held'     AND movement = 'authorize') AS authorized,
			       sum(minor_units) FILTER (WHERE account = 'merchant' AND movement = 'capture')   AS captured,
			       sum(minor_units) FILTER (WHERE account = 'customer' AND movement = 'refund')    AS refunded
			FROM entries
			GROUP BY order_id
		), recorded AS (
			SELECT ` + payerName + ` AS order_id, min(currency) AS first_currency, max(currency) AS last_currency,
			       sum(minor_units) FILTER (WHERE step = 'authorize-payment')                            AS authorized,
			       sum(minor_units) FILTER (WHERE step = 'authorize-payment' AND undo_state = 'applied') AS voided,
			       sum(minor_units) FILTER (WHERE step = 'capture-payment')                              AS captured,
			       sum(minor_units) FILTER (WHERE step = 'capture-payment'   AND undo_state = 'applied') AS refunded
			FROM operations
			WHERE do_state = 'applied'
			GROUP BY definition, key
		), payment AS (
			SELECT order_id, currency, state,
			       -- One that was voided before it was made has no amount.
			       CASE WHEN state NOT IN ('none', 'authorizing', 'declined') THEN minor_units END AS authorized,
			       CASE WHEN state IN ('authorized', 'voiding', 'capturing')  THEN minor_units END AS held,
			       CASE WHEN state IN ('captured', 'refunding', 'refunded')   THEN minor_units END AS captured,
			       CASE WHEN state = 'refunded'                               THEN minor_units END AS refunded,
			       CASE WHEN state = 'voided'                                 THEN minor_units END AS voided
			FROM payments
		)
		SELECT order_id, figure, coalesce(stated, 0)::bigint, coalesce(counted, 0)::bigint
		FROM payment FULL JOIN booked USING (order_id) FULL JOIN recorded USING (order_id)
		     LEFT JOIN (SELECT ` + payerName + ` AS order_id FROM forgotten_sagas) AS forgotten USING (order_id),
		     LATERAL (VALUES
		         ('authorized, as booked',   payment.authorized, booked.authorized,   true),
		         ('held, as booked',         payment.held,       booked.held,         true),
		         ('captured, as booked',     payment.captured,   booked.captured,     true),
		         ('refunded, as booked',     payment.refunded,   booked.refunded,     true),
		         ('authorized, as recorded', payment.authorized, recorded.authorized, forgotten.order_id IS NULL),
		         -- What has run out may have been given up later, or not.
		         ('voided, as recorded',     payment.voided,     recorded.voided,     forgotten.order_id IS NULL AND state IS DISTINCT FROM 'expired'),
		         ('captured, as recorded',   payment.captured,   recorded.captured,   forgotten.order_id IS NULL),
		         ('refunded, as recorded',   payment.refunded,   recorded.refunded,   forgotten.order_id IS NULL),
		         ('booked in another currency', 0,
		             (currency <> booked.first_currency OR currency <> booked.last_currency)::integer, true),
		         ('recorded in another currency', 0,
		             (currency <> recorded.first_currency OR currency <> recorded.last_currency)::integer, true)
		     ) AS figures (figure, stated, counted, is_known)
		WHERE is_known AND coalesce(stated, 0) <> coalesce(counted, 0)
		ORDER BY order_id, figure
		LIMIT $1`
	return ledger.Discrepancies(ctx, s.pool, query)
}
