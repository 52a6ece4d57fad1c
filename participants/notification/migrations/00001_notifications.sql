-- What customers are told, and what became of it.

-- +goose Up
-- The number of the newest status of each order that was heard of. Its lock has the events of an order take turns.
CREATE TABLE orders (
    order_id text   PRIMARY KEY,
    seq      bigint NOT NULL
);

CREATE TABLE notifications (
    event_id      text        PRIMARY KEY,
    order_id      text        NOT NULL,
    seq           bigint      NOT NULL,
    customer_id   text        NOT NULL,
    subject       text        NOT NULL,
    body          text        NOT NULL,
    state         text        NOT NULL CHECK (state IN ('waiting', 'sent', 'superseded', 'failed')),
    -- Attempts that were begun.
    attempts      integer     NOT NULL DEFAULT 0,
    -- Why the last one failed.
    error         text        NOT NULL DEFAULT '',
    -- When it is to be tried, or was left behind by who had it in hand.
    due_at        timestamptz,
    -- Until when somebody may be sending it. What was superseded meanwhile is still in hand.
    in_hand_until timestamptz,
    sent_at       timestamptz,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),

    UNIQUE (order_id, seq),
    CHECK ((state = 'waiting') = (due_at IS NOT NULL)),
    CHECK ((state = 'sent') = (sent_at IS NOT NULL)),
    CHECK (state <> 'failed' OR error <> '')
)
-- Every row is updated at least twice.
WITH (fillfactor = 70);

CREATE INDEX notifications_due ON notifications (due_at) WHERE state = 'waiting';
-- At most one notification of an order waits: a newer one supersedes it.
CREATE UNIQUE INDEX notifications_waiting ON notifications (order_id) WHERE state = 'waiting';

-- +goose Down
DROP TABLE notifications;
DROP TABLE orders;
