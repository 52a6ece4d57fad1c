-- +goose Up

-- The list of a checkout's steps, fixed when it was accepted: each with its participant and its compensation, in the order of
-- progress.
ALTER TABLE checkouts ADD COLUMN plan jsonb;

UPDATE checkouts SET plan = jsonb_build_object('definition', 'checkout', 'version', 1, 'steps', (
    SELECT jsonb_agg(planned ORDER BY ordinal)
    FROM jsonb_array_elements(progress) WITH ORDINALITY AS element (step, ordinal)
    JOIN jsonb_array_elements('[
        {"name": "reserve-stock", "participant": "warehouse", "compensation": "release-stock", "too_late": "already_committed"},
        {"name": "authorize-payment", "participant": "payment", "compensation": "void-authorization",
         "too_late": "already_captured"},
        {"name": "approval", "participant": "operator", "decision": true},
        {"name": "capture-payment", "participant": "payment", "compensation": "refund-payment", "pivot": true,
         "denials": {"no_authorization": "authorize-payment"}},
        {"name": "commit-stock", "participant": "warehouse", "denials": {"no_reservation": "reserve-stock"}}
    ]') AS planned ON planned ->> 'name' = step ->> 'name'));

ALTER TABLE checkouts ALTER COLUMN plan SET NOT NULL;
