-- The recorded operations of a participant: what package ledger reads and writes. Doing and undoing a step share one row on
-- purpose: whoever comes second must wait for the first's commit.

-- +goose Up
CREATE TABLE operations (
    definition     text        NOT NULL,
    key            text        NOT NULL,
    step           text        NOT NULL,
    digest         text,
    do_state       text        NOT NULL DEFAULT 'none',
    do_reason      text        NOT NULL DEFAULT '',
    do_detail      text        NOT NULL DEFAULT '',
    do_reference   text        NOT NULL DEFAULT '',
    do_key         text        NOT NULL DEFAULT '',
    undo_state     text        NOT NULL DEFAULT 'none',
    undo_reason    text        NOT NULL DEFAULT '',
    undo_detail    text        NOT NULL DEFAULT '',
    undo_reference text        NOT NULL DEFAULT '',
    undo_key       text        NOT NULL DEFAULT '',
    output         json,
    valid_until    timestamptz,
    currency       text,
    minor_units    bigint,
    asks           integer     NOT NULL DEFAULT 0,
    ask_at         timestamptz,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at     timestamptz NOT NULL DEFAULT clock_timestamp(),

    PRIMARY KEY (definition, key, step),
    CHECK (do_state IN ('none', 'started', 'applied', 'rejected', 'undone-before')),
    CHECK (undo_state IN ('none', 'wanted', 'started', 'applied', 'rejected')),
    -- What was asked for has a digest to compare a repeat with.
    CHECK ((do_state = 'none') = (digest IS NULL)),
    CHECK (do_state <> 'rejected' OR do_reason <> ''),
    CHECK (undo_state <> 'rejected' OR undo_reason <> ''),
    -- Which states of undoing go with which of doing.
    CHECK (undo_state <> 'wanted' OR do_state = 'started'),
    CHECK (undo_state NOT IN ('started', 'rejected') OR do_state = 'applied'),
    CHECK (undo_state <> 'applied' OR do_state <> 'started'),
    CHECK (do_state <> 'undone-before' OR undo_state = 'applied'),
    -- An effect outside the database has a key to ask for it again, and a time by which recovery does.
    CHECK (do_state <> 'started' OR do_key <> ''),
    CHECK (undo_state <> 'started' OR undo_key <> ''),
    CHECK ((do_state = 'started' OR undo_state = 'started') = (ask_at IS NOT NULL)),
    -- What doing gave back.
    CHECK (do_state = 'applied' OR output IS NULL AND valid_until IS NULL),
    CHECK ((currency IS NULL) = (minor_units IS NULL))
);

CREATE INDEX operations_by_change ON operations (updated_at, definition, key, step);
CREATE INDEX operations_under_way ON operations (ask_at) WHERE ask_at IS NOT NULL;

-- The sagas whose operations are no longer kept: what is left of them, for ever, so that nothing that comes late for such a saga is
-- taken for new.
CREATE TABLE forgotten_sagas (
    definition   text        NOT NULL,
    key          text        NOT NULL,
    forgotten_at timestamptz NOT NULL DEFAULT clock_timestamp(),

    PRIMARY KEY (definition, key)
);

-- +goose Down
DROP TABLE forgotten_sagas;
DROP TABLE operations;
