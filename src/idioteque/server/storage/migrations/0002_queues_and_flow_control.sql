-- What a message waited for besides its time; filters read it.
ALTER TABLE messages ADD COLUMN queue_name TEXT;

ALTER TABLE messages ADD COLUMN flow_key TEXT;

CREATE INDEX messages_queue ON messages (queue_name) WHERE queue_name IS NOT NULL;

CREATE INDEX messages_flow ON messages (flow_key) WHERE flow_key IS NOT NULL;

-- A delivery that a queue or a flow-control key orders stands in a line of its own: its `origin` is then `queue:NAME` or
-- `flow:KEY`, and `reaches` the origin that it is sent to. `flow_key` is the key whose limits hold for it.
--
-- `queue_name` and `place` are the slot of a queue that it waits for (`holds` is 0, and it is visible never) or holds
-- (1). A callback holds the slot of the message that it reports on: so the slot is taken until all of them have ended.
ALTER TABLE deliveries ADD COLUMN reaches TEXT;

ALTER TABLE deliveries ADD COLUMN flow_key TEXT;

ALTER TABLE deliveries ADD COLUMN queue_name TEXT;

ALTER TABLE deliveries ADD COLUMN place BIGINT;

ALTER TABLE deliveries ADD COLUMN holds BIGINT NOT NULL DEFAULT 1;

CREATE INDEX deliveries_queue ON deliveries (queue_name, holds, place) WHERE queue_name IS NOT NULL;

CREATE INDEX deliveries_flow ON deliveries (flow_key, leased, visible_at_ms) WHERE flow_key IS NOT NULL;

CREATE INDEX deliveries_reaches ON deliveries (reaches) WHERE unreached = 1 AND reaches IS NOT NULL;

-- `last_place` is that of the message that was put in last. It only grows, in the transactions that accept messages:
-- ids made in one millisecond have no order.
CREATE TABLE queues (
    name TEXT NOT NULL PRIMARY KEY,
    parallelism BIGINT NOT NULL,
    paused BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    last_place BIGINT NOT NULL
);

-- The limits of flow-control keys, NULL for none, and how much of the rate is used in the period that began last. How
-- many deliveries are under way is counted from their leases, so no crash can leave a wrong figure behind.
CREATE TABLE flow_keys (
    name TEXT NOT NULL PRIMARY KEY,
    parallelism BIGINT,
    rate BIGINT,
    period_s BIGINT NOT NULL,
    pinned_parallelism BIGINT NOT NULL,
    pinned_rate BIGINT NOT NULL,
    paused BIGINT NOT NULL,
    period_began_ms BIGINT NOT NULL,
    rate_used BIGINT NOT NULL,
    used_at_ms BIGINT NOT NULL
);

CREATE INDEX flow_keys_used ON flow_keys (used_at_ms);
