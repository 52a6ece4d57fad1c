-- Events that were received, and why deliveries failed. See package inbox.

-- +goose Up
CREATE TABLE inbox (
    event_id    text        PRIMARY KEY,
    topic       text        NOT NULL,
    key         text        NOT NULL,
    seq         bigint      NOT NULL,
    outcome     text        NOT NULL CHECK (outcome IN ('applied', 'late')),
    received_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX inbox_received_at ON inbox (received_at);

CREATE TABLE delivery_failures (
    message_id text        NOT NULL,
    topic      text        NOT NULL,
    attempts   integer     NOT NULL DEFAULT 1,
    error      text        NOT NULL,
    dropped    boolean     NOT NULL,
    first_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_at    timestamptz NOT NULL DEFAULT clock_timestamp(),

    PRIMARY KEY (message_id, topic)
);

CREATE INDEX delivery_failures_last_at ON delivery_failures (last_at);

-- +goose Down
DROP TABLE delivery_failures;
DROP TABLE inbox;
