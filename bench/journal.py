"""What functions under measure note as they run: one record a mark, appended to a file that outlives a kill.

It runs inside the peers' environments as well, so it needs nothing but the standard library.
"""

from __future__ import annotations

import os
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

RECORD = struct.Struct("<qqq")  # number of the run, mark, monotonic time in ns
BEGAN, ENDED = -1, -2  # marks of a function's body; the marks of steps are their places, from 0


class Journal:
    """The writer's side; a record is one write, about two microseconds."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def note(self, number: int, mark: int) -> None:
        """Add a record; the clock is one for all processes of a machine."""
        os.write(self._file, RECORD.pack(number, mark, time.monotonic_ns()))


@dataclass
class JournalReader:
    """The measuring side. Of a mark that was noted several times, as on a replay, the first time counts."""

    path: Path
    began_ns: dict[int, int] = field(default_factory=dict[int, int])
    ended_ns: dict[int, int] = field(default_factory=dict[int, int])
    steps: Counter[tuple[int, int]] = field(default_factory=Counter[tuple[int, int]])
    """How often the body of each step of each run was run."""
    _offset: int = 0

    def read(self) -> None:
        """Take in what was written since the last time."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            written = file.read()
        whole = len(written) // RECORD.size * RECORD.size
        self._offset += whole
        for number, mark, at_ns in RECORD.iter_unpack(written[:whole]):
            if mark == BEGAN:
                self.began_ns.setdefault(number, at_ns)
            elif mark == ENDED:
                self.ended_ns.setdefault(number, at_ns)
            else:
                self.steps[number, mark] += 1
