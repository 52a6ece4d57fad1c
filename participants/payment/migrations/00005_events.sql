-- What the events about a payment say. How its checkout is coordinated is known when it is authorized; whoever voids or refunds
-- later need not know. A refusal is told once nothing is held any more, which may be long after it was learnt: it waits here.
-- What was authorized before there were events was orchestrated.

-- +goose Up
ALTER TABLE payments
    ADD COLUMN coordination text NOT NULL DEFAULT 'orchestrated' CHECK (coordination IN ('orchestrated', 'choreographed')),
    ADD COLUMN refused_step text NOT NULL DEFAULT '',
    ADD COLUMN refused_reason text NOT NULL DEFAULT '',
    ADD CHECK ((refused_step = '') = (refused_reason = ''));

-- +goose Down
ALTER TABLE payments
    DROP COLUMN coordination,
    DROP COLUMN refused_step,
    DROP COLUMN refused_reason;
