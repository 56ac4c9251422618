-- What made a message, if it was not published by itself.
ALTER TABLE messages ADD COLUMN schedule_id TEXT;

ALTER TABLE messages ADD COLUMN topic_name TEXT;

ALTER TABLE messages ADD COLUMN endpoint_name TEXT;

CREATE INDEX messages_schedule ON messages (schedule_id) WHERE schedule_id IS NOT NULL;

CREATE INDEX messages_topic ON messages (topic_name) WHERE topic_name IS NOT NULL;

-- A publish that is repeated: `headers` are the publish headers as they came, in the form of HTTP, and are read anew at
-- each tick. `next_at_ms` is the tick that comes next, NULL while the schedule is paused or when none will come;
-- `last_at_ms` the latest that was dealt with, fired or missed; `fired_at_ms` and `message_ids` (JSON) the latest that
-- made messages.
CREATE TABLE schedules (
    id TEXT NOT NULL PRIMARY KEY,
    cron TEXT NOT NULL,
    destination TEXT NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL,
    queue_name TEXT,
    caller_ip TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    paused BIGINT NOT NULL,
    next_at_ms BIGINT,
    last_at_ms BIGINT,
    fired_at_ms BIGINT,
    message_ids TEXT NOT NULL,
    error TEXT
);

CREATE INDEX schedules_next ON schedules (next_at_ms) WHERE next_at_ms IS NOT NULL;

-- `endpoints` and `headers` are JSON: both are read and replaced as a whole, in the transaction that changes them.
CREATE TABLE url_groups (
    name TEXT NOT NULL PRIMARY KEY,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    endpoints TEXT NOT NULL,
    headers TEXT NOT NULL
);
