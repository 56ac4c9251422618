"""What `idioteque doctor` looks at: the environment, the QStash, the clocks, the keys, and where things are kept."""

from __future__ import annotations

import asyncio
import json
import os
import platform
from collections.abc import AsyncGenerator, Mapping
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path
from typing import cast

import apsw

from idioteque.client import usable
from idioteque.clock import SystemClock
from idioteque.console.checkup import Checkup, Finding, Verdict
from idioteque.database import Transaction, open_database, sqlite_path
from idioteque.environment import Account, account_from, is_dev
from idioteque.errors import IdiotequeError, MissingExtra, TransportError, first_line
from idioteque.server.reporting import redacted
from idioteque.signing import LEEWAY_S
from idioteque.transport import HttpRequest, HttpResponse, HttpTransport, PooledTransport, origin

TIMEOUT_S = 10.0
SKEW_S_MAX = 5.0  # the date of an answer is in whole seconds, and an answer takes its time
SQLITE_SINCE = "3.51.3"  # older ones can corrupt a database with a write-ahead log
NETWORK_FILE_SYSTEMS = (
    *("9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs"),
    *("glusterfs", "lustre", "nfs", "nfs4", "ocfs2", "smb3", "smbfs"),
)
MOUNT_TABLE = Path("/proc/self/mounts")
NO_STORE = Finding("store", "warn", "none is named", "give --store URL or set IDIOTEQUE_STORE")


async def findings(environment: Mapping[str, str], store: str | None) -> AsyncGenerator[Finding, None]:
    """Yield what is found, each as soon as it is known; nothing that is looked at is changed."""
    for finding in _versions():
        yield finding
    account, found = _account(environment)
    yield found
    if account is not None:
        for finding in await _reached(account):
            yield finding
    places = (("store", store), ("database", environment.get("IDIOTEQUE_DATABASE", "").strip() or None))
    for check, url in places:
        if url is not None:
            yield await _place(check, url)
    if store is None:
        yield NO_STORE


def console_checkup(url: str, transport: HttpTransport | None, store: str | None) -> Checkup:
    """Return the doctor of a console: what can be seen from where it stands, without the variables of its process.

    `transport` reaches the API of this very process, whose clock is ours; None goes by the network.
    """

    async def look(token: str) -> list[Finding]:
        account = Account(url, token, None, None)
        found = await (_reached(account) if transport is None else _qstash(account, transport))
        # Receivers have the keys, not the console.
        left_out = {"signing keys"} if transport is None else {"signing keys", "clock"}
        shown = [*_versions(), *(one for one in found if one.check not in left_out)]
        shown.append(NO_STORE if store is None else await _place("store", store))
        return [Finding(one.check, one.verdict, redacted(one.seen), one.advice) for one in shown]

    return look


def _versions() -> list[Finding]:
    seen = f"idioteque {metadata.version('idioteque')}, Python {platform.python_version()}"
    sqlite = apsw.sqlite_lib_version()
    is_old = _numbers(sqlite) < _numbers(SQLITE_SINCE)
    return [
        Finding("versions", "ok", seen),
        Finding("sqlite", "warn", sqlite, f"install apsw {SQLITE_SINCE} or newer, with its own SQLite")
        if is_old
        else Finding("sqlite", "ok", sqlite),
    ]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])


def _account(environment: Mapping[str, str]) -> tuple[Account | None, Finding]:
    try:
        account = usable(account_from(environment))
    except IdiotequeError as error:
        return None, Finding("environment", "fail", first_line(error), "set the variable and look again")
    overruled = [name for name in ("QSTASH_URL", "QSTASH_TOKEN") if environment.get(name)]
    if is_dev(environment) and overruled:
        return account, Finding(
            "environment",
            "warn",
            f"QSTASH_DEV overrules {' and '.join(overruled)}",
            "unset QSTASH_DEV to reach the other QStash",
        )
    return account, Finding("environment", "ok", f"QStash at {origin(account.url)}")


async def _reached(account: Account) -> list[Finding]:
    transport = PooledTransport()
    try:
        return await _qstash(account, transport)
    finally:
        await transport.close()


async def _qstash(account: Account, transport: HttpTransport) -> list[Finding]:
    """Ask for the signing keys: one answer tells whether the server is there, takes the token, and has our time."""
    where = origin(account.url)
    request = HttpRequest("GET", f"{account.url}/v2/keys", [("Authorization", f"Bearer {account.token}")])
    try:
        answer = await transport.send(request, timeout_s=TIMEOUT_S)
    except TransportError as error:
        return [Finding("server", "fail", first_line(error), "start it, or correct QSTASH_URL")]
    return [_server(where, answer), *_clock(answer, SystemClock().now_ms()), *_keys(account, answer)]


def _server(where: str, answer: HttpResponse) -> Finding:
    if answer.ok:
        return Finding("server", "ok", f"{where} takes the token")
    if answer.status == 401:
        return Finding("server", "fail", f"{where} does not take the token", "correct QSTASH_TOKEN")
    if answer.status == 403:
        return Finding("server", "warn", f"{where} gives the token no right to see keys", "use the token of an admin")
    return Finding("server", "fail", f"{where} answered {answer.status}", "is QSTASH_URL that of a QStash?")


