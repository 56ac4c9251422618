"""Numbers by which rows are kept in the order of time: the table itself is the index, and new rows go to its end.

A number is a time in milliseconds and, in its lower 20 bits, which row of this millisecond it is.
"""

from __future__ import annotations

PER_MS = 1 << 20
NUMBER_MAX = 2**63 - 1


def first_number(time_ms: int) -> int:
    """Return the number of the first row of a millisecond, which is also behind all rows before it."""
    return min(time_ms * PER_MS, NUMBER_MAX)


def time_of(number: int) -> int:
    """Return the time of a row in milliseconds."""
    return number // PER_MS


def next_number(table: str) -> str:
    """Return the SQL for the number of a table's next row in the millisecond that begins with `:first_number`."""
    # One seek in the table: the last row of the millisecond.
    return (
        f"(SELECT COALESCE(MAX(number) + 1, :first_number) FROM {table} "  # noqa: S608 - a constant
        f"WHERE number BETWEEN :first_number AND :first_number + {PER_MS - 1})"
    )
