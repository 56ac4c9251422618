"""Dead letters: grouped by what they failed of, looked at, retried as they are or edited, deleted; one or many."""

from __future__ import annotations

from dataclasses import dataclass

from idioteque.client import BULK_COUNT_MAX, PAGE_COUNT_MAX, Json, Query
from idioteque.console.entries import (
    Carried,
    Payload,
    carried,
    curl,
    fingerprint,
    forwarded,
    headers_of,
    number,
    payload,
    plain_body,
    text,
)
from idioteque.console.frame import Answer, Done, Page, Screen, Visit
from idioteque.console.resending import OWN, Edits, edited, replace_letter
from idioteque.console.writing import body_text, headers_text, written_body, written_headers
from idioteque.errors import InvalidValue

GROUPED_MAX = 500
FILTERS = ("url", "label", "queueName", "topicName", "scheduleId", "responseStatus", "messageId")
SAMPLE_CHARS_MAX = 400
VERBS = ("retry", "delete")


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter in the list."""

    id: str
    message_id: str
    url: str
    status: int
    error: str
    created_at_ms: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters of one cause on this page, with a sample of the answer, and when the first and the last was made."""

    fingerprint: str
    letters: tuple[Letter, ...]
    sample: Payload
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class LettersView:
    """A page of dead letters, the latest first."""

    groups: tuple[Group, ...]
    count: int
    filters: dict[str, str]
    next: str | None


@dataclass(frozen=True, slots=True)
class LetterView:
    """One dead letter; an edit begins with `own_headers`, one a line, and `own_body`, None where no form carries it."""

    letter: Letter
    method: str
    headers: tuple[tuple[str, str], ...]
    body: Payload
    own_headers: str
    own_body: str | None
    response: Payload
    response_headers: tuple[tuple[str, str], ...]
    carried: Carried | None
    curl: str


@dataclass(frozen=True, slots=True)
class LettersBulkView:
    """What a bulk action would change."""

    verb: str
    ids: tuple[str, ...]


def letter_of(row: Json) -> Letter:
    """Read a dead letter."""
    url, status, error = text(row, "url"), number(row, "responseStatus"), text(row, "error")
    mark = fingerprint(url, status, error, plain_body(row, "responseBody"))
    return Letter(text(row, "dlqId"), text(row, "messageId"), url, status, error, number(row, "createdAt"), mark)


async def list_letters(visit: Visit) -> Answer:
    filters = {name: visit.asked(name) for name in FILTERS if visit.asked(name)}
    rows, cursor = await _rows(visit, [("order", "latestFirst"), *filters.items()])
    groups: dict[str, list[tuple[Letter, Json]]] = {}
    for row in rows:
        letter = letter_of(row)
        groups.setdefault(letter.fingerprint, []).append((letter, row))
    found = [_group(mark, members) for mark, members in groups.items()]
    found.sort(key=lambda group: -len(group.letters))
    return Page("dead_letters.html", LettersView(tuple(found), len(rows), filters, cursor))


async def _rows(visit: Visit, query: Query) -> tuple[list[Json], str | None]:
    """Return so many dead letters that groups tell something, and the cursor of those that follow."""
    rows: list[Json] = []
    cursor = visit.asked("cursor") or None
    while len(rows) < GROUPED_MAX:
        page = await visit.api.dead_letters(query, cursor, PAGE_COUNT_MAX)
        rows, cursor = rows + page.entries, page.cursor
        if cursor is None:
            break
    return rows, cursor


def _group(mark: str, members: list[tuple[Letter, Json]]) -> Group:
    letters = tuple(letter for letter, _ in members)
    times_ms = [letter.created_at_ms for letter in letters]
    sample = payload(plain_body(members[0][1], "responseBody"), SAMPLE_CHARS_MAX)
    return Group(mark, letters, sample, min(times_ms), max(times_ms))


async def show_letter(visit: Visit) -> Answer:
    row, chars_max = await visit.api.dead_letter(visit.path["id"]), visit.services.settings.shown_chars_max
    body, headers = plain_body(row), headers_of(row, "header")
    view = LetterView(
        letter=letter_of(row),
        method=text(row, "method"),
        headers=headers,
        body=payload(body, chars_max),
        own_headers=headers_text([(name, value) for name, value in headers if not name.lower().startswith(OWN)]),
        own_body=body_text(body),
        response=payload(plain_body(row, "responseBody"), chars_max),
        response_headers=headers_of(row, "responseHeader"),
        carried=carried(body, text(row, "messageId")),
        curl=curl(visit.services.settings.api_url, text(row, "url"), forwarded(headers), body, text(row, "method")),
    )
    return Page("dead_letter.html", view)


async def count_bulk(visit: Visit) -> Answer:
    """Say which dead letters an action would change."""
    return Page("letters_bulk.html", LettersBulkView(_verb(visit), tuple(_ids(visit))))


async def change_many(visit: Visit) -> Answer:
    verb, ids = _verb(visit), _ids(visit)
    done = 0
    for begin in range(0, len(ids), BULK_COUNT_MAX):
        bite = ids[begin : begin + BULK_COUNT_MAX]
        done += await (visit.api.retry_dead_letters(bite) if verb == "retry" else visit.api.delete_dead_letters(bite))
    return Done(f"{verb}: {done} of {len(ids)} dead letters", "/dead-letters", is_failure=done < len(ids))


async def edit_and_retry(visit: Visit) -> Answer:
    """Publish a dead letter's message with another URL, other headers or another body, then delete the letter."""
    headers = written_headers(visit.written("headers")) if "headers" in dict(visit.form) else None
    written = visit.written("body") if "body" in dict(visit.form) else None
    letter = await visit.api.dead_letter(visit.path["id"])
    edits = Edits(visit.given("url").strip() or None, None, headers, written_body(written, plain_body(letter)))
    instead = await edited(visit.api, letter, edits)
    message_id = await replace_letter(visit.api, visit.path["id"], instead)
    return Done(f"message {message_id} is on its way instead", f"/messages/{message_id}")


def _verb(visit: Visit) -> str:
    verb = visit.given("verb")
    if verb not in VERBS:
        raise InvalidValue(f"{verb[:40]!r} is no action on dead letters")
    return verb


def _ids(visit: Visit) -> list[str]:
    ids = visit.all_given("id")[: visit.services.settings.bulk_max]
    if not ids:
        raise InvalidValue("tick the dead letters first")
    return ids


screens = (
    Screen("/dead-letters", list_letters),
    Screen("/dead-letters/bulk/count", count_bulk, act="dead-letter.bulk-count", looks_only=True),
    Screen("/dead-letters/bulk", change_many, act="dead-letter.bulk"),
    Screen("/dead-letters/{id}", show_letter),
    Screen("/dead-letters/{id}/edit", edit_and_retry, act="dead-letter.edit-and-retry"),
)
