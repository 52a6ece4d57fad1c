-- The row of a checkout is the arbiter: every claim, every outcome and every race between a cancel, a deadline and the
-- pivot is decided by one transaction that holds its lock.

-- +goose Up
CREATE TABLE checkouts (
    order_id        text        PRIMARY KEY CHECK (order_id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    idempotency_key text        NOT NULL UNIQUE,
    digest          text        NOT NULL,               -- version and hash of the request's business fields
    request         bytea       NOT NULL,               -- the request as the client sent it, for people
    customer_id     text        NOT NULL,
    currency        text        NOT NULL,
    amount          bigint      NOT NULL CHECK (amount > 0),
    payment_method  text        NOT NULL,
    items           jsonb       NOT NULL,               -- [{"sku", "quantity", "unit_price"}] as priced at the start

    engine          text        NOT NULL,
    run             integer     NOT NULL DEFAULT 1,     -- the only run whose activities are listened to
    started_run     integer     NOT NULL DEFAULT 0,     -- the newest run that the engine is known to have started
    phase           text        NOT NULL DEFAULT 'forward' CHECK (phase IN ('forward', 'pivoted', 'undoing', 'final')),
    status          text        NOT NULL DEFAULT 'RUNNING',
    verdict         text        CHECK (verdict IN ('REJECTED', 'CANCELLED', 'EXPIRED')),  -- how it ends once undone
    reason          text        NOT NULL DEFAULT '',

    touched_at      timestamptz,                        -- when a participant may first have been called; NULL: never
    deadline        timestamptz NOT NULL,
    cancelled_at    timestamptz,
    cancel_reason   text        NOT NULL DEFAULT '',

    check_at        timestamptz,                        -- when the sweeper looks at it unless something happens before
    pokes           integer     NOT NULL DEFAULT 0,     -- the sweeper's wake-up calls since anything happened
    fruitless_runs  integer     NOT NULL DEFAULT 0,     -- runs that the sweeper started since the last progress
    attention       jsonb,
    -- The steps in their order. They stand in the row itself, because every attempt reads and writes them with it: one
    -- statement each way, and nothing that could be read torn.
    progress        jsonb       NOT NULL,

    started_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    ended_at        timestamptz,

    CHECK ((phase = 'final') = (ended_at IS NOT NULL)),
    CHECK ((phase = 'final') = (check_at IS NULL)),
    CHECK ((phase = 'final') = (status IN ('CONFIRMED', 'REJECTED', 'CANCELLED', 'EXPIRED'))),
    CHECK ((phase = 'undoing') <= (verdict IS NOT NULL)),
    CHECK (status <> 'CONFIRMED' OR verdict IS NULL),
    CHECK ((status = 'NEEDS_ATTENTION') = (attention IS NOT NULL))
)
-- Room in each page for the row's next versions, which then need no new index entries.
WITH (fillfactor = 60);

CREATE INDEX checkouts_check_at ON checkouts (engine, check_at) WHERE check_at IS NOT NULL;
CREATE INDEX checkouts_started_at ON checkouts (started_at DESC, order_id DESC);
CREATE INDEX checkouts_status ON checkouts (status, started_at DESC, order_id DESC);
CREATE INDEX checkouts_customer ON checkouts (customer_id, started_at DESC, order_id DESC);

-- The steps as rows, for people and for queries by step.
CREATE VIEW steps AS
SELECT order_id,
       (ordinal - 1)::smallint                 AS position,
       step ->> 'name'                         AS name,
       step ->> 'state'                        AS state,
       (step ->> 'attempts')::integer          AS attempts,
       (step ->> 'started_at')::timestamptz    AS started_at,
       (step ->> 'ended_at')::timestamptz      AS ended_at,
       step ->> 'error'                        AS error,
       step ->> 'reference'                    AS reference,
       step ->> 'compensation'                 AS compensation,
       (step ->> 'compensation_tries')::integer AS compensation_tries
FROM checkouts, jsonb_array_elements(progress) WITH ORDINALITY AS element (step, ordinal);

-- What happened to a checkout, for people; nothing is decided by it.
CREATE TABLE entries (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id    text        NOT NULL REFERENCES checkouts,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind        text        NOT NULL CHECK (kind IN ('attempt', 'status')),
    step        text        NOT NULL DEFAULT '',        -- the step, or its compensation
    attempt     integer     NOT NULL DEFAULT 0,
    actor       text        NOT NULL DEFAULT '',
    reason      text        NOT NULL DEFAULT '',
    duration_ms bigint      NOT NULL DEFAULT 0,
    outcome     text        NOT NULL DEFAULT '',
    error       text        NOT NULL DEFAULT ''
);
CREATE INDEX entries_order ON entries (order_id, id);

-- What people and the sweeper asked of a checkout, kept for ever.
CREATE TABLE commands (
    id       uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id text        NOT NULL REFERENCES checkouts,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind     text        NOT NULL,
    step     text        NOT NULL DEFAULT '',
    actor    text        NOT NULL,
    reason   text        NOT NULL,
    outcome  text        NOT NULL
);
CREATE INDEX commands_order ON commands (order_id, at);
