-- Operators find, approve, settle and move checkouts; finished ones are purged from the engine and, in the end, forgotten.

-- +goose Up
ALTER TABLE checkouts
    ADD COLUMN at_step           text    NOT NULL DEFAULT '',   -- the step or compensation that it is at; empty once final
    ADD COLUMN reason_code       text    NOT NULL DEFAULT '',   -- the reason as a word, to count and to search by
    ADD COLUMN approval_wait     interval,                      -- how long it may await approval; NULL: it needs none
    ADD COLUMN approval_deadline timestamptz,                   -- until when it may; set when it begins to
    ADD COLUMN purged_runs       integer NOT NULL DEFAULT 0,    -- the newest run that the engine was told to forget, with all before it
    ADD CHECK (phase <> 'final' OR at_step = '');

UPDATE checkouts AS c SET at_step = current.name
FROM (
    SELECT DISTINCT ON (order_id) order_id,
           CASE WHEN compensation IN ('running', 'failing')
                THEN CASE name WHEN 'reserve-stock' THEN 'release-stock' ELSE 'void-authorization' END
                ELSE name END AS name
    FROM steps
    WHERE compensation IN ('running', 'failing') OR state IN ('running', 'failing', 'unknown')
    ORDER BY order_id, compensation IN ('running', 'failing') DESC, position
) AS current
WHERE c.order_id = current.order_id AND c.phase <> 'final';

-- What each index serves. None is on a column that every step changes, nor mentions one that does in its condition, so that
-- the steps in between change no index at all; hence ended_at where phase could stand, and no index on at_step.

-- `checkout list --step` and the audit's hanging ones: those that are open are few, and their step is looked up in the rows.
CREATE INDEX checkouts_open ON checkouts (started_at DESC, order_id DESC) WHERE ended_at IS NULL;
-- `checkout list --reason-code`. What else is asked for is looked up in the rows.
CREATE INDEX checkouts_reason_code ON checkouts (reason_code, started_at DESC, order_id DESC) WHERE reason_code <> '';
-- `checkout list --amount-over`: up to 20,000 are sorted for each page, and their rows not read for it.
CREATE INDEX checkouts_amount ON checkouts (amount) INCLUDE (started_at, order_id, status);
-- The audit's pages, and what retention looks for.
CREATE INDEX checkouts_ended_at ON checkouts (ended_at, order_id) WHERE ended_at IS NOT NULL;
CREATE INDEX checkouts_purge ON checkouts (ended_at) WHERE ended_at IS NOT NULL AND purged_runs < run;

-- What an operator took as done without proof is kept for ever, also when the checkout no longer is.
ALTER TABLE commands
    ADD COLUMN without_proof boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT commands_order_id_fkey;
CREATE INDEX commands_without_proof ON commands (at) WHERE without_proof;

-- An order id is unique for ever: of a checkout that is no longer kept this is.
CREATE TABLE forgotten_checkouts (
    order_id        text        PRIMARY KEY,
    idempotency_key text        NOT NULL UNIQUE,
    status          text        NOT NULL,
    ended_at        timestamptz NOT NULL,
    forgotten_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
