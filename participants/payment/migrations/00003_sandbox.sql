-- The sandbox gateway's own tables. It stands in for a card network, so nothing of payment's refers to them; they lie in the
-- same database only so that one process needs no second one.

-- +goose Up
CREATE SCHEMA sandbox;

CREATE TABLE sandbox.behaviours (
    payment_method text PRIMARY KEY,
    authorize      text NOT NULL DEFAULT 'works',
    capture        text NOT NULL DEFAULT 'works',
    void           text NOT NULL DEFAULT 'works',
    refund         text NOT NULL DEFAULT 'works',
    -- What it says when it refuses to authorize.
    decline        text NOT NULL DEFAULT 'card_declined',

    CHECK (authorize IN ('works', 'fails', 'refused', 'times_out_after', 'times_out_before', 'fails_twice')),
    CHECK (capture   IN ('works', 'fails', 'refused', 'times_out_after', 'times_out_before', 'fails_twice')),
    CHECK (void      IN ('works', 'fails', 'refused', 'times_out_after', 'times_out_before', 'fails_twice')),
    CHECK (refund    IN ('works', 'fails', 'refused', 'times_out_after', 'times_out_before', 'fails_twice'))
);

-- What it did: one effect for each idempotency key. It does not look for two keys that do the same: a payment service that
-- used two would be seen here to have charged twice.
CREATE TABLE sandbox.charges (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    idempotency_key text        NOT NULL UNIQUE,
    order_id        text        NOT NULL,
    kind            text        NOT NULL,
    payment_method  text        NOT NULL,
    currency        text        NOT NULL,
    minor_units     bigint      NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX charges_by_order ON sandbox.charges (order_id);

-- What it refused for good: as at a real network, the same key is refused again whatever has changed since.
CREATE TABLE sandbox.refusals (
    idempotency_key text PRIMARY KEY,
    reason          text NOT NULL
);

-- How often a key met a method that fails twice.
CREATE TABLE sandbox.failures (
    idempotency_key text    PRIMARY KEY,
    times           integer NOT NULL
);

INSERT INTO sandbox.behaviours (payment_method, authorize, capture, void, refund, decline) VALUES
    ('tok_visa',               'works',           'works',           'works',           'works',           'card_declined'),
    ('tok_declined',           'refused',         'works',           'works',           'works',           'card_declined'),
    ('tok_insufficient_funds', 'refused',         'works',           'works',           'works',           'insufficient_funds'),
    ('tok_timeout',            'times_out_after', 'times_out_after', 'times_out_after', 'times_out_after', 'card_declined'),
    ('tok_flaky',              'fails_twice',     'fails_twice',     'fails_twice',     'fails_twice',     'card_declined'),
    ('tok_void_fails',         'works',           'works',           'fails',           'works',           'card_declined'),
    ('tok_expires',            'works',           'refused',         'works',           'works',           'card_declined');

-- +goose Down
DROP SCHEMA sandbox CASCADE;
