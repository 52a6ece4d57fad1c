-- What articles cost. The catalogue begins as the orchestrator's own price list does (internal/checkout/orders/migrations),
-- so that nothing has to be told before the first order; from then on the events tell every change.

-- +goose Up
CREATE TABLE prices (
    sku         text        NOT NULL,
    currency    text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    minor_units bigint      NOT NULL CHECK (minor_units > 0),
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),

    PRIMARY KEY (sku, currency)
);

INSERT INTO prices (sku, currency, minor_units) VALUES
    ('CHAIR-OAK', 'EUR', 4999),
    ('TABLE-OAK', 'EUR', 19900),
    ('LAMP-BRASS', 'EUR', 2999),
    ('BENCH-PINE', 'EUR', 8900),
    ('STOOL-BIRCH', 'EUR', 3500),
    ('SHELF-WALNUT', 'EUR', 12900),
    ('DESK-OAK', 'EUR', 24900),
    ('SOFA-LINEN', 'EUR', 59900),
    ('ARMCHAIR-WOOL', 'EUR', 34900),
    ('BED-ASH', 'EUR', 44900),
    ('WARDROBE-PINE', 'EUR', 39900),
    ('MIRROR-ROUND', 'EUR', 6900),
    ('RUG-JUTE', 'EUR', 7900),
    ('CUSHION-VELVET', 'EUR', 1999),
    ('VASE-CLAY', 'EUR', 2499),
    ('CLOCK-STEEL', 'EUR', 3999),
    ('LAMP-PAPER', 'EUR', 1999),
    ('BASKET-WILLOW', 'EUR', 1799),
    ('BOWL-OLIVE', 'EUR', 2299),
    ('COAT-RACK', 'EUR', 5499),
    ('CHAIR-OAK', 'USD', 5498),
    ('TABLE-OAK', 'USD', 21890),
    ('LAMP-BRASS', 'USD', 3298),
    ('BENCH-PINE', 'USD', 9790),
    ('STOOL-BIRCH', 'USD', 3850),
    ('SHELF-WALNUT', 'USD', 14190),
    ('DESK-OAK', 'USD', 27390),
    ('SOFA-LINEN', 'USD', 65890),
    ('ARMCHAIR-WOOL', 'USD', 38390),
    ('BED-ASH', 'USD', 49390),
    ('WARDROBE-PINE', 'USD', 43890),
    ('MIRROR-ROUND', 'USD', 7590),
    ('RUG-JUTE', 'USD', 8690),
    ('CUSHION-VELVET', 'USD', 2198),
    ('VASE-CLAY', 'USD', 2748),
    ('CLOCK-STEEL', 'USD', 4398),
    ('LAMP-PAPER', 'USD', 2198),
    ('BASKET-WILLOW', 'USD', 1978),
    ('BOWL-OLIVE', 'USD', 2528),
    ('COAT-RACK', 'USD', 6048);

-- +goose Down
DROP TABLE prices;
