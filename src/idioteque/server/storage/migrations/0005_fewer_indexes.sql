-- Rows in the order of time: `number` is a time in milliseconds and, in its lower 20 bits, which row of this millisecond
-- it is (storage/numbers.py). So logs need no index by time, and messages are read in the order of their creation.
--
-- `begun` are the states that began with the message: CREATED (1), and ACTIVE (2) if it was sent at once. They are its
-- first entries in the log, which has rows for what follows only.
CREATE TABLE numbered_messages (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    begun BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    not_before_ms BIGINT NOT NULL,
    url TEXT NOT NULL,
    host TEXT NOT NULL,
    path TEXT NOT NULL,
    method TEXT NOT NULL,
    headers TEXT NOT NULL,
    retries_max BIGINT NOT NULL,
    caller_ip TEXT NOT NULL,
    labels TEXT NOT NULL,
    options TEXT,
    queue_name TEXT,
    flow_key TEXT,
    schedule_id TEXT,
    topic_name TEXT,
    endpoint_name TEXT,
    body BLOB NOT NULL
);

INSERT INTO numbered_messages
SELECT created_at_ms * 1048576 + ROW_NUMBER() OVER (PARTITION BY created_at_ms ORDER BY rowid) - 1, id,
    COALESCE((SELECT l.states & 3 FROM logs l WHERE l.message_id = m.id AND (l.states & 1) <> 0 LIMIT 1), 1),
    created_at_ms, not_before_ms, url, host, path, method, headers, retries_max, caller_ip, labels, options, queue_name,
    flow_key, schedule_id, topic_name, endpoint_name, body
FROM messages m;

CREATE TABLE numbered_logs (
    number INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL,
    states BIGINT NOT NULL,
    status BIGINT,
    error TEXT,
    next_at_ms BIGINT,
    headers TEXT,
    body BLOB
);

INSERT INTO numbered_logs
SELECT time_ms * 1048576 + ROW_NUMBER() OVER (PARTITION BY time_ms ORDER BY number) - 1, message_id, states, status,
    error, next_at_ms, headers, body
FROM logs WHERE (states & 1) = 0;

-- What is leased stands together, and is in no index: a message that is sent at once and delivered is put in and taken
-- out once. Who asks by the message alone asks for both: `leased IN (0, 1)`.
CREATE TABLE leased_deliveries (
    message_id TEXT NOT NULL,
    origin TEXT NOT NULL,
    visible_at_ms BIGINT NOT NULL,
    token BIGINT NOT NULL,
    retried BIGINT NOT NULL,
    leased BIGINT NOT NULL,
    cancelled BIGINT NOT NULL,
    unreached BIGINT NOT NULL,
    reaches TEXT,
    flow_key TEXT,
    queue_name TEXT,
    place BIGINT,
    holds BIGINT NOT NULL DEFAULT 1,
    PRIMARY KEY (leased, message_id)
) WITHOUT ROWID;

INSERT INTO leased_deliveries
SELECT message_id, origin, visible_at_ms, token, retried, leased, cancelled, unreached, reaches, flow_key, queue_name,
    place, holds
FROM deliveries;

DROP TABLE messages;

DROP TABLE logs;

DROP TABLE deliveries;

ALTER TABLE numbered_messages RENAME TO messages;

ALTER TABLE numbered_logs RENAME TO logs;

ALTER TABLE leased_deliveries RENAME TO deliveries;

CREATE INDEX messages_queue ON messages (queue_name) WHERE queue_name IS NOT NULL;

CREATE INDEX messages_flow ON messages (flow_key) WHERE flow_key IS NOT NULL;

CREATE INDEX messages_schedule ON messages (schedule_id) WHERE schedule_id IS NOT NULL;

CREATE INDEX messages_topic ON messages (topic_name) WHERE topic_name IS NOT NULL;

CREATE INDEX messages_labelled ON messages (number) WHERE labels <> '';

CREATE INDEX logs_message ON logs (message_id);

-- What is listed by a state that few rows have; a message that is delivered at once has no row here.
CREATE INDEX logs_rare ON logs (states, number) WHERE states > 4;

CREATE INDEX deliveries_due ON deliveries (origin, visible_at_ms) WHERE leased = 0;

CREATE INDEX deliveries_unreached ON deliveries (origin) WHERE unreached = 1;

CREATE INDEX deliveries_reaches ON deliveries (reaches) WHERE unreached = 1 AND reaches IS NOT NULL;

CREATE INDEX deliveries_queue ON deliveries (queue_name, holds, place) WHERE queue_name IS NOT NULL;

CREATE INDEX deliveries_flow ON deliveries (flow_key, leased, visible_at_ms) WHERE flow_key IS NOT NULL;

CREATE INDEX deliveries_retried ON deliveries (retried) WHERE retried > 0;

CREATE INDEX dead_letters_status ON dead_letters (status, time_ms, id);
