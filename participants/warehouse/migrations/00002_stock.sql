-- Stock and what is promised of it. The checks hold what no code may break: nothing is promised that is not in the building.

-- +goose Up
CREATE TABLE stock (
    sku       text    PRIMARY KEY,
    on_hand   integer NOT NULL,
    reserved  integer NOT NULL DEFAULT 0,
    committed integer NOT NULL DEFAULT 0,

    CHECK (reserved >= 0),
    CHECK (committed >= 0),
    CHECK (on_hand >= reserved)
);

-- One row an order; its lock decides between releasing and committing.
CREATE TABLE reservations (
    order_id   text        PRIMARY KEY, -- that of a checkout; of another saga, its definition, a slash and its key
    state      text        NOT NULL CHECK (state IN ('reserved', 'released', 'committed')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE reservation_lines (
    order_id text    NOT NULL REFERENCES reservations,
    sku      text    NOT NULL REFERENCES stock,
    quantity integer NOT NULL CHECK (quantity > 0),

    PRIMARY KEY (order_id, sku)
);

INSERT INTO stock (sku, on_hand)
SELECT sku, 1000
FROM unnest(ARRAY[
    'CHAIR-OAK', 'TABLE-OAK', 'LAMP-BRASS', 'BENCH-PINE', 'STOOL-BIRCH', 'SHELF-WALNUT', 'DESK-OAK', 'SOFA-LINEN', 'ARMCHAIR-WOOL',
    'BED-ASH', 'WARDROBE-PINE', 'MIRROR-ROUND', 'RUG-JUTE', 'CUSHION-VELVET', 'VASE-CLAY', 'CLOCK-STEEL', 'LAMP-PAPER',
    'BASKET-WILLOW', 'BOWL-OLIVE', 'COAT-RACK'
]) AS sku;

-- +goose Down
DROP TABLE reservation_lines;
DROP TABLE reservations;
DROP TABLE stock;
