-- Runs that met another one at a name, and have not begun. A later repetition of their event's message is told the same.
CREATE TABLE dismissals (
    run_id TEXT NOT NULL,
    name TEXT NOT NULL,
    holder TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (run_id, name)
);

CREATE INDEX dismissals_by_age ON dismissals (at_ms);
