"""Accepts messages: whoever publishes is answered after the commit, and calls that meet share one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from idioteque.database import Database, Transaction
from idioteque.errors import DatabaseFull
from idioteque.server.core.admission import Admission
from idioteque.server.core.allowance import Allowance
from idioteque.server.core.deliverer import Deliverer
from idioteque.server.core.loop import Gathering
from idioteque.server.errors import StorageFull
from idioteque.server.model import Accepted, Draft


class Publisher:
    """The one way in for messages from outside."""

    def __init__(self, database: Database, admission: Admission, deliverer: Deliverer, daily: Allowance) -> None:
        self._daily = daily
        self._database = database
        self._admission = admission
        self._deliverer = deliverer
        self._gathering: Gathering[Sequence[Draft], Sequence[Accepted]] = Gathering(self._accept)

    def check(self, draft: Draft) -> None:
        """Raise `QuotaExceeded` for a draft that lies too far in the future."""
        self._admission.check(draft)

    async def publish(self, drafts: Sequence[Draft]) -> Sequence[Accepted]:
        """Store messages, all in one transaction, and return what became of each, in order.

        Raise `StorageFull` when there is no room, `TooManyRequests` when the day's allowance is used up; then nothing
        is stored.
        """
        self._check(drafts)
        return await self._gathering.add(drafts)

    def begin(self, drafts: Sequence[Draft], tell: Callable[[Sequence[Accepted] | BaseException], None]) -> None:
        """Do as `publish`, and have `tell` called with what came of it, in a later turn of the loop."""
        self._check(drafts)
        self._gathering.put(drafts, tell)

    async def publish_with(self, drafts: Sequence[Draft], change: Callable[[Transaction, Sequence[str]], bool]) -> bool:
        """Store messages in one transaction with a change, which is told their ids and may say no.

        Return whether it said yes; if not, no message is stored. Raise like `publish`.
        """
        self._check(drafts)
        admitted = [self._admission.admit(draft) for draft in drafts]
        ids = [each.standing.message.id for each in admitted]
        try:
            accepted = await self._database.write(
                lambda tx: self._admission.store(tx, admitted) if change(tx, ids) else None
            )
        except BaseException:
            self._deliverer.abandoned(admitted)
            raise
        if accepted is None:
            self._deliverer.abandoned(admitted)
            return False
        self._deliverer.admitted(admitted, accepted)
        return True

    def _check(self, drafts: Sequence[Draft]) -> None:
        for draft in drafts:
            self._admission.check(draft)
        self._daily.take(len(drafts))

    async def _accept(self, calls: list[Sequence[Draft]]) -> list[Sequence[Accepted]]:
        admitted = [self._admission.admit(draft) for drafts in calls for draft in drafts]
        try:
            accepted = await self._database.write(lambda tx: self._admission.store(tx, admitted))
        except BaseException as error:
            self._deliverer.abandoned(admitted)
            if isinstance(error, DatabaseFull):
                raise StorageFull(
                    "there is no room left to store messages; nothing of this request was stored"
                ) from error
            raise
        self._deliverer.admitted(admitted, accepted)
        return _split(accepted, [len(drafts) for drafts in calls])


def _split(accepted: Sequence[Accepted], lengths: Sequence[int]) -> list[Sequence[Accepted]]:
    parts: list[Sequence[Accepted]] = []
    begin = 0
    for length in lengths:
        parts.append(accepted[begin : begin + length])
        begin += length
    return parts
