-- Orders as the customer sees them. A row is what the newest event told; seq is that event's number and lets no older one
-- undo it.

-- +goose Up
CREATE TABLE orders (
    order_id    text        PRIMARY KEY,
    customer_id text        NOT NULL,
    status      text        NOT NULL CHECK (status IN ('placed', 'confirmed', 'cancelled')),
    reason      text        NOT NULL DEFAULT '',
    currency    text        NOT NULL,
    minor_units bigint      NOT NULL CHECK (minor_units > 0),
    -- The lines: what is at the same place in both belongs together. They are only ever read and written with their order.
    skus        text[]      NOT NULL,
    quantities  integer[]   NOT NULL,
    seq         bigint      NOT NULL CHECK (seq > 0),
    placed_at   timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,

    CHECK (status = 'cancelled' OR reason = ''),
    CHECK (cardinality(skus) > 0 AND cardinality(skus) = cardinality(quantities))
);

-- A customer's orders, newest first.
CREATE INDEX orders_of_customer ON orders (customer_id, placed_at DESC, order_id DESC);

-- +goose Down
DROP TABLE orders;
