-- What happened in each five minutes of the last day; `latency` is JSON, how many deliveries took how long.
CREATE TABLE activity (
    began_ms BIGINT NOT NULL PRIMARY KEY,
    accepted BIGINT NOT NULL,
    delivered BIGINT NOT NULL,
    retried BIGINT NOT NULL,
    dead_lettered BIGINT NOT NULL,
    latency TEXT NOT NULL
);

-- Messages that are tried again, to be counted without those that are not.
CREATE INDEX deliveries_retried ON deliveries (retried) WHERE retried > 0;
