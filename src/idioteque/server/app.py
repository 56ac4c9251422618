"""The only place that chooses concrete parts and wires them, and the order in which they start and stop."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from idioteque.clock import Clock, SystemClock
from idioteque.database import Database, SqliteDatabase, migrate, open_database, sqlite_path
from idioteque.errors import ConfigurationError, DatabaseBroken, DatabaseError
from idioteque.server.api.door import Door
from idioteque.server.api.metrics import registry_of
from idioteque.server.api.rest import build_rest
from idioteque.server.api.services import Services
from idioteque.server.config import ServerConfig
from idioteque.server.core.activity import Activity
from idioteque.server.core.admission import Admission
from idioteque.server.core.allowance import BURST, DAILY, Allowance
from idioteque.server.core.courier import Courier
from idioteque.server.core.credentials import Credentials, Environment, store_new_token
from idioteque.server.core.deliverer import Deliverer
from idioteque.server.core.destinations import Destinations
from idioteque.server.core.flow_control import FlowKeys
from idioteque.server.core.housekeeper import Housekeeper
from idioteque.server.core.loop import Duties
from idioteque.server.core.metrics import Metrics
from idioteque.server.core.operations import Operations
from idioteque.server.core.prober import Prober
from idioteque.server.core.publisher import Publisher
from idioteque.server.core.queues import Queues
from idioteque.server.core.resolution import Resolution
from idioteque.server.core.scheduler import Scheduler
from idioteque.server.core.schedules import Schedules
from idioteque.server.core.settlement import Settlement
from idioteque.server.core.status import Status
from idioteque.server.core.url_groups import UrlGroups
from idioteque.server.network import NetworkPolicy, RewritingTransport
from idioteque.server.wire.publish import Order, PublishReader
from idioteque.transport import HttpTransport, PooledTransport

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
MIGRATIONS = "idioteque.server.storage.migrations"
EVERYTHING = ("0.0.0.0/0", "::/0")


class Server:
    """A QStash-compatible server without its socket: an ASGI application in `app`, and what works behind it.

    Everything it needs from the world may be given; by default it is the real one. `environment` holds the
    `QSTASH_*` variables.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        database: Database | None = None,
        clock: Clock | None = None,
        transport: HttpTransport | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.config = config
        self.policy = NetworkPolicy(config.allow_private, dev=config.dev, url_bytes_max=config.url_bytes_max)
        self.clock = clock or SystemClock()
        self.database = database or open_database(config.database, durability=config.durability)
        self._transport = transport or reaching(config, self.policy)
        variables = os.environ if environment is None else environment
        self.credentials = Credentials(config, self.database, self.clock, Environment.of(variables))
        self.reader = PublishReader(config, self.policy)
        metrics = Metrics()
        self.activity = Activity(metrics, self.database, self.clock)
        self._destinations = Destinations(config.in_flight_max, config.destination_share)
        admission = Admission(config, self.clock, self._destinations)
        courier = Courier(config, self.clock, self._transport, self.credentials)
        self._prober = Prober(config, self.database, self.clock, self._transport, self._destinations)
        self.deliverer = Deliverer(
            config,
            self.database,
            self.clock,
            courier,
            self._destinations,
            Settlement(config, self.reader, admission),
            self._prober,
            metrics,
        )
        self._prober.woken = self.deliverer.note_due
        daily = Allowance(self.clock, "messages per day", config.messages_per_day_max, 86_400, DAILY)
        self.publisher = Publisher(self.database, admission, self.deliverer, daily)
        self.housekeeper = Housekeeper(config, self.database, self.clock)
        self.operations = Operations(config, self.database, self.clock, self.deliverer, metrics)
        self._duties = Duties(self.clock)
        self._accepting = False
        url_groups = UrlGroups(config, self.database, self.clock, self.reader)
        schedules = Schedules(config, self.database, self.clock, self.reader, url_groups, self.publisher)
        self.scheduler = Scheduler(config, self.database, self.clock, url_groups, self.publisher)
        schedules.changed = self.scheduler.note
        queues = Queues(config, self.database, self.clock, self.deliverer, self.operations, metrics)
        services = Services(
            operations=self.operations,
            credentials=self.credentials,
            is_ready=lambda: self._accepting,
            url_groups=url_groups,
            schedules=schedules,
            queues=queues,
            flow_keys=FlowKeys(self.database, self.clock, self.deliverer),
            global_parallelism=lambda: self.deliverer.parallelism,
            now_ms=self.clock.now_ms,
            registry=registry_of(metrics, self.deliverer, self.database),
            status=Status(config, self.database, self.clock, self.deliverer, metrics, self.activity),
            is_dev=config.dev,
        )
        rest = build_rest(services)
        management = Allowance(self.clock, "requests per second", config.management_per_s_max, 1, BURST)
        resolution = Resolution(config, self.policy)
        self.app = Door(
            config,
            self.credentials,
            url_groups,
            queues,
            schedules,
            self.publisher,
            rest,
            management,
            resolution,
            metrics,
        )

    async def start(self) -> None:
        """Take possession of the database, recover what an earlier process left, and begin to deliver.

        Raise `DatabaseError` when another process has the database or it cannot be used.
        """
        if isinstance(self.database, SqliteDatabase):
            self.database.lock_exclusively()
        await migrate(self.database, "server", MIGRATIONS)
        await self.credentials.load()
        await self.activity.load()
        await self.deliverer.recover()
        self._duties.start("deliverer", self.deliverer.run)
        self._duties.start("lease keeper", self.deliverer.keep_leases)
        self._duties.start("scheduler", self.scheduler.run)
        self._duties.start("housekeeper", self.housekeeper.run)
        self._duties.start("activity", self.activity.run)
        self._accepting = True

    async def stop(self) -> None:
        """Let attempts that are under way end within the grace, hand the other messages back, and close everything.

        Call it when no request can come any more.
        """
        self._accepting = False
        await self._duties.stop()
        await self._prober.stop()
        try:
            await self.deliverer.drain()
            with suppress(DatabaseError):  # figures are not worth a failure
                await self.activity.tick()
        except DatabaseBroken:
            pass  # what was in flight is sent again by the next process
        finally:
            await self._transport.close()
            await self.database.close()

    async def publish(
        self, url: str, *, body: bytes = b"", headers: Mapping[str, str] = NO_HEADERS, retries: int | None = None
    ) -> str:
        """Publish from inside the process, with the headers of the protocol; return the message id."""
        pairs = [(name.lower(), value) for name, value in headers.items()]
        if retries is not None:
            pairs.append(("upstash-retries", str(retries)))
        accepted = await self.publisher.publish((self.reader.draft(Order(url, pairs, body)),))
        return accepted[0].message_id


async def replace_token(url: str) -> str:
    """Give the server of a database a new token in place of its old one, and return it.

    Raise `ConfigurationError` when there is no such database, or a server runs on it.
    """
    if not _exists(url):
        raise ConfigurationError(f"there is no database {url}; name that of the server with --database")
    try:
        database = open_database(url)
        try:
            if isinstance(database, SqliteDatabase):
                database.lock_exclusively()
            await migrate(database, "server", MIGRATIONS)
            return await database.write(store_new_token)
        finally:
            await database.close()
    except DatabaseError as error:
        raise ConfigurationError(f"the database cannot be used: {error}") from error


def _exists(url: str) -> bool:
    return not url.startswith("sqlite:") or Path(sqlite_path(url)).exists()


def reaching(config: ServerConfig, policy: NetworkPolicy) -> HttpTransport:
    """Return the transport that reaches what the policy allows, and what the operator's rewrites name."""
    usual = PooledTransport(policy.check_address)
    if not config.rewrites:
        return usual
    named = NetworkPolicy(EVERYTHING)
    return RewritingTransport(usual, PooledTransport(named.check_address), config.rewrites)
