"""A backup of a server at work, put in the place of what was lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from tests.destination import open_destination, until
from tests.processes import ServerProcess, start_server
from tests.server.test_process import call

BEFORE_THE_COPY = 200
TRIED_ON = {"Upstash-Retries": "1000", "Upstash-Retry-Delay": "500"}


def publishing(server: ServerProcess, url: str, accepted: list[str], stop: threading.Event) -> threading.Thread:
    """Publish messages, which are tried twice a second, until told to stop; keep the ids of the accepted ones."""

    def publish() -> None:
        while not stop.is_set():
            status, answer = call(server, "POST", f"/v2/publish/{url}", b"x", **TRIED_ON)
            assert status == 200
            accepted.append(str(answer["messageId"]))

    thread = threading.Thread(target=publish)
    thread.start()
    return thread


def test_what_was_accepted_before_a_copy_was_made_is_delivered_from_the_copy(tmp_path: Path) -> None:
    at_work, restored = tmp_path / "at work", tmp_path / "restored"
    at_work.mkdir()
    restored.mkdir()
    accepted: list[str] = []
    stop = threading.Event()
    with open_destination() as destination:
        destination.answer = lambda _: 503  # so all of them are still to be delivered
        server = start_server(at_work)
        thread = publishing(server, destination.url, accepted, stop)
        try:
            until(lambda: len(accepted) >= BEFORE_THE_COPY)
            copied = list(accepted)
            url, file = f"sqlite:///{at_work / 'server.db'}", str(restored / "server.db")
            subprocess.run([sys.executable, "-m", "idioteque", "backup", url, file], check=True, timeout=60)
            until(lambda: len(accepted) > len(copied) + 10)  # it goes on meanwhile and afterwards
        finally:
            stop.set()
            thread.join()
            server.kill()
        destination.received.clear()
        destination.answer = lambda _: 200
        again = start_server(restored)
        try:
            until(lambda: destination.message_ids.issuperset(copied))
        finally:
            assert again.stop() == 0
        assert {path.name for path in restored.iterdir()} == {"server.db", "server.db.lock"}
