-- The row of a saga is the arbiter: every claim, every outcome and every race between a cancel, a deadline and the pivot is
-- decided by one transaction that holds its lock.

-- +goose Up
CREATE TABLE sagas (
    definition      text        NOT NULL,
    key             text        NOT NULL CHECK (key ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    idempotency_key text        NOT NULL,
    digest          text        NOT NULL,               -- version and hash of what makes two starts the same
    request         bytea       NOT NULL,               -- the request as the client sent it, for people
    input           jsonb       NOT NULL,               -- what its definition takes; what its participants are asked with
    requests        jsonb       NOT NULL DEFAULT '{}',  -- what a step is asked with instead of the input, by step
    plan            jsonb       NOT NULL,               -- its steps, fixed when it was accepted; progress has the same order
    about           text        NOT NULL,               -- whom or what it is about, such as a customer; empty: nobody said
    currency        text        NOT NULL,               -- of the money that is at stake; empty: none is
    amount          bigint      NOT NULL CHECK (amount >= 0),
    traceparent     text        NOT NULL DEFAULT '',    -- who started it may want to see all that followed in one trace, also after days

    engine          text        NOT NULL,
    elsewhere       boolean     NOT NULL DEFAULT false, -- its participants drive it among themselves, by events
    run             integer     NOT NULL DEFAULT 1,     -- the only run whose activities are listened to
    started_run     integer     NOT NULL DEFAULT 0,     -- the newest run that the engine is known to have started
    purged_runs     integer     NOT NULL DEFAULT 0,     -- the newest run that the engine was told to forget, with all before it
    phase           text        NOT NULL DEFAULT 'forward' CHECK (phase IN ('forward', 'pivoted', 'undoing', 'final')),
    status          text        NOT NULL DEFAULT 'RUNNING',
    verdict         text        CHECK (verdict IN ('REJECTED', 'CANCELLED', 'EXPIRED')),  -- how it ends once undone
    reason          text        NOT NULL DEFAULT '',
    reason_code     text        NOT NULL DEFAULT '',    -- the reason as a word, to count and to search by
    at_step         text        NOT NULL DEFAULT '',    -- the step or compensation that it is at; empty once final

    touched_at      timestamptz,                        -- when a participant may first have been called; NULL: never
    deadline        timestamptz NOT NULL,
    approval_wait   interval,                           -- how long it may await approval; NULL: it needs none
    approval_deadline timestamptz,                      -- until when it may; set when it begins to
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

    -- Not the other way round: in a new database, which has no statistics, that would look as good for a look-up by the key, and read all
    -- sagas of the definition.
    UNIQUE (idempotency_key, definition),
    PRIMARY KEY (definition, key),
    CHECK ((phase = 'final') = (ended_at IS NOT NULL)),
    CHECK ((phase = 'final') = (check_at IS NULL)),
    CHECK ((phase = 'final') = (status IN ('CONFIRMED', 'REJECTED', 'CANCELLED', 'EXPIRED'))),
    CHECK ((phase = 'undoing') <= (verdict IS NOT NULL)),
    CHECK (phase <> 'final' OR at_step = ''),
    CHECK (status <> 'CONFIRMED' OR verdict IS NULL),
    CHECK ((status = 'NEEDS_ATTENTION') = (attention IS NOT NULL))
)
-- Room in each page for the row's next versions, which then need no new index entries.
WITH (fillfactor = 60);

-- What each index serves. None is on a column that every step changes, nor mentions one that does in its condition, so that
-- the steps in between change no index at all; hence ended_at where phase could stand, and no index on at_step.

-- What the sweeper looks for.
CREATE INDEX sagas_check_at ON sagas (engine, check_at) WHERE check_at IS NOT NULL;
-- Lists, newest first, of one definition or of all. They are sorted by the key's text and then by the definition's.
CREATE INDEX sagas_started_at ON sagas (started_at DESC, key DESC, definition DESC);
CREATE INDEX sagas_status ON sagas (status, started_at DESC, key DESC, definition DESC);
CREATE INDEX sagas_about ON sagas (about, started_at DESC, key DESC, definition DESC) WHERE about <> '';
-- Lists by step, and the audit's hanging ones: those that are open are few, and their step is looked up in the rows.
CREATE INDEX sagas_open ON sagas (started_at DESC, key DESC, definition DESC) WHERE ended_at IS NULL;
-- Lists by the reason's word. What else is asked for is looked up in the rows.
CREATE INDEX sagas_reason_code ON sagas (reason_code, started_at DESC, key DESC, definition DESC) WHERE reason_code <> '';
-- Lists by amount: up to 20,000 are sorted for each page, and their rows not read for it.
CREATE INDEX sagas_amount ON sagas (amount) INCLUDE (started_at, key, definition, status);
-- The audit's pages, and what retention looks for.
CREATE INDEX sagas_ended_at ON sagas (ended_at, key, definition) WHERE ended_at IS NOT NULL;
CREATE INDEX sagas_purge ON sagas (ended_at) WHERE ended_at IS NOT NULL AND purged_runs < run;

-- The steps as rows, for people and for queries by step.
CREATE VIEW steps AS
SELECT definition, key,
       (ordinal - 1)::smallint                 AS position,
       step ->> 'name'                         AS name,
       step ->> 'state'                        AS state,
       coalesce((step ->> 'attempts')::integer, 0) AS attempts,
       (step ->> 'started_at')::timestamptz    AS started_at,
       (step ->> 'ended_at')::timestamptz      AS ended_at,
       coalesce(step ->> 'error', '')          AS error,
       coalesce(step ->> 'reference', '')      AS reference,
       step ->> 'compensation'                 AS compensation,
       coalesce((step ->> 'compensation_tries')::integer, 0) AS compensation_tries
FROM sagas, jsonb_array_elements(progress) WITH ORDINALITY AS element (step, ordinal);

-- What happened to a saga, for people; nothing is decided by it.
CREATE TABLE entries (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    definition  text        NOT NULL,
    key         text        NOT NULL,
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
-- No foreign key: whoever writes an entry holds the saga's lock, and PostgreSQL would look each one's saga up.
CREATE INDEX entries_saga ON entries (key, definition, id);

-- What people and the sweeper asked of a saga, kept for ever, also when the saga no longer is.
CREATE TABLE commands (
    id            uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    definition    text        NOT NULL,
    key           text        NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind          text        NOT NULL,
    step          text        NOT NULL DEFAULT '',
    actor         text        NOT NULL,
    reason        text        NOT NULL,
    outcome       text        NOT NULL,
    without_proof boolean     NOT NULL DEFAULT false    -- an operator's word was taken
);
CREATE INDEX commands_saga ON commands (key, definition, at);
CREATE INDEX commands_without_proof ON commands (at) WHERE without_proof;

-- A key is unique for ever: of a saga that is no longer kept this is.
CREATE TABLE forgotten_sagas (
    definition      text        NOT NULL,
    key             text        NOT NULL,
    idempotency_key text        NOT NULL,
    status          text        NOT NULL,
    ended_at        timestamptz NOT NULL,
    forgotten_at    timestamptz NOT NULL DEFAULT clock_timestamp(),

    UNIQUE (idempotency_key, definition),
    PRIMARY KEY (definition, key)
);

-- Which list each version of a definition is. Sagas carry their own lists; this is so that one number never means two.
CREATE TABLE definitions (
    name       text        NOT NULL,
    version    integer     NOT NULL CHECK (version >= 1),
    plan       jsonb       NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT clock_timestamp(),

    PRIMARY KEY (name, version)
);

-- +goose Down
DROP TABLE definitions;
DROP TABLE forgotten_sagas;
DROP TABLE commands;
DROP TABLE entries;
DROP VIEW steps;
DROP TABLE sagas;
