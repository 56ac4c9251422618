"""The table of compatibility is complete, true, and up to date."""

from __future__ import annotations

from qstash import AsyncQStash, QStash

from tests.compat.rows import NOT_OFFERED, TABLE, claims, javascript_methods, python_methods, table
from tests.compat.test_javascript import node


def test_the_table_is_up_to_date() -> None:
    node()  # the declarations of the JavaScript SDK are read from its package
    assert TABLE.read_text() == table(), "write it with: python -m tests.compat.rows"


def test_every_row_has_a_verdict_and_no_verdict_lacks_a_test() -> None:
    rows = [line.split("|")[1:4] for line in table().splitlines() if line.startswith("| `")]
    for name, verdict, shown_by in rows:
        assert verdict.strip(), f"nothing shows whether{name}works"
        assert (shown_by.strip() == "-") == (verdict.strip() != "works")


def test_no_claim_is_of_something_else() -> None:
    names = {*python_methods(QStash), *(f"javascript {name}" for name in javascript_methods()), "Receiver.verify"}
    unknown = {row for row in claims() if row.split(" ")[0] not in ("publish", "delivery", "answer", "refusal")} - names
    assert unknown == set()
    assert set(NOT_OFFERED) <= names
    assert python_methods(QStash) == python_methods(AsyncQStash)
