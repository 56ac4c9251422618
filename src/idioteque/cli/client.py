"""The QStash that a command's environment names."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from idioteque.client import QStash, Query
from idioteque.environment import account_from
from idioteque.transport import PooledTransport

Result = TypeVar("Result")


@asynccontextmanager
async def connected(environment: Mapping[str, str]) -> AsyncGenerator[QStash, None]:
    """Yield the QStash that the environment names and let go of its connections afterwards."""
    transport = PooledTransport()
    try:
        yield QStash(account_from(environment), transport)
    finally:
        await transport.close()


def ask(act: Callable[[QStash], Awaitable[Result]]) -> Result:
    """Return the result of an action on the QStash that the process's environment names."""

    async def run() -> Result:
        async with connected(os.environ) as qstash:
            return await act(qstash)

    return asyncio.run(run())


def ask_each(names: Sequence[str], *acts: Callable[[QStash, str], Awaitable[object]]) -> None:
    """Do all of this to one name after the other, on the QStash that the process's environment names."""

    async def act(qstash: QStash) -> None:
        for name in names:
            for one in acts:
                await one(qstash, name)

    ask(act)


async def dead_letter_ids(qstash: QStash, filters: Query) -> list[str]:
    """Return the ids of all dead letters that fit; those that come later are not among them."""
    ids: list[str] = []
    cursor: str | None = None
    while True:
        page = await qstash.dead_letters(filters, cursor)
        ids += [str(entry.get("dlqId", "")) for entry in page.entries]
        cursor = page.cursor
        if cursor is None:
            return list(dict.fromkeys(ids))
