"""Paths as text: whatever keys a step has, its text names that step alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idioteque import InvalidValue
from idioteque.paths import KEY_LENGTH_MAX, checked_key, path_of, path_text

keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
paths = st.lists(keys, max_size=5).map(tuple)


@given(paths)
def test_a_path_is_read_as_it_was_written(path: tuple[str, ...]) -> None:
    assert path_of(path_text(path)) == path


@given(paths, paths)
def test_two_paths_never_have_one_text(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert (path_text(one) == path_text(other)) is (one == other)


@given(paths)
def test_a_text_holds_no_control_character(path: tuple[str, ...]) -> None:
    assert not [character for character in path_text(path) if character < " " or character == "\x7f"]


@pytest.mark.parametrize("key", ["a", " ", "a/b", "%", "\x00", "é", "x" * KEY_LENGTH_MAX])
def test_any_text_is_a_key(key: str) -> None:
    assert checked_key(key) == key


@pytest.mark.parametrize("key", ["", "x" * (KEY_LENGTH_MAX + 1), "\ud800", None, 5, b"a", ("a",)])
def test_what_is_no_text_or_too_long_is_no_key(key: Any) -> None:
    with pytest.raises(InvalidValue):
        checked_key(key)
