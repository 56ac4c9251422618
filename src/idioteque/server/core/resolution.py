"""The check that a setting adds: a destination's name must resolve when it is published, to addresses that are allowed.

Without it, a name is judged only at each attempt, so that what is published may come to exist later.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from idioteque.errors import AddressDenied
from idioteque.server.config import ServerConfig
from idioteque.server.errors import BadRequest
from idioteque.server.model import Draft
from idioteque.server.network import NetworkPolicy, split_url
from idioteque.transport import resolve


class Resolution:
    """Looks destinations up, if `resolve_at_publish` says so; what the operator rewrites needs no name."""

    def __init__(self, config: ServerConfig, policy: NetworkPolicy) -> None:
        self.is_wanted = config.resolve_at_publish
        self._policy = policy
        self._rewritten = {source.rstrip("/").lower() for source, _ in config.rewrites}

    async def check(self, drafts: Sequence[Draft]) -> None:
        """Raise `BadRequest` for the first destination that does not resolve, or not to where it may."""
        for url in dict.fromkeys(draft.url for draft in drafts):
            if split_url(url).origin not in self._rewritten:
                await self._check(url)

    async def _check(self, url: str) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        try:
            await resolve(host, parts.port or (443 if parts.scheme == "https" else 80), self._policy.check_address)
        except AddressDenied as error:
            raise BadRequest(str(error)) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise BadRequest(
                f"invalid destination url: unable to resolve host: lookup {host[:255]}: {reason}"
            ) from None
