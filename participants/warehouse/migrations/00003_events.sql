-- How the checkout of a reservation is coordinated, which the events about it say: it is known when the stock is reserved, and
-- whoever releases or commits later need not know. What was reserved before there were events was orchestrated.

-- +goose Up
ALTER TABLE reservations
    ADD COLUMN coordination text NOT NULL DEFAULT 'orchestrated' CHECK (coordination IN ('orchestrated', 'choreographed'));

-- +goose Down
ALTER TABLE reservations DROP COLUMN coordination;
