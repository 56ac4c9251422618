"""Envelopes: what is read from a message's body, ours or anybody's, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idioteque import EventRejected
from idioteque.dispatcher import COUNT_MAX, EventEnvelope, NewerVersion, RunEnvelope, decode
from idioteque.ids import is_id


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


ids = st.from_regex(r"[A-Za-z0-9_.-]{1,128}", fullmatch=True)
counts = st.none() | st.integers(0, COUNT_MAX - 1)
events = st.none() | st.dictionaries(st.text(), st.text() | st.integers() | st.booleans()).map(
    lambda event: json.dumps(event, separators=(",", ":")).encode()
)
envelopes = st.one_of(
    st.builds(EventEnvelope, event_id=ids, event=events.filter(bool), retries=counts),
    st.builds(
        RunEnvelope,
        event_id=ids,
        function_id=ids,
        not_after_ms=st.integers(0, COUNT_MAX - 1),
        event=events,
        retries=counts,
        hop=st.integers(0, COUNT_MAX - 1),
        instead_of=st.none() | st.tuples(st.text(max_size=256), st.integers(0, COUNT_MAX - 1)),
    ),
)


@given(envelopes)
def test_an_envelope_is_read_as_it_was_written(envelope: EventEnvelope | RunEnvelope) -> None:
    read = decode(envelope.encode(), "msg_1")
    assert isinstance(read, EventEnvelope | RunEnvelope)
    assert (read.event and json.loads(read.event)) == (envelope.event and json.loads(envelope.event))
    assert replace(read, event=None) == replace(envelope, event=None)  # type: ignore[arg-type]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
)


@given(st.dictionaries(st.text(st.characters()), JSON), st.booleans())
def test_an_event_is_kept_with_every_value_that_json_has(event: dict[str, Any], escaped: bool) -> None:
    body = json.dumps({"event": event}, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    read = decode(body, "msg_1")
    assert isinstance(read, EventEnvelope)
    assert repr(json.loads(read.event)) == repr(event)


@given(st.binary() | st.text('[]{}":,\\0123456789.eE+-truefalsnIiyNa \n\ud800\u2028é').map(_bytes))
def test_whatever_the_standard_library_refuses_is_refused(value: bytes) -> None:
    body = b'{"event":' + value + b"}"
    try:
        expected = json.loads(body)
        json.dumps(expected, allow_nan=False)
    except ValueError:
        with pytest.raises(EventRejected):
            decode(body, "msg_1")
    else:
        read = decode(body, "msg_1")
        kept = expected["event"] if set(expected) == {"event"} else expected
        assert isinstance(read, EventEnvelope)
        assert repr(json.loads(read.event)) == repr(kept)


@pytest.mark.parametrize(
    "body",
    [
        '{"n":1,"é":"\U0001f600"}'.encode("utf-16"),
        '{"n":1,"é":"\U0001f600"}'.encode("utf-16-le"),
        '{"n":1}'.encode("utf-32"),
        '\ufeff{"n":1}'.encode(),
        b'{"n":1,"n":2}',
        b'{"n":' + b"[" * 400 + b"]" * 400 + b"}",
        b'{"n":' + b"9" * 4000 + b"}",
        b'{"n":-0.0,"m":1e22,"k":123456789.123456789e-300,"l":5e-324}',
        b'{"n":"NaN","m":"Infinity","k":"\\ud83d"}',
        b'{"event":{"n":"\\u0000\\u2028"}}',
    ],
)
def test_an_unusual_body_is_read_as_the_standard_library_reads_it(body: bytes) -> None:
    read, expected = decode(body, "msg_1"), json.loads(body)
    assert isinstance(read, EventEnvelope)
    assert repr(json.loads(read.event)) == repr(expected.get("event", expected))


@pytest.mark.parametrize(
    ("body", "event"),
    [
        (b'{"type":"order","n":1}', {"type": "order", "n": 1}),
        (b' \n {"type" : "order"}', {"type": "order"}),
        (b'{"event":{"type":"order"}}', {"type": "order"}),
        (b'{"event":"bare","type":"order"}', {"event": "bare", "type": "order"}),
        (b'{"event":null}', None),
        (b"{}", {}),
        ('{"é":"\\u0000"}'.encode(), {"é": "\x00"}),
    ],
)
def test_a_bare_event_takes_the_id_of_its_message(body: bytes, event: Any) -> None:
    read = decode(body, "msg_1")
    assert isinstance(read, EventEnvelope)
    assert (read.event_id, json.loads(read.event), read.retries) == ("msg_1", event, None)


@pytest.mark.parametrize("message_id", ["with spaces", "a:b", "é", "\ud800", "x" * 129, "", "../../etc"])
def test_a_message_id_that_is_no_event_id_is_hashed_the_same_each_time(message_id: str) -> None:
    first, second = (decode(b"{}", message_id) for _ in range(2))
    assert first == second
    assert is_id(first.event_id)
    assert first != decode(b"{}", message_id + "!")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b"\x00",
        b"null",
        b"5",
        b'"text"',
        b"[]",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"9" * 100_000,
        b'{"n":' + b"9" * 100_000 + b"}",
        b'{"n":NaN}',
        b'{"n":Infinity}',
        b'{"n":1e999}',
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_json_object_is_rejected(body: bytes) -> None:
    with pytest.raises(EventRejected):
        decode(body, "msg_1")


OURS: dict[str, Any] = {
    "idioteque": 1,
    "kind": "run",
    "event_id": "evt_1",
    "function_id": "f",
    "not_after_ms": 5,
}


@pytest.mark.parametrize(
    "change",
    [
        {"event_id": None},
        {"event_id": "a b"},
        {"event_id": 5},
        {"event_id": ""},
        {"event_id": "x" * 129},
        {"event_id": ["evt_1"]},
        {"event_id": "evt_1\n"},
        {"function_id": "../f"},
        {"function_id": None},
        {"function_id": 1},
        {"not_after_ms": "5"},
        {"not_after_ms": -1},
        {"not_after_ms": True},
        {"not_after_ms": 1.5},
        {"not_after_ms": COUNT_MAX},
        {"not_after_ms": 10**100},
        {"not_after_ms": None},
        {"hop": -1},
        {"hop": "1"},
        {"hop": 10**400},
        {"retries": -1},
        {"retries": 2.5},
        {"retries": "3"},
        {"retries": False},
        {"retries": 10**30},
        {"instead_of": "msg_1"},
        {"instead_of": ["msg_1"]},
        {"instead_of": ["msg_1", "1"]},
        {"instead_of": ["msg_1", True]},
        {"instead_of": ["msg_1", -1]},
        {"instead_of": ["x" * 257, 1]},
        {"instead_of": {"a": 1}},
        {"kind": "event"},
        {"kind": "event", "event": {}, "event_id": "no id"},
    ],
    ids=repr,
)
def test_an_envelope_of_ours_with_anything_wrong_is_rejected(change: dict[str, Any]) -> None:
    with pytest.raises(EventRejected):
        decode(json.dumps({**OURS, **change}).encode(), "msg_1")


@pytest.mark.parametrize("missing", ["kind", "event_id", "function_id", "not_after_ms"])
def test_an_envelope_of_ours_with_anything_missing_is_rejected(missing: str) -> None:
    fields = {name: value for name, value in OURS.items() if name != missing}
    with pytest.raises(EventRejected):
        decode(json.dumps(fields).encode(), "msg_1")


@pytest.mark.parametrize("change", [{"idioteque": 2}, {"idioteque": "1"}, {"idioteque": None}, {"kind": "wake"}])
def test_an_envelope_of_a_later_release_is_for_a_later_release(change: dict[str, Any]) -> None:
    with pytest.raises(NewerVersion):
        decode(json.dumps({**OURS, **change}).encode(), "msg_1")


def test_an_envelope_is_not_confused_by_what_its_event_holds() -> None:
    event = b'{"idioteque":7,"kind":"run","event_id":"evil","event":{"deep":"\\n"}}'
    read = decode(EventEnvelope("evt_1", event, 0).encode(), "msg_1")
    assert read == EventEnvelope("evt_1", event, 0)
