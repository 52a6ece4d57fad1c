-- What is held and what was taken for each order, and the double-entry book of every movement. Money is never made: the rows
-- of each movement, and so of the whole book, sum to zero.

-- +goose Up
CREATE TABLE payments (
    order_id         text        PRIMARY KEY, -- that of a checkout; of another saga, its definition, a slash and its key
    state            text        NOT NULL DEFAULT 'none',
    customer_id      text        NOT NULL DEFAULT '',
    payment_method   text        NOT NULL DEFAULT '',
    currency         text        NOT NULL DEFAULT '',
    minor_units      bigint      NOT NULL DEFAULT 0,
    authorized_until timestamptz,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at       timestamptz NOT NULL DEFAULT clock_timestamp(),

    CHECK (state IN ('none', 'authorizing', 'declined', 'authorized', 'expired', 'voiding', 'voided', 'capturing', 'captured', 'refunding', 'refunded')),
    -- Only what never came to be has no amount.
    CHECK (state IN ('none', 'voided') OR minor_units > 0),
    CHECK (state NOT IN ('authorized', 'voiding', 'capturing', 'captured', 'refunding', 'refunded') OR authorized_until IS NOT NULL)
);

CREATE TABLE entries (
    order_id    text        NOT NULL REFERENCES payments,
    movement    text        NOT NULL CHECK (movement IN ('authorize', 'void', 'expire', 'capture', 'refund')),
    account     text        NOT NULL CHECK (account IN ('customer', 'held', 'merchant')),
    currency    text        NOT NULL,
    minor_units bigint      NOT NULL CHECK (minor_units <> 0),
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),

    -- A movement of an order is booked once, whatever is repeated or raced.
    PRIMARY KEY (order_id, movement, account)
);

-- +goose StatementBegin
CREATE FUNCTION entries_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added GROUP BY order_id, movement, currency HAVING sum(minor_units) <> 0) THEN
        RAISE EXCEPTION 'the entries of a movement do not sum to zero';
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER entries_balance AFTER INSERT ON entries
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION entries_balance();

-- +goose Down
DROP TABLE entries;
DROP FUNCTION entries_balance;
DROP TABLE payments;
