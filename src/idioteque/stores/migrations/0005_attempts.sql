-- The failed attempts of steps (and, with an empty path, of bodies) that were followed by another; read with the run, and
-- never by the engine.
CREATE TABLE step_attempts (
    run_id TEXT NOT NULL,
    path TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    took_ms BIGINT,
    error TEXT NOT NULL,
    PRIMARY KEY (run_id, path, epoch, attempt)
);

-- The waits that an event ended.
CREATE INDEX steps_by_taken ON steps (taken) WHERE taken IS NOT NULL;
