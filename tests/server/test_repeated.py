"""Publishes in the same words are read once, and each still says what it says."""

from __future__ import annotations

import pytest

from idioteque.server.api.repeated import REMEMBERED_MAX, Repeated
from idioteque.server.front.request import Request, first_values
from idioteque.server.model import Draft, Options

URL = "https://shop.test/hook"


def request(*headers: tuple[str, str], body: bytes = b"", path: str = URL, query: str = "", peer: str = "") -> Request:
    pairs = [(name.encode(), value.encode()) for name, value in headers]
    return Request("POST", b"/v2/publish/" + path.encode(), query.encode(), pairs, first_values(pairs), peer, body)


def remembering(*requests: Request) -> Repeated:
    repeated = Repeated()
    for each in requests:
        repeated.remember(each, Draft(URL, each.body, Options(retries_max=7), "its own id", each.peer))
    return repeated


def test_a_request_in_the_same_words_gives_the_same_draft_of_its_own_body() -> None:
    known = request(("upstash-retries", "7"), ("content-length", "3"), body=b"old", peer="192.0.2.1")
    like = request(("content-length", "4"), ("upstash-retries", "7"), ("traceparent", "x"), body=b"newer", peer="::1")
    draft = remembering(known).draft(like)
    assert draft == Draft(URL, b"newer", Options(retries_max=7), None, "::1")


def test_each_request_has_its_own_deduplication_id() -> None:
    repeated = remembering(request(("upstash-deduplication-id", "a")))
    for given, key in (((("upstash-deduplication-id", "b"),), "b"), ((), None)):
        draft = repeated.draft(request(*given))
        assert draft is not None
        assert draft.deduplication_key == key
    with pytest.raises(Exception, match="invalid Upstash-Deduplication-Id"):
        repeated.draft(request(("upstash-deduplication-id", "a:b")))


@pytest.mark.parametrize(
    "other",
    [
        request(("upstash-retries", "8")),
        request(("upstash-retries", "7"), ("upstash-delay", "1s")),
        request(("upstash-retries", "7"), ("content-type", "text/plain")),
        request(("upstash-retries", "7"), path=URL + "/other"),
        request(("upstash-retries", "7"), query="a=b"),
        request(),
    ],
)
def test_other_words_are_not_known(other: Request) -> None:
    assert remembering(request(("upstash-retries", "7"))).draft(other) is None


@pytest.mark.parametrize(
    "unlike",
    [
        request(("upstash-content-based-deduplication", "true")),
        request(("upstash-header-forward", "true")),
        request(query="upstash-retries=7"),
        request(query="Upst%61sh-retries=7"),
        request(("upstash-forward-x", "x" * 4096)),
    ],
)
def test_what_depends_on_more_or_is_long_is_not_remembered(unlike: Request) -> None:
    assert remembering(unlike).draft(unlike) is None


def test_the_oldest_is_forgotten() -> None:
    requests = [request(path=f"{URL}/{number}") for number in range(REMEMBERED_MAX + 1)]
    repeated = remembering(*requests)
    assert repeated.draft(requests[0]) is None
    assert repeated.draft(requests[1]) is not None
    assert repeated.draft(requests[-1]) is not None
