-- A page of the runs of one function that have one status: with the others alone, it would be looked for among all runs
-- of the function, or of the status.
CREATE INDEX runs_by_both ON runs (function_id, status, created_at_ms, run_id);
