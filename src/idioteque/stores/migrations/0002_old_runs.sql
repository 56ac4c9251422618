CREATE INDEX runs_by_event ON runs (event_id);
CREATE INDEX marks_by_value ON marks (value);
