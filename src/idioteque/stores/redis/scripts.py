"""The Lua of the run store: one script for each operation, each on one key, or on keys that lie in one slot."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from idioteque.records import ATTEMPTS_KEPT, DELIVERIES_KEPT
from idioteque.runlog import LINES_KEPT, LOG_BYTES_MAX
from idioteque.store import MAX_STRIKES, NEVER_MS, TAKEOVER_AFTER_MS

NUMBERS = {
    "{max_strikes}": MAX_STRIKES,
    "{takeover_after_ms}": TAKEOVER_AFTER_MS,
    "{never_ms}": NEVER_MS,
    "{attempts_kept}": ATTEMPTS_KEPT,
    "{deliveries_kept}": DELIVERIES_KEPT,
    "{lines_kept}": LINES_KEPT,
    "{log_bytes_max}": LOG_BYTES_MAX,
}
ON_A_RUN = ("rows", "rules")
ON_THE_INDEX = ("index",)
ON_THE_MAILBOX = ("mailbox",)


@dataclass(frozen=True, slots=True)
class Script:
    """A script as it is sent: its whole text, and the SHA-1 by which a server that knows it is asked to run it."""

    name: str
    text: str
    sha: str


def _script(name: str, *before: str) -> Script:
    folder = resources.files("idioteque.stores.redis") / "lua"
    text = "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in (*before, name))
    for name_of_number, number in NUMBERS.items():
        text = text.replace(name_of_number, str(number))
    return Script(name, text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324 - it is what the server computes


class Scripts:
    """Every script, read once for each store."""

    def __init__(self) -> None:
        self.claim, self.commit, self.begin, self.fail, self.schedule, self.sent = (
            _script(name, *ON_A_RUN) for name in ("claim", "commit", "begin", "fail", "schedule", "sent")
        )
        self.take, self.release, self.renew, self.watch = (
            _script(name, *ON_A_RUN) for name in ("take", "release", "renew", "watch")
        )
        self.trouble, self.cancel, self.reopen, self.seed = (
            _script(name, *ON_A_RUN) for name in ("trouble", "cancel", "reopen", "seed")
        )
        self.stalled, self.forget_sent, self.purge, self.note_lines = (
            _script(name, *ON_A_RUN) for name in ("stalled", "forget_sent", "purge", "note_lines")
        )
        self.enter, self.place, self.forget, self.page, self.aged = (
            _script(name, *ON_THE_INDEX) for name in ("enter", "place", "forget", "page", "aged")
        )
        self.arrive, self.letters, self.register, self.unwatch = (
            _script(name, *ON_THE_MAILBOX) for name in ("arrive", "letters", "register", "unwatch")
        )
        self.keep_event, self.occupy, self.dismiss, self.latest, self.took = (
            _script(name) for name in ("keep_event", "occupy", "dismiss", "latest", "took")
        )
        self.named, self.dismissed, self.vacate, self.drop = (
            _script(name) for name in ("named", "dismissed", "vacate", "drop")
        )
