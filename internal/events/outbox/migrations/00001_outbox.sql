-- Events that were written with the change that they tell of, and whether they were published. See package outbox.

-- +goose Up
CREATE TABLE outbox (
    position       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id       text        NOT NULL,
    topic          text        NOT NULL,
    about          text        NOT NULL CHECK (about IN ('order', 'article')),
    key            text        NOT NULL,
    seq            bigint      NOT NULL CHECK (seq > 0),
    schema_version integer     NOT NULL,
    coordination   text        NOT NULL CHECK (coordination IN ('', 'orchestrated', 'choreographed')),
    traceparent    text        NOT NULL DEFAULT '',
    payload        json        NOT NULL,               -- the message without its header
    occurred_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    published_at   timestamptz,
    publications   integer     NOT NULL DEFAULT 0,

    -- Its index also finds an order's events.
    UNIQUE (about, key, seq),
    CHECK ((coordination = '') = (about = 'article'))
)
-- Most rows are updated once, when they are published.
WITH (fillfactor = 80);

CREATE INDEX outbox_unpublished ON outbox (position) WHERE published_at IS NULL;
CREATE INDEX outbox_occurred_at ON outbox (occurred_at);

-- How many events were ever written about an order or an article. It outlives the events, or numbers would begin anew; its row
-- lock makes the events of a key commit in the order of their numbers, and so of their positions.
CREATE TABLE outbox_counters (
    about text   NOT NULL,
    key   text   NOT NULL,
    seq   bigint NOT NULL,

    PRIMARY KEY (about, key)
);

-- +goose Down
DROP TABLE outbox_counters;
DROP TABLE outbox;
