"""Ids, keys and tokens."""

from __future__ import annotations

import base64
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idioteque.errors import InvalidValue
from idioteque.ids import checked_id, derived_id, is_id, jittered, new_id, new_signing_key, new_token, nonce


def test_ids_sort_by_age_and_never_repeat() -> None:
    ids = [new_id("evt", now_ms) for now_ms in range(1_700_000_000_000, 1_700_000_001_000)]
    assert ids == sorted(ids)
    assert len({new_id("evt", 0) for _ in range(10_000)}) == 10_000
    assert all(is_id(one) and one.startswith("evt_") and len(one) == 36 for one in ids)


def test_a_derived_id_is_the_same_for_the_same_parts_and_else_another() -> None:
    assert derived_id("run", "a", "b") == derived_id("run", "a", "b")
    parts = [
        (),
        ("",),
        ("", ""),
        ("a", "b"),
        ("ab",),
        ("a,b",),
        ('a","b',),
        ("b", "a"),
        ("a", "b", ""),
        ("é",),
        ("\ud800",),
    ]
    assert len({derived_id("run", *some) for some in parts}) == len(parts)
    assert derived_id("run", "a") != derived_id("evt", "a")


def test_a_derived_id_never_changes_between_versions() -> None:
    """Runs that are under way find themselves by it."""
    assert derived_id("run", "evt_1", "send-email") == "run_4fcdec32a8a52359599b6f2890c745e0"


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_different_parts_give_different_ids(one: list[str], other: list[str]) -> None:
    assert (derived_id("x", *one) == derived_id("x", *other)) == (one == other)


@pytest.mark.parametrize("text", ["a", "A-b_c.9", "x" * 128, "order-1"])
def test_an_id_is_of_letters_digits_and_three_signs(text: str) -> None:
    assert is_id(text)
    assert checked_id(text, "event id") == text


@pytest.mark.parametrize("text", ["", "x" * 129, "a b", "a/b", "a:b", "é", "a\n", "\na", "a\0", "../x", "a,b", "*"])
def test_anything_else_is_no_id_and_is_named(text: str) -> None:
    assert not is_id(text)
    with pytest.raises(InvalidValue, match="event id"):
        checked_id(text, "event id")


def test_signing_keys_have_the_official_shape_and_256_bits() -> None:
    keys = {new_signing_key() for _ in range(1000)}
    assert len(keys) == 1000
    letters = set(string.ascii_letters + string.digits)
    assert all(key.startswith("sig_") and len(key) == 47 and set(key[4:]) <= letters for key in keys)
    assert set("".join(key[4:] for key in keys)) == letters


def test_a_token_tells_the_user_and_hides_256_bits() -> None:
    one, other = (json.loads(base64.b64decode(new_token("defaultUser"))) for _ in range(2))
    assert one["UserID"] == "defaultUser"
    assert len(one["Password"]) == 43
    assert one["Password"] != other["Password"]


def test_nonces_do_not_repeat() -> None:
    assert len({nonce() for _ in range(10_000)}) == 10_000
    assert all(character in string.hexdigits for character in nonce())


def test_jitter_stays_within_its_fraction() -> None:
    values = [jittered(100, 0.1) for _ in range(1000)]
    assert all(90 <= value <= 110 for value in values)
    assert max(values) - min(values) > 10
    assert jittered(100, 0) == 100
