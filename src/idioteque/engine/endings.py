"""How a pass over a function can end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from idioteque.paths import Path


@dataclass(frozen=True, slots=True)
class Postponed:
    """A step whose next attempt is due later than this delivery wants to wait."""

    path: Path
    attempts: int
    due_at_ms: int


@dataclass(frozen=True, slots=True)
class Returned:
    """The function came to its end."""

    value: object


@dataclass(frozen=True, slots=True)
class Raised:
    """The function raised."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Suspended:
    """Nothing more can move now: these steps are tried again later, these get deliveries of their own (with whether
    they may start at most once), and whether something else will wake the run. `has_left`: the deadline stopped it."""

    postponed: tuple[Postponed, ...]
    scheduled: Mapping[Path, bool]
    awaits: bool
    has_left: bool = False


@dataclass(frozen=True, slots=True)
class Concluded:
    """The one step that this pass was for has an outcome; `wake` is owed to the body, 0 when somebody else owes it."""

    wake: int


@dataclass(frozen=True, slots=True)
class Missing:
    """The function did not come to the one step that this pass was for."""


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """Somebody else holds the run, or it has ended."""


@dataclass(frozen=True, slots=True)
class Faulted:
    """The store failed; nothing is known but that the delivery must not be acknowledged."""

    error: BaseException


Ending = Returned | Raised | Suspended | Concluded | Missing | LeaseLost | Faulted
