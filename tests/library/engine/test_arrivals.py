"""Outcomes that are recorded during a pass are let through as a beginning of the history, whoever recorded them."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from idioteque.engine.arrivals import Arrivals
from idioteque.store import Outcome, Recorded


def recorded(seq: int) -> Recorded:
    return Recorded((f"s{seq}",), Outcome(True, b"1"), seq)


@given(are_ours=st.lists(st.booleans(), max_size=12), chance=st.randoms(use_true_random=False))
def test_what_is_let_through_is_always_a_beginning(are_ours: list[bool], chance: random.Random) -> None:
    arrivals = Arrivals([recorded(1), recorded(2)])
    commits = [recorded(seq) for seq in range(3, 3 + len(are_ours))]
    ours = [each for each, is_ours in zip(commits, are_ours, strict=True) if is_ours]
    on_record: list[Recorded] = []
    unanswered: list[Recorded] = []
    shown: list[int] = []
    reads = 0
    for each in ours:
        arrivals.expect(each.path)
    while len(on_record) < len(commits) or unanswered:
        if len(on_record) < len(commits) and (not unanswered or chance.random() < 0.5):
            each = commits[len(on_record)]
            on_record.append(each)
            unanswered += [each] if each in ours else []
            continue
        answered = unanswered.pop(chance.randrange(len(unanswered)))
        shown += [each.seq for each in arrivals.add(answered)]
        while arrivals.is_missing:
            reads += 1
            shown += [each.seq for each in arrivals.fill([each for each in on_record if each.seq >= arrivals.last])]
        assert shown == list(range(3, 3 + len(shown)))
    assert set(shown) >= {each.seq for each in ours}, "nothing is held back for ever"
    assert reads <= len(commits) - len(ours), "nothing is read without a gap"


def test_a_gap_that_a_commit_on_the_way_may_fill_is_not_looked_into() -> None:
    arrivals = Arrivals([])
    arrivals.expect(("s1",))
    assert arrivals.add(recorded(2)) == ()
    assert not arrivals.is_missing
    assert [each.seq for each in arrivals.add(recorded(1))] == [1, 2]
    assert arrivals.last == 2


def test_a_gap_is_missing_once_nothing_is_on_the_way() -> None:
    arrivals = Arrivals([])
    arrivals.expect(("s3",))
    assert arrivals.add(recorded(2)) == ()
    arrivals.expect_no_more(("s3",))
    assert arrivals.is_missing


def test_a_gap_in_which_there_is_nothing_is_closed_for_good() -> None:
    """The failures of a run that was opened again leave such gaps."""
    arrivals = Arrivals([recorded(1)])
    assert arrivals.add(recorded(5)) == ()
    assert arrivals.fill([recorded(1)]) == (recorded(5),)
    assert (arrivals.last, arrivals.is_missing) == (5, False)
    assert arrivals.add(recorded(6)) == (recorded(6),)