def _clock(answer: HttpResponse, now_ms: int) -> list[Finding]:
    stated = next((value for name, value in answer.headers if name.lower() == "date"), None)
    try:
        skew_s = parsedate_to_datetime(stated or "").timestamp() + 0.5 - now_ms / 1000
    except ValueError:
        return [Finding("clock", "warn", "the server tells no time", "compare the clocks by hand")]
    if abs(skew_s) <= SKEW_S_MAX:
        return [Finding("clock", "ok", "as the server's")]
    verdict: Verdict = "fail" if abs(skew_s) >= LEEWAY_S else "warn"
    relation = "behind" if skew_s > 0 else "ahead of"
    return [
        Finding(
            "clock",
            verdict,
            f"{abs(skew_s):.0f} s {relation} the server's",
            f"set both by NTP: signatures that are {LEEWAY_S} s from the future are refused",
        )
    ]


def _keys(account: Account, answer: HttpResponse) -> list[Finding]:
    """Compare the keys; a receiver takes what is signed with either of its two."""
    if not answer.ok:
        return []
    try:
        told = cast("object", json.loads(answer.body))
    except (ValueError, RecursionError):
        told = None
    current = cast("dict[str, object]", told).get("current") if isinstance(told, dict) else None
    if not isinstance(current, str):
        return [Finding("signing keys", "fail", "the server tells none", "is QSTASH_URL that of a QStash?")]
    ours = (account.current_signing_key, account.next_signing_key)
    advice = "set QSTASH_CURRENT_SIGNING_KEY and QSTASH_NEXT_SIGNING_KEY as `idioteque keys show` prints them"
    if ours == (None, None):
        return [Finding("signing keys", "warn", "none are set, so deliveries cannot be verified", advice)]
    if current == ours[0]:
        return [Finding("signing keys", "ok", "as the server's")]
    if current == ours[1]:
        return [Finding("signing keys", "warn", "were rotated; the next rotation would shut us out", advice)]
    return [Finding("signing keys", "fail", "are not the server's: every delivery would be refused", advice)]


# ---- where things are kept


class _Undone(Exception):
    """Ends a transaction that was only a trial."""


async def _place(check: str, url: str) -> Finding:
    try:
        if url.startswith("memory:"):
            return Finding(check, "warn", "in memory", "runs end with the process; name a file or a server")
        if url.startswith(("redis:", "rediss:")):
            return await _redis(check, url)
        if url.startswith("sqlite:"):
            hindrance = _hindrance(check, sqlite_path(url))
            if hindrance is not None:
                return hindrance
        await _try_to_write(url)
        return Finding(check, "ok", "can be written")
    except IdiotequeError as error:
        return Finding(check, "fail", first_line(error), "correct it as the text says, and look again")


def _hindrance(check: str, path: str) -> Finding | None:
    """Return why a SQLite file cannot be tried, or should not be; None when it can."""
    folder = Path(path).absolute().parent
    if MOUNT_TABLE.exists():
        kind = network_file_system(folder, MOUNT_TABLE.read_text(errors="replace"))
        if kind is not None:
            return Finding(check, "fail", f"{path} is on {kind}", "keep it on a disk of this host, or use PostgreSQL")
    if not Path(path).exists():
        if os.access(folder, os.W_OK | os.X_OK):
            return Finding(check, "warn", f"there is no file {path} yet", "none is needed before the first start")
        return Finding(check, "fail", f"{path} cannot be made", f"make the folder {folder} and let this user write")
    return None


async def _try_to_write(url: str) -> None:
    """Make a table and undo it; raise `DatabaseError` when that cannot be done."""

    def trial(tx: Transaction) -> None:
        # A name of its own: the trial must not meet a table that is there.
        tx.execute("CREATE TABLE idioteque_doctor_trial (id BIGINT)")
        raise _Undone

    database = open_database(url)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await database.write(trial)
    except _Undone:
        return
    except TimeoutError:
        raise IdiotequeError(f"not written within {TIMEOUT_S:g} s") from None
    finally:
        await database.close()


async def _redis(check: str, url: str) -> Finding:
    try:
        from idioteque.stores.redis.server import RedisServer
    except ImportError as error:
        raise MissingExtra("a Redis store", "redis") from error
    server = RedisServer(url)
    try:
        # The first command of a connection also refuses a server that would throw runs away.
        await server.read([["SET", f"{server.options.prefix}:doctor", 1, "PX", 1000]])
    finally:
        await server.close()
    return Finding(check, "ok", f"Redis at {server.name}, can be written, evicts nothing")


def network_file_system(folder: Path, mount_table: str) -> str | None:
    """Return the kind of the network file system that a folder is on, by `/proc/self/mounts`; None for a disk."""
    found = ("", "")
    for line in mount_table.splitlines():
        words = line.split()
        if len(words) < 3:
            continue
        point = words[1].replace("\\040", " ")
        if folder.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, words[2])
    return found[1] if found[1] in NETWORK_FILE_SYSTEMS else None
