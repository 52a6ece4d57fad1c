package verbs

// verb is what an operator does with a checkout.
type verb string

// The verbs. All that steer are tried as a dry run first.
const (
	nothing verb = "(nothing)"
	cancel  verb = "cancel"
	approve verb = "approve"
	reject  verb = "reject"
	// retry comes when the cause of the state has been healed.
	retry       verb = "resolve --as retry"
	retryOther  verb = "resolve --as retry, another step"
	doneRefuted verb = "resolve --as done, not on record"
	// doneProven comes when the participant has done it without the orchestrator's knowing.
	doneProven verb = "resolve --as done, on record"
	doneWord   verb = "resolve --as done --without-proof"
	refund     verb = "resolve --as refund"
	redrive    verb = "redrive"
)

var verbs = []verb{nothing, cancel, approve, reject, retry, retryOther, doneRefuted, doneProven, doneWord, refund, redrive}

// refused begins what is answered where the state does not allow the verb.
const refused = "refused: "

// expected is what each verb does in each state: "what is answered → how it ends, once what caused the state is healed, and why". What
// is answered is the part of it that tells most.
var expected = map[string]map[verb]string{
	"RUNNING, forward: the authorization fails": {
		nothing:     "→ CONFIRMED",
		cancel:      "to undo reserve-stock, authorize-payment → CANCELLED cancelled",
		approve:     "refused: ORDER: it needs no approval, and it is RUNNING → CONFIRMED",
		reject:      "refused: ORDER: it needs no approval, and it is RUNNING → CONFIRMED",
		retry:       "authorize-payment is tried at once → CONFIRMED",
		retryOther:  "refused: ORDER: it is at authorize-payment, not at release-stock → CONFIRMED",
		doneRefuted: "refused: ORDER: the record of payment says of authorize-payment: unknown; `--as retry` tries it again → CONFIRMED",
		doneProven:  "authorize-payment is taken as done, as its participant's record says; it is RUNNING → CONFIRMED",
		doneWord:    "refused: ORDER: there is still a way back, so nobody needs to vouch for authorize-payment → CONFIRMED",
		refund:      "refused: ORDER: there is still a way back: cancel it instead → CONFIRMED",
		redrive:     "run 2 goes on in phase forward → CONFIRMED",
	},
	"RUNNING, pivoted: the capture fails": {
		nothing:     "→ CONFIRMED",
		cancel:      "refused: too late to cancel ORDER: the capture of 49.99 EUR is under way, so it goes forward → CONFIRMED",
		approve:     "refused: ORDER: it needs no approval, and it is RUNNING → CONFIRMED",
		reject:      "refused: ORDER: it needs no approval, and it is RUNNING → CONFIRMED",
		retry:       "capture-payment is tried at once → CONFIRMED",
		retryOther:  "refused: ORDER: it is at capture-payment, not at release-stock → CONFIRMED",
		doneRefuted: "refused: ORDER: the record of payment says of capture-payment: unknown; `--as retry` tries it again → CONFIRMED",
		doneProven:  "capture-payment is taken as done, as its participant's record says; it is RUNNING → CONFIRMED",
		doneWord:    "capture-payment is taken as done, without proof; it is RUNNING → CONFIRMED",
		refund:      "refused: ORDER: whether capture-payment is done is not known yet, so there is nothing to refund → CONFIRMED",
		redrive:     "run 2 goes on in phase pivoted → CONFIRMED",
	},
	"AWAITING_APPROVAL": {
		nothing:     "→ CONFIRMED",
		cancel:      "to undo reserve-stock, authorize-payment → CANCELLED cancelled",
		approve:     "it is RUNNING → CONFIRMED",
		reject:      "it is COMPENSATING → REJECTED approval_rejected",
		retry:       "refused: ORDER: an approval is decided by `approve` or `reject` → CONFIRMED",
		retryOther:  "refused: ORDER: it is at approval, not at release-stock → CONFIRMED",
		doneRefuted: "refused: ORDER: an approval is decided by `approve` or `reject` → CONFIRMED",
		doneProven:  "refused: ORDER: an approval is decided by `approve` or `reject` → CONFIRMED",
		doneWord:    "refused: ORDER: an approval is decided by `approve` or `reject` → CONFIRMED",
		refund:      "refused: ORDER: an approval is decided by `approve` or `reject` → CONFIRMED",
		redrive:     "run 2 goes on in phase forward → CONFIRMED",
	},
	"COMPENSATING, rejected: the void fails": {
		nothing:     "→ REJECTED approval_rejected",
		cancel:      "to undo reserve-stock, authorize-payment → REJECTED approval_rejected",
		approve:     "refused: ORDER: it is COMPENSATING (approval: too dear) → REJECTED approval_rejected",
		reject:      "it is COMPENSATING → REJECTED approval_rejected",
		retry:       "void-authorization is tried at once → REJECTED approval_rejected",
		retryOther:  "refused: ORDER: it is at void-authorization, not at release-stock → REJECTED approval_rejected",
		doneRefuted: "refused: ORDER: the record of payment says of authorize-payment: applied, undo unknown → REJECTED approval_rejected",
		doneProven:  "void-authorization is taken as done, as its participant's record says; it is COMPENSATING → REJECTED approval_rejected",
		doneWord:    "void-authorization is taken as done, without proof; it is COMPENSATING → REJECTED approval_rejected",
		refund:      "refused: ORDER: it is being undone already (approval: too dear) → REJECTED approval_rejected",
		redrive:     "run 2 goes on in phase undoing → REJECTED approval_rejected",
	},
	"COMPENSATING, to be refunded: the refund fails": {
		nothing:     "→ CANCELLED refunded",
		cancel:      "undone reserve-stock; to undo capture-payment → CANCELLED refunded",
		approve:     "refused: ORDER: it needs no approval, and it is COMPENSATING (refunded: too late) → CANCELLED refunded",
		reject:      "refused: ORDER: it needs no approval, and it is COMPENSATING (refunded: too late) → CANCELLED refunded",
		retry:       "refund-payment is tried at once → CANCELLED refunded",
		retryOther:  "refused: ORDER: it is at refund-payment, not at release-stock → CANCELLED refunded",
		doneRefuted: "refused: ORDER: the record of payment says of capture-payment: applied, undo unknown → CANCELLED refunded",
		doneProven:  "refund-payment is taken as done, as its participant's record says; it is CANCELLED → CANCELLED refunded",
		doneWord:    "refund-payment is taken as done, without proof; it is CANCELLED → CANCELLED refunded",
		refund:      "refused: ORDER: it is being undone already (refunded: too late) → CANCELLED refunded",
		redrive:     "run 3 goes on in phase undoing → CANCELLED refunded",
	},
	"NEEDS_ATTENTION, forward: to be approved, and the warehouse knows another order": {
		nothing:     "→ CONFIRMED",
		cancel:      "to undo reserve-stock → CANCELLED cancelled",
		approve:     "refused: ORDER: it does not await approval yet: it is at reserve-stock → CONFIRMED",
		reject:      "refused: ORDER: it does not await approval yet: it is at reserve-stock → CONFIRMED",
		retry:       "reserve-stock is tried at once → CONFIRMED",
		retryOther:  "refused: ORDER: it is at reserve-stock, not at release-stock → CONFIRMED",
		doneRefuted: "refused: ORDER: the record of warehouse says of reserve-stock: rejected → CONFIRMED",
		doneProven:  "reserve-stock is taken as done, as its participant's record says; it is RUNNING → CONFIRMED",
		doneWord:    "refused: ORDER: there is still a way back, so nobody needs to vouch for reserve-stock → CONFIRMED",
		refund:      "refused: ORDER: there is still a way back: cancel it instead → CONFIRMED",
		redrive:     "run 2 goes on in phase forward → CONFIRMED",
	},
	"NEEDS_ATTENTION, pivoted: approved, and the warehouse knows another commit": {
		nothing:     "→ CONFIRMED",
		cancel:      "refused: too late to cancel ORDER: 54.98 USD was captured, so it goes forward; while the stock is not shipped, `checkout resolve --step commit-stock --as refund` releases it → CONFIRMED",
		approve:     "it is NEEDS_ATTENTION → CONFIRMED",
		reject:      "refused: ORDER: it was approved before, and it is NEEDS_ATTENTION → CONFIRMED",
		retry:       "commit-stock is tried at once → CONFIRMED",
		retryOther:  "refused: ORDER: it is at commit-stock, not at release-stock → CONFIRMED",
		doneRefuted: "refused: ORDER: the record of warehouse says of commit-stock: rejected → CONFIRMED",
		doneProven:  "commit-stock is taken as done, as its participant's record says; it is CONFIRMED → CONFIRMED",
		doneWord:    "commit-stock is taken as done, without proof; it is CONFIRMED → CONFIRMED",
		refund:      "it is undone by release-stock, and then by refund-payment → CANCELLED refunded",
		redrive:     "run 2 goes on in phase pivoted → CONFIRMED",
	},
	"NEEDS_ATTENTION, undoing: rejected, and the void has failed for long": {
		nothing:     "→ REJECTED approval_rejected",
		cancel:      "to undo reserve-stock, authorize-payment → REJECTED approval_rejected",
		approve:     "refused: ORDER: it is NEEDS_ATTENTION (approval: too dear) → REJECTED approval_rejected",
		reject:      "it is NEEDS_ATTENTION → REJECTED approval_rejected",
		retry:       "void-authorization is tried at once → REJECTED approval_rejected",
		retryOther:  "refused: ORDER: it is at void-authorization, not at release-stock → REJECTED approval_rejected",
		doneRefuted: "refused: ORDER: the record of payment says of authorize-payment: applied, undo unknown → REJECTED approval_rejected",
		doneProven:  "void-authorization is taken as done, as its participant's record says; it is COMPENSATING → REJECTED approval_rejected",
		doneWord:    "void-authorization is taken as done, without proof; it is COMPENSATING → REJECTED approval_rejected",
		refund:      "refused: ORDER: it is being undone already (approval: too dear) → REJECTED approval_rejected",
		redrive:     "run 2 goes on in phase undoing → REJECTED approval_rejected",
	},
	"RUNNING, forward, choreographed: the authorization fails": {
		nothing:     "→ CONFIRMED",
		cancel:      "to undo reserve-stock, authorize-payment → CANCELLED cancelled",
		approve:     "refused: ORDER: it needs no approval, and it is RUNNING → CONFIRMED",
		reject:      "refused: ORDER: it needs no approval, and it is RUNNING → CONFIRMED",
		retry:       "refused: ORDER: it goes by its participants' events; cancel it, or look for lost ones by `event list` → CONFIRMED",
		retryOther:  "refused: ORDER: it is at authorize-payment, not at release-stock → CONFIRMED",
		doneRefuted: "refused: ORDER: it goes by its participants' events; cancel it, or look for lost ones by `event list` → CONFIRMED",
		doneProven:  "refused: ORDER: it is at authorize-payment, not at reserve-stock → CONFIRMED",
		doneWord:    "refused: ORDER: it goes by its participants' events; cancel it, or look for lost ones by `event list` → CONFIRMED",
		refund:      "refused: ORDER: it goes by its participants' events; cancel it, or look for lost ones by `event list` → CONFIRMED",
		redrive:     "refused: ORDER: it goes by its participants' events; cancel it, or look for lost ones by `event list` → CONFIRMED",
	},
	"COMPENSATING, choreographed, cancelled: the authorization that is to be voided fails": {
		nothing:     "→ CANCELLED cancelled",
		cancel:      "to undo reserve-stock, authorize-payment → CANCELLED cancelled",
		approve:     "refused: ORDER: it needs no approval, and it is COMPENSATING (the test wants it gone) → CANCELLED cancelled",
		reject:      "refused: ORDER: it needs no approval, and it is COMPENSATING (the test wants it gone) → CANCELLED cancelled",
		retry:       "void-authorization is tried at once → CANCELLED cancelled",
		retryOther:  "refused: ORDER: it is at void-authorization, not at release-stock → CANCELLED cancelled",
		doneRefuted: "refused: ORDER: the record of payment says of authorize-payment: unknown, undo unknown → CANCELLED cancelled",
		doneProven:  "void-authorization is taken as done, as its participant's record says; it is COMPENSATING → CANCELLED cancelled",
		doneWord:    "void-authorization is taken as done, without proof; it is COMPENSATING → CANCELLED cancelled",
		refund:      "refused: ORDER: it is being undone already (the test wants it gone) → CANCELLED cancelled",
		redrive:     "run 2 goes on in phase undoing → CANCELLED cancelled",
	},
	"CONFIRMED": {
		nothing:     "→ CONFIRMED",
		cancel:      "refused: too late to cancel ORDER: it is CONFIRMED: 49.99 EUR was captured and the stock is shipped → CONFIRMED",
		approve:     "refused: ORDER: it needs no approval, and it is CONFIRMED → CONFIRMED",
		reject:      "refused: ORDER: it needs no approval, and it is CONFIRMED → CONFIRMED",
		retry:       "refused: ORDER: it is CONFIRMED, and nothing of it is open → CONFIRMED",
		retryOther:  "refused: ORDER: it is CONFIRMED, and nothing of it is open → CONFIRMED",
		doneRefuted: "refused: ORDER: it is CONFIRMED, and nothing of it is open → CONFIRMED",
		doneProven:  "refused: ORDER: it is CONFIRMED, and nothing of it is open → CONFIRMED",
		doneWord:    "refused: ORDER: it is CONFIRMED, and nothing of it is open → CONFIRMED",
		refund:      "refused: ORDER: it is CONFIRMED, and nothing of it is open → CONFIRMED",
		redrive:     "refused: ORDER: it is CONFIRMED, and nothing of it is open → CONFIRMED",
	},
	"REJECTED": {
		nothing:     "→ REJECTED card_declined",
		cancel:      "refused: too late to cancel ORDER: it ended REJECTED (authorize-payment: card_declined → REJECTED card_declined",
		approve:     "refused: ORDER: it needs no approval, and it is REJECTED (authorize-payment: card_declined → REJECTED card_declined",
		reject:      "refused: ORDER: it needs no approval, and it is REJECTED (authorize-payment: card_declined → REJECTED card_declined",
		retry:       "refused: ORDER: it is REJECTED (authorize-payment: card_declined → REJECTED card_declined",
		retryOther:  "refused: ORDER: it is REJECTED (authorize-payment: card_declined → REJECTED card_declined",
		doneRefuted: "refused: ORDER: it is REJECTED (authorize-payment: card_declined → REJECTED card_declined",
		doneProven:  "refused: ORDER: it is REJECTED (authorize-payment: card_declined → REJECTED card_declined",
		doneWord:    "refused: ORDER: it is REJECTED (authorize-payment: card_declined → REJECTED card_declined",
		refund:      "refused: ORDER: it is REJECTED (authorize-payment: card_declined → REJECTED card_declined",
		redrive:     "refused: ORDER: it is REJECTED (authorize-payment: card_declined → REJECTED card_declined",
	},
	"CANCELLED": {
		nothing:     "→ CANCELLED cancelled",
		cancel:      "undone reserve-stock, authorize-payment → CANCELLED cancelled",
		approve:     "refused: ORDER: it is CANCELLED (the test wants it gone) → CANCELLED cancelled",
		reject:      "refused: ORDER: it is CANCELLED (the test wants it gone) → CANCELLED cancelled",
		retry:       "refused: ORDER: it is CANCELLED (the test wants it gone), and nothing of it is open → CANCELLED cancelled",
		retryOther:  "refused: ORDER: it is CANCELLED (the test wants it gone), and nothing of it is open → CANCELLED cancelled",
		doneRefuted: "refused: ORDER: it is CANCELLED (the test wants it gone), and nothing of it is open → CANCELLED cancelled",
		doneProven:  "refused: ORDER: it is CANCELLED (the test wants it gone), and nothing of it is open → CANCELLED cancelled",
		doneWord:    "refused: ORDER: it is CANCELLED (the test wants it gone), and nothing of it is open → CANCELLED cancelled",
		refund:      "refused: ORDER: it is CANCELLED (the test wants it gone), and nothing of it is open → CANCELLED cancelled",
		redrive:     "refused: ORDER: it is CANCELLED (the test wants it gone), and nothing of it is open → CANCELLED cancelled",
	},
	"CANCELLED, refunded": {
		nothing:     "→ CANCELLED refunded",
		cancel:      "undone reserve-stock, capture-payment → CANCELLED refunded",
		approve:     "refused: ORDER: it needs no approval, and it is CANCELLED (refunded: too late) → CANCELLED refunded",
		reject:      "refused: ORDER: it needs no approval, and it is CANCELLED (refunded: too late) → CANCELLED refunded",
		retry:       "refused: ORDER: it is CANCELLED (refunded: too late), and nothing of it is open → CANCELLED refunded",
		retryOther:  "refused: ORDER: it is CANCELLED (refunded: too late), and nothing of it is open → CANCELLED refunded",
		doneRefuted: "refused: ORDER: it is CANCELLED (refunded: too late), and nothing of it is open → CANCELLED refunded",
		doneProven:  "refused: ORDER: it is CANCELLED (refunded: too late), and nothing of it is open → CANCELLED refunded",
		doneWord:    "refused: ORDER: it is CANCELLED (refunded: too late), and nothing of it is open → CANCELLED refunded",
		refund:      "refused: ORDER: it is CANCELLED (refunded: too late), and nothing of it is open → CANCELLED refunded",
		redrive:     "refused: ORDER: it is CANCELLED (refunded: too late), and nothing of it is open → CANCELLED refunded",
	},
	"EXPIRED": {
		nothing:     "→ EXPIRED approval_deadline",
		cancel:      "refused: too late to cancel ORDER: it ended EXPIRED (nobody approved it in time): nothing is held and nothing is charged → EXPIRED approval_deadline",
		approve:     "refused: ORDER: it is EXPIRED (nobody approved it in time) → EXPIRED approval_deadline",
		reject:      "refused: ORDER: it is EXPIRED (nobody approved it in time) → EXPIRED approval_deadline",
		retry:       "refused: ORDER: it is EXPIRED (nobody approved it in time), and nothing of it is open → EXPIRED approval_deadline",
		retryOther:  "refused: ORDER: it is EXPIRED (nobody approved it in time), and nothing of it is open → EXPIRED approval_deadline",
		doneRefuted: "refused: ORDER: it is EXPIRED (nobody approved it in time), and nothing of it is open → EXPIRED approval_deadline",
		doneProven:  "refused: ORDER: it is EXPIRED (nobody approved it in time), and nothing of it is open → EXPIRED approval_deadline",
		doneWord:    "refused: ORDER: it is EXPIRED (nobody approved it in time), and nothing of it is open → EXPIRED approval_deadline",
		refund:      "refused: ORDER: it is EXPIRED (nobody approved it in time), and nothing of it is open → EXPIRED approval_deadline",
		redrive:     "refused: ORDER: it is EXPIRED (nobody approved it in time), and nothing of it is open → EXPIRED approval_deadline",
	},
}
