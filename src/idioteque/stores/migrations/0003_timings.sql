-- How long the attempt ran that brought a step's outcome.
ALTER TABLE steps ADD COLUMN took_ms BIGINT;

-- Every delivery that took a lease; read with the run, and never by the engine.
CREATE TABLE run_deliveries (
    run_id TEXT NOT NULL,
    token BIGINT NOT NULL,
    path TEXT NOT NULL,
    message_id TEXT NOT NULL,
    retried BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (run_id, token)
);

-- A page of the runs of one status or of one function, the newest first.
CREATE INDEX runs_by_status ON runs (status, created_at_ms, run_id);

CREATE INDEX runs_by_function ON runs (function_id, created_at_ms, run_id);
