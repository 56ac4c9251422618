"""What a doctor tells the console: findings, made by whoever puts the console together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, the verdict, what was seen, and what to do unless it is ok."""

    check: str
    verdict: Verdict
    seen: str
    advice: str = ""


Checkup = Callable[[str], Awaitable[Sequence[Finding]]]
"""Looks for what is wrong, in the name of a token; changes nothing."""
