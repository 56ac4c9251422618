-- What a message is: written once, never updated, so that no change of state rewrites a body. Filters read it.
-- `labels` is `,a,b,`; `headers` is in the form of HTTP; `options` is JSON, NULL when everything is at its default.
CREATE TABLE messages (
    id TEXT NOT NULL PRIMARY KEY,
    created_at_ms BIGINT NOT NULL,
    not_before_ms BIGINT NOT NULL,
    url TEXT NOT NULL,
    host TEXT NOT NULL,
    path TEXT NOT NULL,
    method TEXT NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL,
    retries_max BIGINT NOT NULL,
    caller_ip TEXT NOT NULL,
    labels TEXT NOT NULL,
    options TEXT
);

-- Where a message stands, while it is not ended. `visible_at_ms` is when it is due or, while leased, when the lease
-- ends: one index finds what may be claimed, destination by destination. `unreached`: the last attempt got no answer
-- because the connection was refused or cut, so the destination's return makes it due.
CREATE TABLE deliveries (
    message_id TEXT NOT NULL PRIMARY KEY,
    origin TEXT NOT NULL,
    visible_at_ms BIGINT NOT NULL,
    token BIGINT NOT NULL,
    retried BIGINT NOT NULL,
    leased BIGINT NOT NULL,
    cancelled BIGINT NOT NULL,
    unreached BIGINT NOT NULL
) WITHOUT ROWID;

CREATE INDEX deliveries_due ON deliveries (origin, visible_at_ms);

CREATE INDEX deliveries_unreached ON deliveries (origin) WHERE unreached = 1;

-- One row a moment; `states` adds up the states that begin at it. What an answer said stands with the state it caused.
CREATE TABLE logs (
    number INTEGER PRIMARY KEY,
    time_ms BIGINT NOT NULL,
    message_id TEXT NOT NULL,
    states BIGINT NOT NULL,
    status BIGINT,
    error TEXT,
    next_at_ms BIGINT,
    headers TEXT,
    body BLOB
);

CREATE INDEX logs_time ON logs (time_ms, number);

CREATE INDEX logs_message ON logs (message_id);

CREATE TABLE dead_letters (
    id TEXT NOT NULL PRIMARY KEY,
    message_id TEXT NOT NULL,
    time_ms BIGINT NOT NULL,
    status BIGINT NOT NULL,
    error TEXT,
    headers TEXT NOT NULL,
    body BLOB NOT NULL
);

CREATE INDEX dead_letters_time ON dead_letters (time_ms, id);

CREATE INDEX dead_letters_message ON dead_letters (message_id);

CREATE TABLE deduplications (
    id TEXT NOT NULL PRIMARY KEY,
    message_id TEXT NOT NULL,
    url TEXT NOT NULL,
    expires_at_ms BIGINT NOT NULL
);

CREATE INDEX deduplications_expiry ON deduplications (expires_at_ms);

-- Signing keys, and the digest of the token.
CREATE TABLE settings (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
