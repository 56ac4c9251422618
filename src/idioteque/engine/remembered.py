"""The outcomes that this process holds of runs that are not finished, so that a claim need not read them again.

They are kept as they are stored, in their encoded form, and decoded afresh in each replay: a function that changes a
value which it was given cannot change history.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from idioteque.store import Recorded, Started

REMEMBERED_BYTES_MAX = 64 * 1024 * 1024
OVERHEAD_BYTES = 300
"""What an outcome takes beside its payload, roughly."""


@dataclass(slots=True)
class _Past:
    """One run's outcomes without a gap, in the order of their `seq`."""

    epoch: int
    created_at_ms: int
    outcomes: list[Recorded]
    size_bytes: int = 0


class Remembered:
    """What one engine remembers of its store's runs, at most so many bytes, those used last; safe in threads."""

    def __init__(self, bytes_max: int = REMEMBERED_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._runs: OrderedDict[str, _Past] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, run_id: str) -> int:
        """Return the `seq` of the last outcome that is remembered of a run, 0 for none."""
        with self._lock:
            past = self._runs.get(run_id)
            return past.outcomes[-1].seq if past is not None else 0

    def completed(self, run_id: str, known: int, answer: Started) -> Started | None:
        """Return the answer to a claim that named `known`, with the whole history in it.

        None when what was remembered is not the history of this run (it was opened again, or is another one under the
        same name): then it is forgotten, and the claim must be made again without it.
        """
        if not known or (answer.outcomes and answer.outcomes[0].seq < known):  # the answer is whole
            return answer
        with self._lock:
            past = self._runs.get(run_id)
            if past is None or not _continues(past, known, answer):
                self._drop(run_id)
                return None
            earlier = past.outcomes[: _place(past.outcomes, known) + 1]
        return replace(answer, outcomes=[*earlier, *answer.outcomes[1:]])

    def learn(self, run_id: str, started: Started, later: Sequence[Recorded] = ()) -> None:
        """Remember a whole history, and of the outcomes that were recorded since those that follow without a gap."""
        with self._lock:
            past = self._runs.pop(run_id, None)
            if past is None or not _is_part_of(past.outcomes, started.outcomes):
                self._bytes -= past.size_bytes if past is not None else 0
                past = _Past(started.epoch, started.created_at_ms, [])
            fresh = list(started.outcomes[len(past.outcomes) :])
            last = started.outcomes[-1].seq if started.outcomes else 0
            for recorded in sorted(later, key=_seq):
                if recorded.seq != last + 1:
                    break
                last = recorded.seq
                fresh.append(recorded)
            past.outcomes += fresh
            size = sum(len(recorded.outcome.payload) + OVERHEAD_BYTES for recorded in fresh)
            past.size_bytes += size
            self._bytes += size
            if past.outcomes:
                self._runs[run_id] = past
            while self._bytes > self._bytes_max:
                self._drop(next(iter(self._runs)))

    def forget(self, run_id: str) -> None:
        """Let go of a run that has ended."""
        with self._lock:
            self._drop(run_id)

    def _drop(self, run_id: str) -> None:
        past = self._runs.pop(run_id, None)
        if past is not None:
            self._bytes -= past.size_bytes


def _continues(past: _Past, known: int, answer: Started) -> bool:
    """Whether an answer begins with the very outcome that was named, in the same run, opened as often."""
    if not answer.outcomes or (past.epoch, past.created_at_ms) != (answer.epoch, answer.created_at_ms):
        return False
    place = _place(past.outcomes, known)
    return place < len(past.outcomes) and past.outcomes[place] == answer.outcomes[0]


def _is_part_of(earlier: Sequence[Recorded], whole: Sequence[Recorded]) -> bool:
    """Whether a history begins with what was put together from the same objects before."""
    return not earlier or (len(earlier) <= len(whole) and whole[len(earlier) - 1] is earlier[-1])


def _place(outcomes: Sequence[Recorded], seq: int) -> int:
    """Return the index of an outcome: failures that were taken out leave gaps, so it may be below `seq` - 1."""
    place = min(seq, len(outcomes)) - 1
    while place >= 0 and outcomes[place].seq > seq:
        place -= 1
    return place if place >= 0 and outcomes[place].seq == seq else len(outcomes)


def _seq(recorded: Recorded) -> int:
    return recorded.seq
