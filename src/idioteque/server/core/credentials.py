"""The server's token and signing keys: where they come from at a start, who may do what, and rotation."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from idioteque.clock import Clock
from idioteque.database import Database, Transaction
from idioteque.environment import DEV_CURRENT_SIGNING_KEY, DEV_NEXT_SIGNING_KEY, DEV_TOKEN
from idioteque.ids import new_signing_key, new_token
from idioteque.server.config import ServerConfig
from idioteque.server.errors import TooManyRequests, Unauthorized
from idioteque.server.storage.settings import load_settings, save_settings

USER_ID = "idioteque"
PEERS_WATCHED_MAX = 10_000

TOKEN_SETTING = "token_sha256"  # noqa: S105 - a name
CURRENT_SETTING = "current_signing_key"
NEXT_SETTING = "next_signing_key"
ROTATED_SETTING = "signing_keys_rotated"

logger = logging.getLogger("idioteque.server")


class Role(Enum):
    """What a token allows."""

    ADMIN = "admin"
    READER = "reader"


@dataclass(frozen=True, slots=True)
class Environment:
    """The credentials that the environment gives; None for what it does not."""

    token: str | None = None
    readonly_token: str | None = None
    current_key: str | None = None
    next_key: str | None = None

    @staticmethod
    def of(variables: Mapping[str, str]) -> Environment:
        """Read the `QSTASH_*` variables; an empty one counts as missing."""
        return Environment(
            variables.get("QSTASH_TOKEN") or None,
            variables.get("QSTASH_READONLY_TOKEN") or None,
            variables.get("QSTASH_CURRENT_SIGNING_KEY") or None,
            variables.get("QSTASH_NEXT_SIGNING_KEY") or None,
        )


class Credentials:
    """Who may do what, and what deliveries are signed with. Tokens are kept and compared as digests only."""

    def __init__(self, config: ServerConfig, database: Database, clock: Clock, environment: Environment) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._environment = environment
        self._token_digest = b""
        self._readonly_digest = b""
        self._wrong: dict[str, tuple[int, int]] = {}
        self.current_key = ""
        self.next_key = ""
        self.new_token: str | None = None  # the token, if this start made one: to be shown once

    async def load(self) -> None:
        """Settle on credentials: the published ones under `--dev`, else what is stored, given, or made now."""
        if self._config.dev:
            self.current_key, self.next_key = DEV_CURRENT_SIGNING_KEY, DEV_NEXT_SIGNING_KEY
            self._token_digest = digest(DEV_TOKEN)
        else:
            await self._database.write(self._settle)
        if self._environment.readonly_token is not None:
            self._readonly_digest = digest(self._environment.readonly_token)

    async def rotate(self) -> None:
        """Make the next key the current one, and a fresh one the next; deliveries are signed anew from now on.

        Under `--dev` only until the process ends: a published key must never be found in a database later.
        """
        if self._config.dev:
            self.current_key, self.next_key = self.next_key, new_signing_key()
            return

        def operation(tx: Transaction) -> tuple[str, str]:
            stored = load_settings(tx)
            current, following = stored.get(NEXT_SETTING, self.next_key), new_signing_key()
            save_settings(tx, {CURRENT_SETTING: current, NEXT_SETTING: following, ROTATED_SETTING: "1"})
            return current, following

        self.current_key, self.next_key = await self._database.write(operation)

    def role(self, token: str | None, peer: str) -> Role:
        """Return what a token allows; raise `Unauthorized`, or `TooManyRequests` when a peer has guessed too often."""
        if token is not None:
            given = digest(token)
            # Both comparisons take the same time, whatever the token.
            is_admin = self.is_admin(given)
            is_reader = bool(self._readonly_digest) and hmac.compare_digest(given, self._readonly_digest)
            if is_admin:
                return Role.ADMIN
            if is_reader:
                return Role.READER
        self._count_wrong(peer)
        raise Unauthorized(
            "unauthorized: send the header `Authorization: Bearer <token>`"
            if token is None
            else "unauthorized: the token is not this server's"
        )

    def is_admin(self, token_digest: bytes) -> bool:
        """Whether a digest is that of the token that allows everything."""
        return hmac.compare_digest(token_digest, self._token_digest)

    def _count_wrong(self, peer: str) -> None:
        second = int(self._clock.monotonic_s())
        since, count = self._wrong.get(peer, (second, 0))
        count = count + 1 if since == second else 1
        if len(self._wrong) >= PEERS_WATCHED_MAX:
            self._wrong.clear()
        self._wrong[peer] = (second, count)
        if count > self._config.wrong_tokens_per_s_max:
            limit, reset_s = self._config.wrong_tokens_per_s_max, self._clock.now_ms() // 1000 + 1
            raise TooManyRequests(
                "too many requests with a wrong token from this address; wait a second",
                (
                    ("Burst-RateLimit-Limit", str(limit)),
                    ("Burst-RateLimit-Remaining", "0"),
                    ("Burst-RateLimit-Reset", str(reset_s)),
                ),
            )

    def _settle(self, tx: Transaction) -> None:
        stored, environment = load_settings(tx), self._environment
        changed: dict[str, str] = {}
        if environment.token is not None:
            self._token_digest = digest(environment.token)
        elif TOKEN_SETTING in stored:
            self._token_digest = bytes.fromhex(stored[TOKEN_SETTING])
        else:
            self.new_token = new_token(USER_ID)
            self._token_digest = digest(self.new_token)
            changed[TOKEN_SETTING] = self._token_digest.hex()
        self.current_key, self.next_key = self._keys(stored)
        changed[CURRENT_SETTING], changed[NEXT_SETTING] = self.current_key, self.next_key
        save_settings(tx, changed)

    def _keys(self, stored: Mapping[str, str]) -> tuple[str, str]:
        """Return the current and the next key; those of the environment hold until the first rotation."""
        given = (self._environment.current_key, self._environment.next_key)
        kept = (stored.get(CURRENT_SETTING), stored.get(NEXT_SETTING))
        if ROTATED_SETTING in stored:
            if given != (None, None) and given != kept:
                logger.warning(
                    "QSTASH_CURRENT_SIGNING_KEY and QSTASH_NEXT_SIGNING_KEY are stale: the keys were rotated, and the "
                    "stored pair is used; `idioteque keys show` prints it"
                )
            given = (None, None)
        return given[0] or kept[0] or new_signing_key(), given[1] or kept[1] or new_signing_key()


def store_new_token(tx: Transaction) -> str:
    """Make a token, which replaces the stored one, and return it; only its digest is stored."""
    token = new_token(USER_ID)
    save_settings(tx, {TOKEN_SETTING: digest(token).hex()})
    return token


def digest(token: str) -> bytes:
    """Return the SHA-256 of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
