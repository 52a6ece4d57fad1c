-- The embedded engine keeps what happened in a log, which is only added to: a turn of an instance is one row. Whatever else it must
-- know it keeps in memory and reads from here when another process takes over.

-- +goose Up
CREATE SCHEMA IF NOT EXISTS engine;
-- Of the backend that came before. The runs in there are lost; the sweeper starts the next run of each saga.
DROP TABLE IF EXISTS engine.newevents, engine.newtasks, engine.history, engine.instances CASCADE;

-- Whoever takes over raises the epoch, and writes nothing unless it still stands.
CREATE TABLE engine.owner (one boolean PRIMARY KEY CHECK (one), epoch bigint NOT NULL);
INSERT INTO engine.owner VALUES (true, 0);

CREATE TABLE engine.log (
    key    bigint   NOT NULL,  -- of the instance, in the order of their starts
    seq    integer  NOT NULL,
    id     text,               -- the instance's, in its first row
    status smallint NOT NULL,  -- 0: it goes on, 1: it completed, 2: it failed
    events bytea    NOT NULL,  -- what the turn took in and what it decided, in protobuf
    PRIMARY KEY (key, seq)
);
CREATE UNIQUE INDEX log_id ON engine.log (id) WHERE id IS NOT NULL;

-- An instance that goes on has a key from here up, or stands in engine.lasting.
CREATE TABLE engine.low_water (one boolean PRIMARY KEY CHECK (one), key bigint NOT NULL);
INSERT INTO engine.low_water VALUES (true, 1);

-- Instances that have gone on for some time. Most end long before they would come here.
CREATE TABLE engine.lasting (
    id   text        PRIMARY KEY,
    key  bigint      NOT NULL,
    busy boolean     NOT NULL,  -- it has an activity in hand
    wake timestamptz            -- its next timer; NULL: it has none
);

-- What processes bring that do not run the engine.
CREATE TABLE engine.inbox (
    n      bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id     text    NOT NULL,
    starts boolean NOT NULL,
    event  bytea   NOT NULL
);
CREATE UNIQUE INDEX inbox_start ON engine.inbox (id) WHERE starts;

-- +goose Down
DROP SCHEMA engine CASCADE;
