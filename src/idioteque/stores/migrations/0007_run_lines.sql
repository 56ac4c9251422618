-- What functions wrote with `ctx.log`, the latest lines of each run; read by people, and never by the engine. `number`
-- tells lines of one moment apart; in the row whose id is empty it counts the lines that were cut.
CREATE TABLE run_lines (
    run_id TEXT NOT NULL,
    id TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    number BIGINT NOT NULL,
    level TEXT NOT NULL,
    path TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (run_id, id)
);
