-- A checkout may be driven by events alone. Who began it may want to see all that followed in one trace, also after days. And a
-- price follows pricing's events, of which an older one must not undo what a newer one has set.

-- +goose Up
ALTER TABLE checkouts
    ADD COLUMN coordination text NOT NULL DEFAULT 'orchestrated' CHECK (coordination IN ('orchestrated', 'choreographed')),
    ADD COLUMN traceparent  text NOT NULL DEFAULT '';

ALTER TABLE prices ADD COLUMN seq bigint NOT NULL DEFAULT 0;   -- of the event that set it; 0: it was seeded
