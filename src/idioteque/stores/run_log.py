"""What functions log, in a SQL database: the latest lines of each run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from idioteque.database import Row, SqlValue, Transaction
from idioteque.paths import path_of, path_text
from idioteque.runlog import LINES_KEPT, LOG_BYTES_MAX, Log, LogLine
from idioteque.stores.opening import OpenedDatabase
from idioteque.stores.tables import load_run

# A line may come again, with a replay or because an answer was lost.
NOTE_LINE = """INSERT INTO run_lines (run_id, id, at_ms, number, level, path, attempt, bytes, text)
    VALUES (:run_id, :id, :at_ms, :number, :level, :path, :attempt, :bytes, :text)
    ON CONFLICT (run_id, id) DO NOTHING"""

MEASURE = "SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM run_lines WHERE run_id = :run_id AND id <> ''"

# All but the latest lines of a run, by their number and by the length of their texts.
CUT_LINES = """DELETE FROM run_lines WHERE run_id = :run_id AND id IN (
    SELECT id FROM (
        SELECT id, ROW_NUMBER() OVER newest AS place, SUM(bytes) OVER newest AS total FROM run_lines
            WHERE run_id = :run_id AND id <> '' WINDOW newest AS (ORDER BY at_ms DESC, number DESC, id DESC)) AS ranked
    WHERE place > :lines_kept OR total > :bytes_max)"""

COUNT_CUT = """INSERT INTO run_lines (run_id, id, at_ms, number, level, path, attempt, bytes, text)
    VALUES (:run_id, '', 0, :cut, '', '', 0, 0, '')
    ON CONFLICT (run_id, id) DO UPDATE SET number = run_lines.number + :cut"""

READ_LINES = """SELECT id, at_ms, number, level, path, attempt, text FROM run_lines WHERE run_id = :run_id
    ORDER BY at_ms, number, id"""


class SqlRunLog:
    """The part of `SqlStore` that keeps lines."""

    _database: OpenedDatabase

    async def note_lines(self, run_id: str, lines: Sequence[LogLine], cut: int) -> None:
        run: dict[str, SqlValue] = {"run_id": run_id}
        rows = [{**run, **_row(line)} for line in lines]

        def operation(tx: Transaction) -> None:
            if load_run(tx, run_id) is None:
                return
            tx.execute_many(NOTE_LINE, rows)
            left_out = cut
            [(count, total)] = tx.execute(MEASURE, run)
            if count > LINES_KEPT or total > LOG_BYTES_MAX:
                left_out += tx.changed(CUT_LINES, {**run, "lines_kept": LINES_KEPT, "bytes_max": LOG_BYTES_MAX})
            if left_out:
                tx.execute(COUNT_CUT, {**run, "cut": left_out})

        await self._database.write(operation)

    async def lines(self, run_id: str) -> Log:
        rows = await self._database.read(lambda tx: tx.execute(READ_LINES, {"run_id": run_id}))
        return Log([_line(row) for row in rows if row[0]], sum(row[2] for row in rows if not row[0]))


def _row(line: LogLine) -> dict[str, SqlValue]:
    return {
        "id": line.id,
        "at_ms": line.at_ms,
        "number": line.number,
        "level": line.level,
        "path": path_text(line.path),
        "attempt": line.attempt,
        "bytes": line.bytes,
        "text": line.text,
    }


def _line(row: Row) -> LogLine:
    columns: tuple[Any, ...] = (*row[:4], path_of(row[4]), *row[5:])
    return LogLine(*columns)
