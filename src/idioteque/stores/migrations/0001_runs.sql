CREATE TABLE run_events (
    event_id TEXT PRIMARY KEY,
    event BYTEA NOT NULL
);

CREATE TABLE runs (
    run_id TEXT PRIMARY KEY,
    event_id TEXT NOT NULL,
    function_id TEXT NOT NULL,
    options BYTEA NOT NULL,
    created_at_ms BIGINT NOT NULL,
    status TEXT NOT NULL,
    finished_at_ms BIGINT,
    outcome_ok BIGINT,
    outcome BYTEA,
    attempts BIGINT NOT NULL,
    strikes BIGINT NOT NULL,
    due_at_ms BIGINT NOT NULL,
    last_error TEXT,
    epoch BIGINT NOT NULL,
    trouble TEXT,
    seq BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    token BIGINT NOT NULL,
    lease_until_ms BIGINT NOT NULL,
    alive_at_ms BIGINT NOT NULL,
    owner TEXT NOT NULL,
    message_id TEXT NOT NULL,
    retried BIGINT NOT NULL,
    dirty BIGINT NOT NULL,
    gen BIGINT NOT NULL
);

CREATE INDEX runs_by_age ON runs (created_at_ms, run_id);

CREATE TABLE steps (
    run_id TEXT NOT NULL,
    path TEXT NOT NULL,
    outcome_ok BIGINT,
    outcome BYTEA,
    seq BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    strikes BIGINT NOT NULL,
    begun BIGINT NOT NULL,
    due_at_ms BIGINT NOT NULL,
    committed_at_ms BIGINT,
    last_error TEXT,
    taken TEXT,
    waits_for TEXT,
    PRIMARY KEY (run_id, path)
);

CREATE INDEX steps_by_seq ON steps (run_id, seq);

CREATE TABLE seats (
    run_id TEXT NOT NULL,
    path TEXT NOT NULL,
    token BIGINT NOT NULL,
    lease_until_ms BIGINT NOT NULL,
    alive_at_ms BIGINT NOT NULL,
    owner TEXT NOT NULL,
    message_id TEXT NOT NULL,
    retried BIGINT NOT NULL,
    strikes BIGINT NOT NULL,
    wake BIGINT NOT NULL,
    sent BIGINT NOT NULL,
    PRIMARY KEY (run_id, path)
);

CREATE TABLE watchers (
    run_id TEXT NOT NULL,
    path TEXT NOT NULL,
    seat TEXT NOT NULL,
    type TEXT NOT NULL,
    condition BYTEA NOT NULL,
    PRIMARY KEY (run_id, path, type)
);

CREATE INDEX watchers_by_type ON watchers (type);

CREATE TABLE marks (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    at_ms BIGINT NOT NULL
);

CREATE TABLE mailbox (
    event_id TEXT PRIMARY KEY,
    type TEXT NOT NULL,
    event BYTEA NOT NULL,
    accepted_at_ms BIGINT NOT NULL
);

CREATE INDEX mailbox_by_type ON mailbox (type, accepted_at_ms);
CREATE INDEX mailbox_by_age ON mailbox (accepted_at_ms);
