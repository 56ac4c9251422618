"""Who did what, when, and what came of it: a log line for each action, and the last ones in memory."""

from __future__ import annotations

import json
import logging
from collections import deque
from dataclasses import asdict, dataclass

from idioteque.clock import Clock

KEPT_MAX = 200
TEXT_LENGTH_MAX = 500

logger = logging.getLogger("idioteque.audit")


@dataclass(frozen=True, slots=True)
class Act:
    """One action; `what` is like `run.cancel`, `target` what it was done to, `outcome` what came of it in words."""

    at_ms: int
    who: str
    peer: str
    what: str
    target: str
    outcome: str


class Audit:
    """The trail of one console; the log has the whole of it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._acts: deque[Act] = deque(maxlen=KEPT_MAX)

    @property
    def acts(self) -> tuple[Act, ...]:
        """The last actions, the newest first."""
        return tuple(self._acts)

    def note(self, who: str, peer: str, what: str, target: str, outcome: str) -> None:
        """Write an action down."""
        act = Act(self._clock.now_ms(), who, peer, what, target[:TEXT_LENGTH_MAX], outcome[:TEXT_LENGTH_MAX])
        self._acts.appendleft(act)
        logger.info("%s", json.dumps(asdict(act)))
