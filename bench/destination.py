"""A destination that does nothing: it answers 200 to everything and counts, in the journal, what it was sent."""

from __future__ import annotations

import asyncio
import itertools
import os

from bench.journal import ENDED, Journal
from bench.orders import run
from bench.wire import OK, Framing


async def main() -> None:
    journal, numbers = Journal(os.environ["BENCH_JOURNAL"]), itertools.count(1)

    class Destination(Framing):
        def message_received(self, head: bytes, body: bytes) -> None:
            journal.note(next(numbers), ENDED)
            self.send(OK)

    server = await asyncio.get_running_loop().create_server(Destination, "127.0.0.1", int(os.environ["BENCH_PORT"]))
    await server.serve_forever()


if __name__ == "__main__":
    run(main)
