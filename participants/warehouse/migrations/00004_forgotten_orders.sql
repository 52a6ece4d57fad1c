-- The orders whose operations are no longer kept: what package participants/internal/ledger leaves of them, for ever, so that
-- nothing that comes late for such an order is taken for new. The same text stands in every participant's migrations.

-- +goose Up
CREATE TABLE forgotten_orders (
    order_id     text        PRIMARY KEY,
    forgotten_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- +goose Down
DROP TABLE forgotten_orders;
