"""A dispatcher for those who only look at runs: nobody told them where messages go."""

from __future__ import annotations

from collections.abc import Sequence

from idioteque.dispatcher import Outgoing
from idioteque.durations import Duration
from idioteque.errors import ConfigurationError


class Unmounted:
    """Refuses to send, with a text that says what to give instead."""

    def __init__(self, refusal: str) -> None:
        self._refusal = refusal

    async def dispatch(
        self,
        data: object,
        *,
        retries: int | None = None,
        delay: Duration | None = None,
        deduplication_id: str | None = None,
    ) -> str:
        raise ConfigurationError(self._refusal)

    async def send(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        raise ConfigurationError(self._refusal)

    async def close(self) -> None:
        return
