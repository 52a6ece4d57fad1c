-- Messages that a consumer could not take, what is known of why, and what was done with them. See package deadletter.

-- +goose Up
CREATE TABLE dead_letters (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest          bytea       NOT NULL UNIQUE,    -- of topic, message id and content: the same message again is the same letter
    topic           text        NOT NULL,           -- where it came from
    message_id      text        NOT NULL,           -- what its consumers know it by
    event_id        text        NOT NULL,           -- these three as far as they could be read
    order_id        text        NOT NULL,
    occurred_at     timestamptz,
    fault           text        NOT NULL,           -- what is wrong with the message itself; empty: nothing that can be seen
    message         bytea       NOT NULL,           -- as it was on the topic, byte for byte
    state           text        NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'replayed', 'archived')),
    arrivals        integer     NOT NULL DEFAULT 1,
    arrived_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_arrived_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_at      timestamptz,
    replays         integer     NOT NULL DEFAULT 0,

    CHECK ((state = 'open') = (settled_at IS NULL))
);

CREATE INDEX dead_letters_state ON dead_letters (state, id);
CREATE INDEX dead_letters_event_id ON dead_letters (event_id);
CREATE INDEX dead_letters_settled_at ON dead_letters (settled_at) WHERE settled_at IS NOT NULL;

-- What consumers wrote down of their handlers' failures.
CREATE TABLE dead_letter_failures (
    letter   bigint      NOT NULL REFERENCES dead_letters ON DELETE CASCADE,
    consumer text        NOT NULL,
    attempts integer     NOT NULL,
    error    text        NOT NULL,
    last_at  timestamptz NOT NULL,

    PRIMARY KEY (letter, consumer)
);

-- Which consumers are still to be asked about an arrival.
CREATE TABLE dead_letter_questions (
    consumer text    NOT NULL,
    letter   bigint  NOT NULL REFERENCES dead_letters ON DELETE CASCADE,
    arrival  integer NOT NULL,

    PRIMARY KEY (consumer, letter)
);

CREATE INDEX dead_letter_questions_letter ON dead_letter_questions (letter);

-- What people did with them, and why.
CREATE TABLE dead_letter_acts (
    id     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    letter bigint      NOT NULL REFERENCES dead_letters ON DELETE CASCADE,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    what   text        NOT NULL CHECK (what IN ('replayed', 'archived')),
    actor  text        NOT NULL,
    reason text        NOT NULL
);

CREATE INDEX dead_letter_acts_letter ON dead_letter_acts (letter, id);

-- +goose Down
DROP TABLE dead_letter_acts;
DROP TABLE dead_letter_questions;
DROP TABLE dead_letter_failures;
DROP TABLE dead_letters;
